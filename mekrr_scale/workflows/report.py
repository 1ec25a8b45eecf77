"""What a loop came to: figures of every generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from mekrr_scale.figures import Shown, TextTable
from mekrr_scale.files import Document

SCHEMA = "mekrr-scale learn 1.0"  # of the JSON: keys may be added to it, not taken away
UNITS = {
    "errors": "meV/atom, meV/angstrom, cross-validated",
    "new": "meV/atom, meV/angstrom, of the model before on the new frames",
    "test": "meV/atom, meV/angstrom",
    "ps": "ps until the grade was exceeded",
}
State = Literal["converged", "budget", "waiting", "exhausted"]


@dataclass(frozen=True, repr=False)
class LearnReport(Shown):
    """How far a loop is.

    ``state`` is ``converged`` (no run exceeded the grade), ``budget`` (all generations are made), ``waiting`` (for
    labels that somebody else makes) or ``exhausted`` (runs stop on frames that have labels already).
    """

    folder: Path
    state: State
    generations: Sequence[Document]  # figures of each
    waits_for: Path | None = None  # the labelled frames
    selected: Path | None = None  # the frames to label

    @property
    def model(self) -> Path | None:
        """The last model; None before there is one."""
        path = self.folder / "model.mekrr"
        return path if path.exists() else None

    def headline(self) -> str:
        count = f"{len(self.generations)} generation{'s' * (len(self.generations) != 1)}"
        if self.state == "waiting":
            return (
                f"{self.folder}: {count}; label the frames of {self.selected}, write them to {self.waits_for}, and run "
                "the same command again"
            )
        said = {
            "converged": "no run exceeded the grade",
            "budget": "runs still exceed the grade after the last generation; raise generations to go on",
            "exhausted": "runs stop on frames that have labels already; raise explore.grade, or take other starts",
        }[self.state]
        return f"{self.model}: {count}; {said}"

    def tables(self) -> list[TextTable]:
        """A line for each generation."""
        columns = (
            "generation",
            "frames",
            "cv energy",
            "cv force",
            "new force",
            "test energy",
            "test force",
            "ps",
            "grade",
        )
        caption = (
            "RMSE, meV/atom and meV/A; new: of the model before on the new frames; ps: shortest run; grade: largest in "
            "the runs"
        )
        rows = tuple(_row(figures) for figures in self.generations)
        return [TextTable("", columns, rows, caption, left=())] if rows else []

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it."""
        return {
            "schema": SCHEMA,
            "state": self.state,
            "generations": list(self.generations),
            "waits_for": None if self.waits_for is None else str(self.waits_for),
            "units": UNITS,
        }


def _row(figures: Document) -> tuple[str, ...]:
    known: dict[str, Any] = dict(figures)
    runs = cast("Sequence[Mapping[str, Any]]", known["explored"])
    grades = [run["largest_grade"] for run in runs if run["largest_grade"] is not None]
    return (
        str(known["generation"]),
        str(known["frames"]),
        _number(known["errors"], "energy_rmse"),
        _number(known["errors"], "force_rmse"),
        _number(known.get("new"), "force_rmse"),
        _number(known.get("test"), "energy_rmse"),
        _number(known.get("test"), "force_rmse"),
        f"{min((float(run['ps']) for run in runs), default=0.0):.3g}",
        f"{max(grades):.2f}" if grades else "-",
    )


def _number(table: Mapping[str, Any] | None, name: str) -> str:
    value = None if table is None else table.get(name)
    return "-" if value is None else f"{float(value):.3g}"

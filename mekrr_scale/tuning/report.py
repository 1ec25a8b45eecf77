"""What a tuning found: tables, a figure, and a paragraph that says what limits the error and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mekrr_scale.figures import Shown, TextTable, projection_axes
from mekrr_scale.files import Document
from mekrr_scale.pipeline import FitPlan
from mekrr_scale.plans import to_dict
from mekrr_scale.tuning.arms import Arm
from mekrr_scale.tuning.features import Amount
from mekrr_scale.tuning.journal import number, shown_time
from mekrr_scale.tuning.scores import Score, fitted, shown_errors, slope

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEMA = "mekrr-scale tune 1.0"  # of the JSON: keys may be added to it, not taken away
_STEEP = 0.93  # what twice the data would leave of the error: below it data are what lacks
_PAYS = 0.95  # the same of landmarks
_TOLD = 3  # sets of the test that a paragraph names


@dataclass(frozen=True, repr=False)
class TuneReport(Shown):
    """What was tried, what was taken, and how good it is."""

    folder: Path
    arm: Arm  # the winner
    scores: Sequence[Score]
    finals: Sequence[Score]  # of the leaders on all data that there was time for, the best first
    amount: Amount
    steps: Sequence[Document]  # fits of the winner to all of its features
    plan: FitPlan  # of the model
    validation: Mapping[str, float]  # cross-validated errors of the model, eV and angstrom
    metrics: Mapping[str, float]  # of the test, in meV; empty without one
    coverage: Mapping[str, float]
    tested: int  # structures
    data: Mapping[str, int]
    limited: bool  # there was no time for more landmarks
    remarks: Sequence[str]
    seconds: float
    unphysical: Sequence[str] = ()  # what the quick checks found
    warnings: Sequence[str] = ()  # of the test: sets unlike the training data, mean errors outside of their intervals

    @property
    def model(self) -> Path:
        """The model's file."""
        return self.folder / "model.mekrr"

    @property
    def config(self) -> Path:
        """What repeats the fit."""
        return self.folder / "config.toml"

    @property
    def with_twice_the_data(self) -> float | None:
        """What twice the frames would leave of the error, by the winner's learning curve; None without one."""
        if len({score.frames for score in self.scores if not score.failed}) < 2:
            return None
        own = [score for score in self.scores if score.arm == self.arm and not score.failed]
        steepness = fitted(own) if len({score.frames for score in own}) > 2 else slope(self.scores)
        return float(2.0 ** -max(steepness, 0.0))

    @property
    def by_the_last_landmarks(self) -> float:
        """What the last increase of the landmarks left of the error; 1 where there was none."""
        pairs = [(a, b) for a, b in pairwise(self.steps) if number(b, "landmarks") > number(a, "landmarks")]
        if not pairs:
            return 1.0
        before, after = (number(step, "compared") for step in pairs[-1])
        return after / before

    def headline(self) -> str:
        tested = f"; test: {self._test_errors()}" if self.metrics else ""
        return f"{self.model}: {self.arm.name}, cross-validated RMSE {shown_errors(self.validation)}{tested}"

    def _test_errors(self) -> str:
        units = {"energy": "meV/atom", "force": "meV/A", "stress": "meV/A^3"}
        pieces = [
            f"{kind} MAE {self.metrics[f'{kind}_mae']:.3g}, RMSE {self.metrics[f'{kind}_rmse']:.3g} {unit}"
            for kind, unit in units.items()
            if f"{kind}_mae" in self.metrics
        ]
        return "; ".join(pieces)

    def tables(self) -> list[TextTable]:
        """The race, the fits of the winner, and the test."""
        race = [
            (score.arm.name, str(score.frames), score.directions, score.failed or shown_errors(score.errors))
            for score in (*self.scores, *self.finals)
        ]
        fits = [
            (
                str(step["landmarks"]),
                str(step["standardize"]),
                str(step["length_scale"]),
                f"{step['alpha']:g}",
                str(step["baseline"]),
                shown_errors(cast("dict[str, float]", step["errors"])),
            )
            for step in self.steps
        ]
        names = ("landmarks", "standardize", "length scale", "alpha", "baseline", "cross-validated RMSE")
        return [
            TextTable("Race", ("network", "frames", "directions", "cross-validated RMSE"), tuple(race), left=(0, 3)),
            TextTable("Fits of the winner", names, tuple(fits), left=(1, 2, 4, 5)),
        ]

    def words(self) -> str:
        """What was tried, what limits the error, and what to do next."""
        return " ".join(self._sentences())

    def _sentences(self) -> Iterator[str]:
        tried = len({score.arm for score in self.scores})
        full = f" (of {len(self.finals)} that were tried in full)" if len(self.finals) > 1 else ""
        yield (
            f"{tried} kind{'s' * (tried > 1)} of features raced on up to {max(s.frames for s in self.scores)} of "
            f"{self.data['frames']} frames; {self.arm.name} won{full}. The model has {self.plan.landmarks.count} "
            f"landmarks on {self.amount.used} frames (directions: {self.amount.along}) and was made in "
            f"{shown_time(self.seconds)}."
        )
        yield f"Cross-validated RMSE: {shown_errors(self.validation)}."
        if self.metrics:
            yield f"On {self.tested} frames that nothing was chosen by: {self._test_errors()}."
        yield from self._limits()
        if self.unphysical:
            yield f"Not physical: {'; '.join(self.unphysical)} (`mekrr-scale check` tells more)."

    def _limits(self) -> Iterator[str]:
        data, marks = self.with_twice_the_data, self.by_the_last_landmarks
        if lacking := self._short_of_time():
            yield (f"Time was the limit: {lacking}; give a longer --budget (the same command goes on), or more cores.")
        elif marks < _PAYS and (data is None or marks <= data):
            yield (
                f"Landmarks are the limit: the last increase took {100 * (1 - marks):.0f} % off the error; allow more "
                "(--landmarks) or more time (--budget)."
            )
        elif data is None:
            yield "One subset alone was tried, so that nothing tells what more frames would do."
        elif data < _STEEP:
            yield (
                f"Data are the limit: twice the frames would leave about {100 * data:.0f} % of the error; add frames "
                "where the model is unsure (`mekrr-scale select`)."
            )
        else:
            yield (
                "Neither more frames nor more landmarks would help much: features or labels are the limit; fine-tune "
                "the network (`mekrr-scale finetune`) and tune with its checkpoint, and look at how converged the "
                "labels are."
            )
        if not self.data["with_forces"]:
            yield "There were no forces to learn from; with them, far fewer frames would do."
        yield from (f"Test, {warning}." for warning in self.warnings[:_TOLD])
        if more := len(self.warnings[_TOLD:]):
            yield f"So is it with {more} more of its sets (test.json)."
        within = self.coverage.get("within_95")
        if within is not None and within < 0.85:
            yield f"The 95 % intervals hold {100 * within:.0f} % of the test's errors: they are too narrow for it."

    def _short_of_time(self) -> str:
        """What there was no time for."""
        if self.amount.used < self.data["frames"]:
            return f"{self.data['frames'] - self.amount.used} frames were not used"
        if self.amount.others:
            return f"of {self.amount.used - self.amount.frames} frames energies alone were used"
        return f"more than {self.plan.landmarks.count} landmarks were not tried" if self.limited else ""

    def to_dict(self) -> dict[str, object]:
        """What ``tune.json`` holds."""
        return {
            "schema": SCHEMA,
            "winner": dict(self.arm.document()),
            "frames": dict(self.data),
            "directions": self.amount.directions,
            "race": [_plain(score) for score in self.scores],
            "finals": [_plain(score) for score in self.finals],
            "fits": [dict(step) for step in self.steps],
            "plan": to_dict(self.plan),
            "validation": dict(self.validation),
            "test": {
                "structures": self.tested,
                "metrics": dict(self.metrics),
                "coverage": dict(self.coverage),
                "warnings": list(self.warnings),
            },
            "with_twice_the_data": self.with_twice_the_data,
            "by_the_last_landmarks": self.by_the_last_landmarks,
            "limited": self.limited,
            "seconds": self.seconds,
            "remarks": list(self.remarks),
            "unphysical": list(self.unphysical),
            "summary": self.words(),
        }

    def plot(self, axes: Axes | None = None) -> Axes:
        """Cross-validated errors of the candidates against the number of frames."""
        curves: dict[str, list[tuple[int, float]]] = {}
        for score in self.scores:
            if not score.failed:
                curves.setdefault(score.arm.name, []).append((score.frames, 1e3 * score.value))
        last = 1e3 * min(number(step, "compared") for step in self.steps)
        kinds = {name.removesuffix("_rmse") for name in self.validation}
        label = "energy RMSE (meV/atom)" if kinds == {"energy"} else "geometric mean of energy and force RMSE (meV)"
        finals = {score.arm.name: (score.frames, 1e3 * score.value) for score in self.finals}
        return projection_axes(curves, finals, self.arm.name, (self.amount.used, last), label, axes)


def _plain(score: Score) -> Document:
    found: Document = {"failed": score.failed} if score.failed else {"rmse": score.errors, "compared": score.value}
    return {"network": score.arm.name, "frames": score.frames, "directions": score.directions, **found}

"""Models of several systems on the data of all of them: what transfers to what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.arrays import beyond_composition
from mekrr_scale.figures import Shown, TextTable, heat_axes, new_axes
from mekrr_scale.pipeline.evaluation.report import Evaluation
from mekrr_scale.regression import UNITS, Errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELS = {
    "energy_rmse": f"energy RMSE ({UNITS['energy'].symbol})",
    "energy_rmse_shifted": "after a shift per element",
    "force_rmse": f"force RMSE ({UNITS['force'].symbol})",
}


@dataclass(frozen=True, repr=False)
class TransferTable(Shown):
    """Errors of every model (row) on every data set (column); NaN where a model lacks an element.

    Energies of another system, functional or code differ by reference energies that no model can
    know: ``shifted`` errors are those that remain after energies per species are fitted to the
    difference.
    """

    sources: Sequence[str]
    targets: Sequence[str]
    metrics: Mapping[str, Float64[ndarray, "sources targets"]]  # as ``Evaluation.metrics``, and energy_rmse_shifted

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it, with null for empty cells."""
        cells = {
            name: [[None if np.isnan(value) else float(value) for value in row] for row in values]
            for name, values in self.metrics.items()
        }
        units = {name: UNITS[name].text for name in ("energy", "force")}
        return {"sources": list(self.sources), "targets": list(self.targets), **cells, "units": units}

    def headline(self) -> str:
        return f"Errors of {len(self.sources)} models on {len(self.targets)} data sets"

    def tables(self) -> list[TextTable]:
        """Models in rows, data in columns."""
        rows = []
        for i, source in enumerate(self.sources):
            cells = []
            for j in range(len(self.targets)):
                values = [self.metrics[name][i, j] for name in _LABELS]
                cells.append(" / ".join("-" if np.isnan(value) else f"{value:.3g}" for value in values))
            rows.append((source, *cells))
        energy, force = UNITS["energy"].text, UNITS["force"].text
        return [
            TextTable(
                "Transfer: models (rows) on data (columns)",
                ("model", *self.targets),
                tuple(rows),
                f"RMSE: energy ({energy}) / energy after a shift per element / forces ({force})",
            )
        ]

    def plot(self, axes: Sequence[Axes] | None = None) -> list[Axes]:
        """The same as colours, a panel for each quantity that is there."""
        shown = [(name, label) for name, label in _LABELS.items() if not np.isnan(self.metrics[name]).all()]
        width, height = 1.6 + 1.1 * len(self.targets), 1.4 + 0.7 * len(self.sources)
        found = list(axes or new_axes(width * len(shown), height, len(shown)))
        for panel, (name, label) in zip(found, shown, strict=False):
            heat_axes(self.metrics[name], self.sources, self.targets, label, panel)
        return found


def transfer_table(
    sources: Sequence[str], targets: Sequence[str], evaluations: Mapping[tuple[int, int], Evaluation]
) -> TransferTable:
    """A table of evaluations.

    Args:
        evaluations: by places of source and target; pairs that cannot be evaluated are left out.
    """
    names = ("energy_mae", "energy_rmse", "energy_rmse_shifted", "force_mae", "force_rmse")
    found = {name: np.full((len(sources), len(targets)), np.nan) for name in names}
    for (i, j), evaluation in evaluations.items():
        metrics = {**evaluation.metrics(), "energy_rmse_shifted": shifted_rmse(evaluation)}
        for name in names:
            found[name][i, j] = metrics.get(name, np.nan)
    return TransferTable(sources, targets, found)


def shifted_rmse(evaluation: Evaluation) -> float:
    """RMSE of energies (meV/atom) after energies per species are fitted to the difference."""
    fractions = torch.from_numpy(evaluation.counts / evaluation.n_atoms[:, None])
    error = torch.from_numpy((evaluation.energy_predicted - evaluation.energy) / evaluation.n_atoms)
    left = beyond_composition(error, fractions)
    errors = Errors.of_sums(len(left), float(left.abs().sum()), float(left.square().sum()))
    return errors.scaled(UNITS["energy"].factor).rmse

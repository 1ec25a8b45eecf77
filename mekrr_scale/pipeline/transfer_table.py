"""Models of several systems on the data of all of them: what transfers to what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.baselines import beyond_composition
from mekrr_scale.pipeline.evaluate import Evaluation


@dataclass(frozen=True)
class TransferTable:
    """Errors of every model (row) on every data set (column); NaN where a model lacks an element.

    Energies of another system, functional or code differ by reference energies that no model can
    know: ``shifted`` errors are those that remain after energies per species are fitted to the
    difference.
    """

    sources: Sequence[str]
    targets: Sequence[str]
    metrics: Mapping[str, Float64[ndarray, "sources targets"]]  # as ``Evaluation.metrics``, and energy_rmse_shifted

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it, with null for empty cells."""
        cells = {
            name: [[None if np.isnan(value) else float(value) for value in row] for row in values]
            for name, values in self.metrics.items()
        }
        return {"sources": list(self.sources), "targets": list(self.targets), **cells}


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
    return 1e3 * float(beyond_composition(error, fractions).square().mean().sqrt())

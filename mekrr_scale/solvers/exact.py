"""MEKRR as published: all training structures are landmarks, the kernel matrix is dense.

The reference that everything else is measured against: O(n^2) memory and O(n^3) time.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mekrr_scale.baselines import Baseline
from mekrr_scale.errors import ConfigError
from mekrr_scale.solvers.direct import check_ridges, refit_shift
from mekrr_scale.solvers.solution import Path, PathPoint, Result, Solution


@final
@dataclass(frozen=True)
class Exact:
    """Dense kernel ridge regression: c = (K + lambda W^-1)^-1 y.

    It minimises the same objective as the other solvers, energies only.

    Args:
        ridges: total ridges lambda to try.
        ridge: take this one instead of the best.
    """

    ridges: tuple[float, ...]
    ridge: float | None = None

    def __post_init__(self) -> None:
        check_ridges(self.ridges if self.ridge is None else (self.ridge, *self.ridges))

    def solve(
        self,
        gram: Float64[Tensor, "structures structures"],
        target: Float64[Tensor, " structures"],
        weight: Float64[Tensor, " structures"],
        counts: Float64[Tensor, "structures species"],
        scale: Float64[Tensor, " structures"],
        baseline: Baseline,
        fold: Int64[Tensor, " structures"] | None = None,
    ) -> Solution:
        """Solve; with folds, choose the ridge by the cross-validated error.

        Args:
            gram: K of the training structures.
            target: residual labels; per atom for ``mean`` (their ``scale`` is 1/n).
            counts: species counts, from which each fold's baseline is refitted.

        Raises:
            ConfigError: the kernel matrix and the labels do not fit together.
        """
        start = time.perf_counter()
        if gram.shape != (len(target), len(target)):
            raise ConfigError(f"the kernel matrix is {tuple(gram.shape)} for {len(target)} labels")
        points: list[PathPoint] = []
        folds = [] if fold is None else fold.unique().tolist()
        values = dict.fromkeys(self.ridges, 0.0)
        solved: dict[float, list[Tensor]] = {ridge: [] for ridge in self.ridges}
        shifts = []
        for left_out in folds:
            assert fold is not None
            train, test = (fold != left_out).nonzero()[:, 0], (fold == left_out).nonzero()[:, 0]
            n = counts[train]
            shift = refit_shift(baseline, n.T @ n, n.T @ (target[train] / scale[train]))
            shifts.append(shift)
            moved = target - (counts @ shift) * scale
            for ridge in self.ridges:
                part = _solve(gram[train][:, train], moved[train], weight[train], ridge)
                error = gram[test][:, train] @ part - moved[test]
                values[ridge] += float((weight[test] * error.square()).sum())
                full = torch.zeros_like(target)
                full[train] = part
                solved[ridge].append(full[:, None])
        if folds:
            rmse = {ridge: math.sqrt(value / len(target)) for ridge, value in values.items()}
            points = [PathPoint(r, (1.0, 0.0, 0.0), rmse[r], math.nan, math.nan) for r in self.ridges]
        path = Path(tuple(points))
        ridge = self.ridge if self.ridge is not None else path.best().ridge if points else self.ridges[0]
        value = _solve(gram, target, weight, ridge)
        return Solution(
            value=value[:, None],
            ridges=(ridge,),
            result=Result.SUCCESS if bool(torch.isfinite(value).all()) else Result.BREAKDOWN,
            path=path,
            fold_values=solved.get(ridge, []),
            fold_shifts=shifts,
            stats={"seconds": time.perf_counter() - start, "rows": len(target)},
        )


def _solve(gram: Tensor, target: Tensor, weight: Tensor, ridge: float) -> Float64[Tensor, " structures"]:
    """Solve in the form (W^1/2 K W^1/2 + lambda) u = W^1/2 y, c = W^1/2 u, which is well scaled."""
    root = weight.sqrt()
    system = gram * root[:, None] * root
    system.diagonal().add_(ridge)
    factor, info = torch.linalg.cholesky_ex(system)
    right = (root * target)[:, None]
    solution = torch.cholesky_solve(right, factor) if int(info) == 0 else torch.linalg.solve(system, right)
    return root * solution[:, 0]

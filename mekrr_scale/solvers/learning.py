"""Learning curves from the sums over the rows of each fold: no pass over the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.regression import Problem
from mekrr_scale.solvers.moments import MomentTable, root_mean
from mekrr_scale.solvers.path import Normal, Weights
from mekrr_scale.solvers.solution import LearningPoint

Solve = Callable[[Sequence[int]], tuple[Float64[Tensor, "rank one"], Float64[Tensor, " species"]]]


def learning_curve(problem: Problem, moments: MomentTable, solve: Solve) -> tuple[LearningPoint, ...]:
    """Errors of models of 1, 2, ... folds, all but one at most, each on a fold that none of them holds.

    Every fold is left out once for each number: it is predicted by the model of the folds that follow it, in a circle.

    Args:
        solve: from folds to the solution in the whitened basis and the baseline's shift.
    """
    folds = problem.n_folds
    return tuple(_point(moments, folds, size, solve) for size in range(1, folds))


def _point(moments: MomentTable, folds: int, size: int, solve: Solve) -> LearningPoint:
    squares, seen = dict.fromkeys(moments, 0.0), 0
    for left_out in range(folds):
        learned = [(left_out + 1 + step) % folds for step in range(size)]
        beta, shift = solve(learned)
        seen += sum(moments[RowKind.ENERGY][fold].rows for fold in learned)
        for kind, parts in moments.items():
            if parts[left_out].rows:
                squares[kind] += float(parts[left_out].squared_error(beta, shift)[0])
    shares = {kind: sum(part.share for part in parts) for kind, parts in moments.items()}
    errors = {
        kind: float(root_mean(torch.tensor([square], dtype=torch.float64), shares[kind])[0])
        for kind, square in squares.items()
    }
    return LearningPoint(seen / folds, ByKind.of(errors, float("nan")))


def solved_at(kinds: Mapping[RowKind, Normal], weights: Weights, ridge: float) -> Float64[Tensor, "rank one"] | None:
    """(sum of w G + lambda I)^-1 (sum of w g) by Cholesky; None where rounding makes the matrix indefinite."""
    rank = len(next(iter(kinds.values())).target)
    gram = ridge * torch.eye(rank, dtype=torch.float64)
    target = torch.zeros(rank, dtype=torch.float64)
    for kind, normal in kinds.items():
        if normal.factor is not None:
            gram.addmm_(normal.factor.T, normal.factor, alpha=weights[kind])
        elif normal.gram is not None:
            gram.add_(normal.gram, alpha=weights[kind])
        target += weights[kind] * normal.target
    lower, failed = torch.linalg.cholesky_ex(gram)
    return None if bool(failed) else torch.cholesky_solve(target[:, None], lower)

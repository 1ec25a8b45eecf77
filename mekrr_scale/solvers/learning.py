"""Learning curves from the sums over the rows of each fold: no pass over the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.regression import Problem
from mekrr_scale.solvers.moments import MomentTable, root_mean
from mekrr_scale.solvers.solution import LearningPoint, PathPoint

Solve = Callable[[Sequence[int]], tuple[Float64[Tensor, "rank one"], Float64[Tensor, " species"]]]


def learning_curve(problem: Problem, moments: MomentTable, best: PathPoint, solve: Solve) -> tuple[LearningPoint, ...]:
    """Errors of models of all folds but one, of half as many and so on, each on a fold that none of them holds.

    Every fold is left out once for each number: it is predicted by the model of the folds that follow it, in a circle.

    Args:
        best: errors of models of all folds but one.
        solve: from folds to the solution in the whitened basis and the baseline's shift.
    """
    folds = problem.n_folds
    seen = sum(part.rows for part in moments[RowKind.ENERGY]) * (folds - 1) / folds
    smaller = [_point(moments, folds, size, solve) for size in reversed(halves(folds)[1:])]
    return (*smaller, LearningPoint(seen, best.rmse))


def halves(folds: int) -> list[int]:
    """Numbers of folds that are learned: all but one, half of these and so on, down to one."""
    sizes = [folds - 1]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    return sizes


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

"""Learning curves from the sums over the rows of each fold: no pass over the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.regression import Problem, score
from mekrr_scale.solvers.moments import MomentTable, root_mean
from mekrr_scale.solvers.solution import LearningPoint

Solved = tuple[Float64[Tensor, "rank one"], Float64[Tensor, " species"]]
"""A solution in the whitened basis, and what the baseline's energies move by."""

_DECADES = 12  # of ridges above the chosen one, at most
_HIGHER = 1.02  # times the lowest score (squared errors) that ends the search: 1 % of the error


def learning_curve(
    problem: Problem,
    moments: MomentTable,
    ridge: float,
    whole: Sequence[Solved],
    solve: Callable[[Sequence[int], float], Solved],
) -> tuple[LearningPoint, ...]:
    """Errors of models of all folds but one, of half as many and so on, each on a fold that none of them holds.

    Every fold is left out once for each number: it is predicted by the model of the folds that follow it, in a circle.
    Each number has a ridge of its own, the chosen one or a larger one. The ridge is total, so that noise alone asks for
    the same at every number; but where the chosen one is so small that it hardly counts, models of about as many rows
    as landmarks are wrong by any amount (the peak of "double descent": Belkin, Hsu, Ma and Mandal 2019, PNAS 116,
    15849), and the curve would promise what more data will not bring.

    Args:
        ridge: that was chosen.
        whole: of all folds but one at this ridge, by the fold that is left out.
        solve: from folds and a ridge to a model.
    """
    smaller = [_best(problem, moments, size, ridge, solve) for size in reversed(halves(problem.n_folds)[1:])]
    return (*smaller, _point(moments, problem.n_folds - 1, whole))


def halves(folds: int) -> list[int]:
    """Numbers of folds that are learned: all but one, half of these and so on, down to one."""
    sizes = [folds - 1]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    return sizes


def _best(
    problem: Problem, moments: MomentTable, size: int, ridge: float, solve: Callable[[Sequence[int], float], Solved]
) -> LearningPoint:
    """The lowest errors at the chosen ridge, ten times as much and so on, until they rise: tiny ridges are alike."""
    folds = problem.n_folds

    def at(decade: int) -> LearningPoint:
        learned = [[(left_out + 1 + step) % folds for step in range(size)] for left_out in range(folds)]
        return _point(moments, size, [solve(each, ridge * 10.0**decade) for each in learned])

    def value(point: LearningPoint) -> float:
        return score(problem.criterion, point.rmse)

    best = at(0)
    for decade in range(1, _DECADES + 1):
        after = at(decade)
        if not value(after) <= _HIGHER * value(best):
            break
        best = min(best, after, key=value)
    return best


def _point(moments: MomentTable, size: int, models: Sequence[Solved]) -> LearningPoint:
    """Errors of models of so many folds on the folds that they are told by."""
    rmse, by_fold = {}, {}
    for kind, parts in moments.items():
        squares = [
            part.squared_error(*model) if part.rows else torch.zeros(1, dtype=torch.float64)
            for part, model in zip(parts, models, strict=True)
        ]
        rmse[kind] = float(root_mean(torch.stack(squares).sum(0), sum(part.share for part in parts))[0])
        each = [root_mean(square, part.share) for square, part in zip(squares, parts, strict=True)]
        by_fold[kind] = tuple(float(error[0]) for error in each)
    structures = sum(part.rows for part in moments[RowKind.ENERGY]) * size / len(models)
    return LearningPoint(structures, ByKind.of(rmse, math.nan), ByKind.of(by_fold, ()))

"""The work of ``Exact``."""

from __future__ import annotations

import math
import time

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.regression import ENERGY_ALONE, KeptRows, Problem, Run, Source, refit_shift
from mekrr_scale.solvers.base import Solver, check
from mekrr_scale.solvers.solution import Effort, Path, PathPoint, Result, Solution


def solve(exact: Solver, problem: Problem, source: Source, run: Run) -> Solution:
    """All rows at once; with folds, every ridge without each of them."""
    problem = problem.of_kinds(source.kinds)
    check(exact, problem, source, run)
    start = time.perf_counter()
    device = run.execution.device
    kept = KeptRows(problem.on(device).rows(source, {RowKind.ENERGY}), run.execution.memory)
    blocks = [block.on(device) for block in kept]
    if not blocks:
        raise SolverError("there is not a single row to fit; no structure in the store has a usable label")
    gram = torch.cat([block.rows for block in blocks]).double()
    if gram.shape[0] != gram.shape[1]:
        raise ConfigError(
            f"solver 'exact' needs an energy for every landmark structure, {gram.shape[0]} rows came for "
            f"{gram.shape[1]} of them; leave out structures without an energy"
        )
    target, weight, counts, scale, fold = (
        torch.cat([getattr(block, name) for block in blocks])
        for name in ("target", "weight", "counts", "scale", "fold")
    )
    errors = dict.fromkeys(exact.ridges, 0.0)
    solved: dict[float, list[Tensor]] = {ridge: [] for ridge in exact.ridges}
    shifts = []
    for left_out in fold.unique().tolist() if problem.folds else []:
        train, test = (fold != left_out).nonzero()[:, 0], (fold == left_out).nonzero()[:, 0]
        n = counts[train]
        shift = refit_shift(problem.baseline, (n.T @ n).cpu(), (n.T @ (target[train] / scale[train])).cpu())
        shifts.append(shift)
        moved = target - (counts @ shift.to(device)) * scale
        for ridge in exact.ridges:
            part = _solved(gram[train][:, train], moved[train], weight[train], ridge)
            error = gram[test][:, train] @ part - moved[test]
            errors[ridge] += float((weight[test] * error.square()).sum())
            full = torch.zeros_like(target)
            full[train] = part
            solved[ridge].append(full[:, None].cpu())
    path = Path(_points(errors, len(target)) if problem.folds else ())
    ridge = path.best().ridge if path.points else exact.ridges[0]
    value = _solved(gram, target, weight, ridge).cpu()
    run.progress.advance(problem.landmarks.n_sets)
    return Solution(
        value=value[:, None],
        ridges=(ridge,),
        result=Result.SUCCESS if bool(torch.isfinite(value).all()) else Result.BREAKDOWN,
        path=path,
        fold_values=solved[ridge],
        fold_shifts=shifts,
        rank=problem.landmarks.n_sets,
        effort=Effort(rows=len(target), seconds=time.perf_counter() - start),
    )


def _points(errors: dict[float, float], count: int) -> tuple[PathPoint, ...]:
    rmse = {ridge: math.sqrt(error / count) for ridge, error in errors.items()}
    return tuple(
        PathPoint(ridge, ENERGY_ALONE, ByKind.of({RowKind.ENERGY: value}, math.nan)) for ridge, value in rmse.items()
    )


def _solved(gram: Tensor, target: Tensor, weight: Tensor, ridge: float) -> Float64[Tensor, " structures"]:
    """Solve in the form (W^1/2 K W^1/2 + lambda) u = W^1/2 y, c = W^1/2 u, which is well scaled."""
    root = weight.sqrt()
    system = gram * root[:, None] * root
    system.diagonal().add_(ridge)
    factor, info = torch.linalg.cholesky_ex(system)
    right = (root * target)[:, None]
    solution = torch.cholesky_solve(right, factor) if int(info) == 0 else torch.linalg.solve(system, right)
    return root * solution[:, 0]

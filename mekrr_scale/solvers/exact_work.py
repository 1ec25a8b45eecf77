"""The work of ``Exact``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.regression import Problem, Run, Source, refit_shift
from mekrr_scale.solvers.base import Solver, check
from mekrr_scale.solvers.grid import further
from mekrr_scale.solvers.job import DOUBLE, Estimate, Job, Stage
from mekrr_scale.solvers.moments import cross_validated
from mekrr_scale.solvers.solution import Effort, Path, PathPoint, Result, Solution


def solve(exact: Solver, problem: Problem, source: Source, run: Run) -> Solution:
    """All rows at once; with folds, every ridge and weight of the energies without each of them."""
    problem = problem.of_kinds(source.kinds)
    check(exact, problem, source, run)
    start = time.perf_counter()
    device = run.execution.device
    blocks = [block.on(device) for block in problem.on(device).rows(source, {RowKind.ENERGY})]
    if not blocks:
        raise SolverError("there is not a single row to fit; no structure in the store has a usable label")
    gram = torch.cat([block.rows for block in blocks]).double()
    if len(gram) != problem.landmarks.n_sets:
        raise ConfigError(
            f"solver 'exact' needs an energy for every landmark structure, {len(gram)} rows came for "
            f"{problem.landmarks.n_sets} of them; leave out structures without an energy"
        )
    # structures of one atom each have two columns where ``mean`` mixes species; K(x, x') is their sum
    parts = gram.shape[1] // len(gram)
    gram = gram.unflatten(1, (parts, len(gram))).sum(1) if parts > 1 else gram
    target, weight, share, counts, scale, fold = (
        torch.cat([getattr(block, name) for block in blocks])
        for name in ("target", "weight", "share", "counts", "scale", "fold")
    )
    del blocks
    data = _Dense(gram, target, weight, share, counts, scale)
    folds = [_Fold.of(problem, data, fold, left_out) for left_out in fold.unique().tolist()] if problem.folds else []
    path, solved = _cross_validated(exact, problem, data, folds)
    untested = PathPoint.untested(exact.ridges[0], problem.weights[0])
    best = path.best(problem.criterion) if path.points else untested
    value = dense_solution(gram, target, best.weights[RowKind.ENERGY] * weight, best.ridge).cpu()
    run.progress.advance(problem.landmarks.n_sets)
    return Solution(
        value=value.repeat(parts)[:, None],
        ridges=(best.ridge,),
        result=Result.SUCCESS if bool(torch.isfinite(value).all()) else Result.BREAKDOWN,
        weights=best.weights,
        path=path,
        fold_values=[each.repeat(parts)[:, None] for each in solved.get((best.weights, best.ridge), ())],
        fold_shifts=[held_out.shift for held_out in folds],
        rank=problem.landmarks.n_sets,
        effort=Effort(rows=len(target), seconds=time.perf_counter() - start),
    )


@dataclass(frozen=True)
class _Dense:
    """All rows, as matrices."""

    gram: Float64[Tensor, "n n"]
    target: Float64[Tensor, " n"]
    weight: Float64[Tensor, " n"]
    share: Float64[Tensor, " n"]
    counts: Float64[Tensor, "n species"]
    scale: Float64[Tensor, " n"]


@dataclass(frozen=True)
class _Fold:
    """Structures that are fitted to and left out, and the baseline's shift without the latter."""

    train: Int64[Tensor, " fitted"]
    test: Int64[Tensor, " held_out"]
    shift: Float64[Tensor, " species"]

    @classmethod
    def of(cls, problem: Problem, data: _Dense, fold: Int64[Tensor, " n"], left_out: int) -> _Fold:
        train = (fold != left_out).nonzero()[:, 0]
        n = data.counts[train]
        shared = n * data.share[train, None]
        moment = shared.T @ (data.target[train] / data.scale[train])
        shift = refit_shift(problem.baseline, (shared.T @ n).cpu(), moment.cpu())
        return cls(train, (fold == left_out).nonzero()[:, 0], shift)

    def solved(self, data: _Dense, energy: float, ridge: float) -> tuple[Float64[Tensor, " n"], float]:
        """Coefficients without the fold, zero for its own structures, and the squared error of these.

        Args:
            energy: weight of the energies, which errors do not know.
        """
        train, test = self.train, self.test
        moved = data.target - (data.counts @ self.shift.to(data.counts.device)) * data.scale
        part = dense_solution(data.gram[train][:, train], moved[train], energy * data.weight[train], ridge)
        error = data.gram[test][:, train] @ part - moved[test]
        full = torch.zeros_like(data.target)
        full[train] = part
        return full, float((data.weight[test] * error.square()).sum())


def _cross_validated(
    exact: Solver, problem: Problem, data: _Dense, folds: Sequence[_Fold]
) -> tuple[Path, dict[tuple[ByKind[float], float], list[Tensor]]]:
    """Errors of every ridge and combination of weights, and the solutions of both without each fold."""
    path, solved = Path(()), dict[tuple[ByKind[float], float], list[Tensor]]()
    more = exact.ridges if folds else ()
    while more:
        for weights in problem.weights:
            errors = []
            for ridge in more:
                of_folds = [held_out.solved(data, weights[RowKind.ENERGY], ridge) for held_out in folds]
                solved[weights, ridge] = [value.cpu() for value, _ in of_folds]
                errors.append([error for _, error in of_folds])
            by_fold = torch.tensor(errors, dtype=torch.float64).T
            left_out = [(error, float(data.share[at.test].sum())) for error, at in zip(by_fold, folds, strict=True)]
            path = Path((*path.points, *cross_validated(more, weights, {RowKind.ENERGY: left_out})))
        more = further(exact, path, problem.criterion)
    return path, solved


def dense_solution(gram: Tensor, target: Tensor, weight: Tensor, ridge: float) -> Float64[Tensor, " structures"]:
    """Solve in the form (W^1/2 K W^1/2 + lambda) u = W^1/2 y, c = W^1/2 u, which is well scaled."""
    root = weight.sqrt()
    system = gram * root[:, None] * root
    system.diagonal().add_(ridge)
    factor, info = torch.linalg.cholesky_ex(system)
    right = (root * target)[:, None]
    solution = torch.cholesky_solve(right, factor) if int(info) == 0 else torch.linalg.solve(system, right)
    return root * solution[:, 0]


def estimate(exact: Solver, job: Job) -> Estimate:
    """Memory and time of the rows, and of a system of every ridge, fold and weight beside its factor."""
    n = float(job.energies)
    matrix = n**2 * DOUBLE
    left = 1 - 1 / job.folds if job.folds else 0.0  # of the structures, without a fold
    systems = job.folds * len(exact.ridges) * job.n_weights * left**3 + 1
    moved = job.folds * len(exact.ridges) * job.n_weights * left**2 + 1  # matrices that are copied, a few times each
    solving = systems * n**3 / 3 * job.rates.flop + 5 * moved * matrix * job.rates.copy
    stages = [
        Stage("rows of the kernel matrix", 2 * matrix + job.work, job.tried * job.make, job.tried),
        Stage("ridges, weights and folds", 4 * matrix, job.tried * solving),
    ]
    return Estimate(stages)

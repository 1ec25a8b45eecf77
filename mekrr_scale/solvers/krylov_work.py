"""The work of iterative solvers: right-hand sides and preconditioner in a first pass, iterations, errors in a last one.

The method is the solver's own (``Krylov.method``); everything else is the same for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mekrr_scale import solvers
from mekrr_scale.arrays import ByKind, RowKind, uniform
from mekrr_scale.distributed import WIDTH, ExactSum, Group
from mekrr_scale.errors import SolverError
from mekrr_scale.models import Whitening
from mekrr_scale.regression import (
    DEFAULT_CRITERION,
    Criterion,
    KeptRows,
    Problem,
    RowBlock,
    Rows,
    Run,
    Source,
    packed_width,
    refit_shift,
)
from mekrr_scale.solvers.base import check, tier
from mekrr_scale.solvers.grid import further
from mekrr_scale.solvers.iteration import Enough, System
from mekrr_scale.solvers.job import DOUBLE, Estimate, Job, Stage
from mekrr_scale.solvers.moments import check_folds, cross_validated
from mekrr_scale.solvers.operators import NormalOperator, WhitenedRows
from mekrr_scale.solvers.preconditioners import (
    LARGEST_EIGEN,
    Preconditioner,
    SpectralPreconditioner,
    SubsetGram,
    classical_gram,
    decades,
)
from mekrr_scale.solvers.solution import Effort, Path, PathPoint, Solution

_RISEN = 1.1  # score over the lowest, of a smaller ridge, that tells that those of smaller ones are higher still
# relative residual at which errors are right to 1e-3; at 3e-5 those of a ridge of 1e-10 are wrong by half, at 1e-3 by a
# factor of ten (docs/benchmarks.md)
_KNOWN = 1e-6


def solve(
    solver: solvers.Krylov, problem: Problem, source: Source, run: Run, whitening: Whitening | None = None
) -> Solution:
    """Solve for every ridge, fold and combination of weights; the best one's solutions are kept.

    Whitened rows are made once and kept as the budget allows; every combination of weights has a first pass,
    iterations and errors of its own over them.

    Args:
        whitening: where it is known already.
    """
    problem = problem.of_kinds(source.kinds)
    check(solver, problem, source, run)
    start = time.perf_counter()
    placed = problem.on(run.execution.device)
    whitening = whitening or placed.whitening(run.group)
    rows = placed.rows(source)
    where = (run.execution.memory, run.execution.scratch, _device_bytes(run))
    best: Solution | None = None
    points: list[PathPoint] = []
    with KeptRows(WhitenedRows(rows, whitening), *where) as kept:
        # without folds there is nothing to choose by
        systems = [(solver, weights) for weights in (problem.weights if problem.folds else problem.weights[:1])]
        for place, (grid, weights) in enumerate(systems):
            run.progress.stage("first pass", source.n_rows)
            found = _Weighted(grid, problem, weights, place, whitening, run).solve(kept, rows)
            points += found.path.points
            if best is None or found.score(problem.criterion) < best.score(problem.criterion):
                best = found
            if place == len(systems) - 1:
                systems += _larger(solver, Path(tuple(points)), problem.criterion)
        stored = {f"bytes_{where}": size for where, size in kept.stored_bytes.items()}
    assert best is not None
    effort = Effort(
        best.effort.rows,
        best.effort.iterations,
        best.effort.residuals,
        time.perf_counter() - start,
        best.effort.seconds_pass,
        **stored,
    )
    return Solution(
        best.value, best.ridges, best.result, best.weights, Path(tuple(points)), best.fold_values, best.fold_shifts,
        whitening.rank, effort,
    )  # fmt: skip


def _larger(solver: solvers.Krylov, path: Path, criterion: Criterion) -> list[tuple[solvers.Krylov, ByKind[float]]]:
    """The best weights with ridges beyond the default grid that errors fall towards; larger ones, which few iterations
    solve, alone."""
    more = further(solver, path, criterion)
    if not more or more[0] < max(point.ridge for point in path.points):
        return []
    return [(replace(solver, ridges=more), path.lowest(criterion).weights)]


def _device_bytes(run: Run) -> int:
    """Half of what is free on the GPU, for rows."""
    device = run.execution.device
    return torch.cuda.mem_get_info(device)[0] // 2 if torch.device(device).type == "cuda" else 0


@dataclass(frozen=True)
class _Setup:
    target: Float64[Tensor, "rank columns"]
    excluded: Int64[Tensor, " columns"]
    ridges: Float64[Tensor, " columns"]
    shifts: list[Float64[Tensor, " species"]]
    preconditioner: Preconditioner
    rows: int
    seconds: float


@dataclass(frozen=True)
class _Weighted:
    """The problem under one combination of weights."""

    solver: solvers.Krylov
    problem: Problem
    weights: ByKind[float]
    place: int  # of the combination
    whitening: Whitening
    run: Run

    def solve(self, kept: KeptRows, rows: Rows) -> Solution:
        whitening, group = self.whitening, self.run.group
        setup = self._first_pass(kept)
        everywhere = int(group.maximum(torch.tensor(int(not kept.kept)))) == 0
        if not everywhere:
            kept.forget()
        source, basis = (kept, None) if everywhere else (rows, whitening)
        operator = NormalOperator(source, basis, self.weights, setup.excluded, setup.ridges, group=group)
        name = "cg" if self.place == 0 else f"cg{self.place}"
        part = self.run.part(name, {"rows": "kept" if everywhere else "made anew", "solver": self._identity()})
        enough = self._enough(source, basis is not None, setup) if self.problem.n_folds else None
        system = self.solver.iteration(part).solve(operator.apply, setup.target, setup.preconditioner, enough)
        coefficients = whitening.coefficients(system.value).cpu()
        path = Path(())
        ridges = self.solver.ridges
        order = list(range(len(ridges)))
        fold_values: list[Tensor] = []
        chosen: list[int] = []
        if self.problem.n_folds:
            solutions = system.value if basis is None else coefficients.to(whitening.device)
            path = self._errors(source, solutions, setup).known(self._known(system))
            best = ridges.index(path.best(self.problem.criterion).ridge)
            order = [best, *(i for i in order if i != best)]
            chosen = [part * len(ridges) + best for part in range(self.problem.n_folds + 1)]
            fold_values = [coefficients[:, (f + 1) * len(ridges) + best, None] for f in range(self.problem.n_folds)]
        return Solution(
            value=coefficients[:, order],
            ridges=tuple(ridges[i] for i in order),
            result=system.judged(chosen, self.solver.rtol),
            weights=self.weights,
            path=path,
            fold_values=fold_values,
            fold_shifts=setup.shifts,
            rank=whitening.rank,
            effort=Effort(
                rows=setup.rows,
                iterations=system.iterations,
                residuals=tuple(max(residual) for residual in system.history),
                seconds_pass=setup.seconds,
            ),
        )

    def _enough(self, rows: Iterable[RowBlock], raw: bool, setup: _Setup) -> Enough:
        """Whether the ridge that will be chosen is solved, and those that are not have no chance.

        These have to be smaller than one that is solved, smaller than the best, and shows that errors rise. Their own
        errors say nothing: those of a ridge that is not solved may be wrong by any factor.

        Args:
            raw: the rows are not whitened.
        """
        ridges, folds = self.solver.ridges, self.problem.n_folds

        def enough(beta: Tensor, solved: Tensor) -> bool:
            done = solved.view(folds + 1, len(ridges)).all(0).tolist()
            if sum(done) < 2 or all(done):
                return False
            solutions = self.whitening.coefficients(beta) if raw else beta
            points = self._errors(rows, solutions, setup).points
            scores = {ridges[i]: points[i].score(self.problem.criterion) for i, yes in enumerate(done) if yes}
            best = min(scores, key=scores.__getitem__)
            risen = [ridge for ridge in scores if ridge < best and scores[ridge] > _RISEN * scores[best]]
            return bool(risen) and all(yes or ridge < min(risen) for ridge, yes in zip(ridges, done, strict=True))

        return enough

    def _known(self, system: System) -> list[bool]:
        """Of every ridge, whether all its columns are near enough to their solutions for its errors to be known."""
        near = system.residuals <= max(self.solver.rtol, _KNOWN)
        found: list[bool] = near.view(self.problem.n_folds + 1, len(self.solver.ridges)).all(0).tolist()
        return found

    def _identity(self) -> str:
        """What changes the iterates, as states of version 0.1.0 hold it."""
        at = self.solver
        return (
            f"{type(at).__name__}(ridges={at.ridges!r}, weights={tuple(self.weights.listed(0.0))!r}, rtol=1.0, "
            f"max_steps=1, preconditioner={at.preconditioner!r}, subset={at.subset!r}, "
            f"recompute_every={at.recompute_every!r}, patience=1, memory_bytes=0, scratch=None, device_bytes=0, "
            f"seed={self.problem.seed!r}, select={_selected(self.problem.criterion)})"
        )

    def _first_pass(self, rows: Iterable[RowBlock]) -> _Setup:
        """Right-hand sides by fold, fold baselines and the preconditioner, from one pass."""
        start = time.perf_counter()
        sums = _Sums.zero(self)
        for made in rows:
            check_folds(made, self.problem.n_folds)
            sums.add(made.on(self.whitening.device))
            self.run.progress.advance(len(made.target))
        ridges, excluded = self._columns()
        preconditioner, n_rows = sums.preconditioner(ridges)
        sides, shifts = sums.sides(self.problem, len(self.solver.ridges))
        return _Setup(sides, excluded, ridges, shifts, preconditioner, n_rows, time.perf_counter() - start)

    def _columns(self) -> tuple[Float64[Tensor, " columns"], Int64[Tensor, " columns"]]:
        """Ridge and left-out fold of every column: (f + 1) * ridges + r leaves fold f out, the first leave none out."""
        given, folds = self.solver.ridges, self.problem.n_folds
        ridges = torch.tensor(list(given) * (folds + 1), dtype=torch.float64, device=self.whitening.device)
        return ridges, torch.tensor([-1] * len(given) + [f for f in range(folds) for _ in given])

    def _errors(self, rows: Iterable[RowBlock], solutions: Tensor, setup: _Setup) -> Path:
        """Cross-validated errors, from one pass over the rows."""
        ridges, group = self.solver.ridges, self.run.group
        count = len(ridges)
        folds = range(self.problem.n_folds)
        squares = {kind: [ExactSum(count) for _ in folds] for kind in RowKind}
        shares = {kind: [ExactSum() for _ in folds] for kind in RowKind}
        for made in rows:
            block = made.on(solutions.device)
            fitted = block.matrix @ solutions
            for fold in folds:
                chosen = block.fold == fold
                shift = setup.shifts[fold].to(solutions.device)
                moved = block.target[chosen] - (block.counts[chosen] @ shift) * block.scale[chosen]
                error = fitted[chosen, (fold + 1) * count : (fold + 2) * count] - moved[:, None]
                squares[block.kind][fold].add((block.weight[chosen] @ error.square()).cpu())
                shares[block.kind][fold].add(block.share[chosen].sum().cpu())
        left_out = {
            kind: [(squares[kind][fold].value(group), float(shares[kind][fold].value(group))) for fold in folds]
            for kind in RowKind
        }
        return Path(tuple(cross_validated(ridges, self.weights, left_out)))


def _selected(criterion: Criterion) -> str:
    """As states of 0.1.0 hold it, whose default was a sum; it changes no iterate."""
    return repr(tuple((criterion if isinstance(criterion, ByKind) else DEFAULT_CRITERION).listed(0.0)))


@dataclass
class _Sums:
    """What the first pass sums up."""

    weights: ByKind[float]
    n_folds: int
    group: Group
    draw: Callable[[Int64[Tensor, " rows"]], Tensor]  # which rows the preconditioner is made of
    target: ExactSum
    counts: ExactSum
    plain_gram: ExactSum
    plain_target: ExactSum
    total_weight: ExactSum
    gram: SubsetGram | None
    whitening: Whitening
    n_rows: int = 0
    n_subset: int = 0

    @classmethod
    def zero(cls, at: _Weighted) -> _Sums:
        device, rank = at.whitening.device, at.whitening.rank
        parts, species = max(at.problem.n_folds, 1), len(at.problem.baseline.species)
        seed, part = at.problem.seed, at.solver.subset

        def draw(keys: Int64[Tensor, " rows"]) -> Tensor:
            return torch.from_numpy(uniform(keys.numpy().astype(np.uint64), seed) < part)

        return cls(
            weights=at.weights,
            n_folds=at.problem.n_folds,
            group=at.run.group,
            draw=draw,
            target=ExactSum(rank, parts, device=device),
            counts=ExactSum(parts, rank, species, device=device),
            plain_gram=ExactSum(parts, species, species),
            plain_target=ExactSum(parts, species),
            total_weight=ExactSum(),
            gram=SubsetGram(rank, at.run.group, device) if at.solver.preconditioner == "subset" else None,
            whitening=at.whitening,
        )

    def add(self, block: RowBlock) -> None:
        parts, species = max(self.n_folds, 1), block.counts.shape[1]
        w = block.weight * self.weights[block.kind]
        place = block.fold if self.n_folds else torch.zeros_like(block.fold)
        inside = torch.nn.functional.one_hot(place, parts).double()
        self.target.add(block.matrix.T @ ((w * block.target)[:, None] * inside))
        if block.kind == RowKind.ENERGY:
            scaled = (block.counts * block.scale[:, None] * w[:, None])[:, None, :] * inside[:, :, None]
            self.counts.add(
                (block.matrix.T @ scaled.flatten(1)).unflatten(1, (parts, species)).movedim(0, 1).contiguous()
            )
            by_fold = inside.T[:, :, None] * block.counts * block.share[:, None]
            self.plain_gram.add((by_fold.mT @ block.counts).cpu())
            self.plain_target.add((by_fold.mT @ (block.target / block.scale)).cpu())
        self.total_weight.add(w.sum().cpu())
        self.n_rows += len(w)
        if self.gram is not None:
            picked = self.draw(block.key).to(w.device)
            self.gram.add(block.matrix[picked] * w[picked, None].sqrt())
            self.n_subset += int(picked.sum())

    def preconditioner(self, ridges: Float64[Tensor, " columns"]) -> tuple[Preconditioner, int]:
        """Of all ranks' rows, and their number."""
        if self.gram is not None:
            self.gram.meet()
        n_rows, n_subset = self.group.sum(torch.tensor([self.n_rows, self.n_subset])).tolist()
        weight = float(self.total_weight.value(self.group))
        if not n_rows or weight == 0:
            raise SolverError("there is not a single row to fit; no structure in the store has a usable label")
        if self.gram is not None:
            return self.gram.preconditioner(n_rows / max(n_subset, 1), ridges), n_rows
        return SpectralPreconditioner.of(classical_gram(self.whitening, weight), ridges), n_rows

    def sides(self, problem: Problem, n_ridges: int) -> tuple[Tensor, list[Tensor]]:
        """Right-hand sides of all columns, and the shift of every fold's baseline."""
        folds, group = self.n_folds, self.group
        grams, moments = self.plain_gram.value(group), self.plain_target.value(group)
        shifts = [
            refit_shift(problem.baseline, grams.sum(0) - grams[f], moments.sum(0) - moments[f]) for f in range(folds)
        ]
        targets, shifted = self.target.value(group), self.counts.value(group)
        sides = [targets.sum(1)] * n_ridges
        for f, shift in enumerate(shifts):
            others = [g for g in range(folds) if g != f]
            side = sum(
                (targets[:, g] - shifted[g] @ shift.to(targets.device) for g in others), torch.zeros_like(targets[:, 0])
            )
            sides += [side] * n_ridges
        return torch.stack(sides, 1), shifts


def estimate(solver: solvers.Krylov, job: Job) -> Estimate:
    """Memory and time of the first pass and the preconditioner; the number of iterations is not known before."""
    width = packed_width(job.columns, job.n_species)
    row_bytes = float(job.rows) * width * DOUBLE
    kept = tier(job.execution, row_bytes)
    in_memory = 0.0 if kept == "nothing" else min(job.rows * width * DOUBLE, job.execution.memory)
    subset = solver.subset * job.rows * 2.0 * job.columns**2 * job.rates.flop
    if job.columns <= LARGEST_EIGEN:
        factor_bytes, factor_seconds = 6.0 * job.square, job.rates.eigen * float(job.columns) ** 3
    else:
        factors = len(decades(torch.tensor(job.ridges, dtype=torch.float64)))
        panels = job.square / 2
        factor_bytes = (max(3.0, 1.0 + factors) * panels + 3.0 * job.columns * WIDTH * DOUBLE) / job.ranks
        factor_seconds = factors * float(job.columns) ** 3 / 3 * job.rates.flop / job.ranks
        subset *= 0.6
    held = job.whitening + in_memory + factor_bytes
    handled = job.rows * width * DOUBLE * (4 * job.rates.copy + job.rates.write * ("scratch" in kept))
    again = (job.n_weights - 1) * (subset + (job.make + job.whiten) * (kept == "nothing"))
    first = job.tried * (job.make + job.whiten + subset + handled + again)
    buffers = 2.0 * min(job.block_rows, job.rows) * width * DOUBLE if "scratch" in kept else 0.0
    vectors = 25.0 * job.columns * job.solutions * DOUBLE
    iteration = (job.make if kept == "nothing" else 0.0) + job.rows * job.columns * job.rates.thin
    weights = f", for each of {job.n_weights} combinations of weights" if job.n_weights > 1 else ""
    stages = [
        Stage("first pass", held + job.work, first, job.tried, f"rows kept: {kept}"),
        Stage("preconditioner", held, job.tried * job.n_weights * factor_seconds),
        Stage("iterations", held + vectors + buffers, 0.0, 0.0, f"{iteration:.3g} s each{weights}"),
    ]
    return Estimate(stages, kept, row_bytes, 0.0, iteration)

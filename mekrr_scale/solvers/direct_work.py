"""The work of ``Direct``: sums over the rows, fold solutions, errors, the choice."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import RowKind
from mekrr_scale.distributed import Group
from mekrr_scale.errors import SolverError
from mekrr_scale.models import Whitening
from mekrr_scale.regression import Execution, KeptRows, Problem, Rows, Run, Source, refit_shift
from mekrr_scale.solvers import krylov_work
from mekrr_scale.solvers.base import DEFAULT_RIDGES, Solver, check
from mekrr_scale.solvers.falkon import Falkon
from mekrr_scale.solvers.grid import further
from mekrr_scale.solvers.job import DOUBLE, Estimate, Job, Stage
from mekrr_scale.solvers.learning import Solved, halves, learning_curve
from mekrr_scale.solvers.moments import MomentTable, accumulate, cross_validated
from mekrr_scale.solvers.path import SHORT, Decompositions, Normal, Weights, solution_at, weight_paths
from mekrr_scale.solvers.preconditioners import LARGEST_EIGEN
from mekrr_scale.solvers.solution import Effort, LearningPoint, Path, PathPoint, Result, Solution

PASS, SOLVING = "pass over the rows", "ridges, weights and folds"  # stages

_FoldSolution = tuple[dict[Weights, Tensor], Tensor]  # without a fold: solutions by weights; the baseline's shift


def solve(direct: Solver, problem: Problem, source: Source, run: Run) -> Solution:
    """Whiten, pass over the rows once, choose."""
    problem = problem.of_kinds(source.kinds)
    check(direct, problem, source, run)
    placed = problem.on(run.execution.device)
    whitening = placed.whitening(run.group)
    if iterates(len(problem.weights), whitening.rank):
        return krylov_work.solve(_all_rows(direct), problem, source, run, whitening)
    rows = placed.rows(source)
    # rows whose number of columns asks for an iterative solver are not kept as they are
    kept = None if iterates(len(problem.weights), problem.n_columns) else KeptRows(rows, run.execution.memory)
    start = time.perf_counter()
    moments = sums_of(problem, kept or rows, whitening, run)
    solution = from_sums(direct, problem, moments, whitening, run)
    passed = time.perf_counter() - start - solution.effort.seconds
    return replace(solution, effort=replace(solution.effort, seconds_pass=passed), rows=kept)


def iterates(n_weights: int, rank: int) -> bool:
    """Whether a Gram matrix of this size is better dealt to the ranks.

    Above LARGEST_EIGEN a Cholesky factor in panels takes the place of eigendecompositions. It is Falkon's
    preconditioner with all rows for its subset: exact but for rounding and the folds, which few iterations mend.
    """
    return rank > LARGEST_EIGEN and n_weights == 1


def _all_rows(direct: Solver) -> Falkon:
    return Falkon(ridges=direct.ridges, subset=1.0)


def sums_of(problem: Problem, rows: Rows, whitening: Whitening, run: Run) -> MomentTable:
    """One pass over this rank's rows; the sums of all ranks."""
    species, folds = len(problem.baseline.species), max(problem.n_folds, 1)
    return accumulate(rows, whitening, species, folds, run.progress.advance, run.group, run.checkpoint)


def from_sums(
    direct: Solver,
    problem: Problem,
    moments: MomentTable,
    whitening: Whitening,
    run: Run,
    shift: Float64[Tensor, " species"] | None = None,
) -> Solution:
    """Every ridge and combination of weights; with folds the best by the criterion, else the first."""
    start = time.perf_counter()
    whitening = whitening.on("cpu")  # sums lie there, and so do solutions
    for weights in problem.weights:
        if not any(weight and any(part.rows for part in moments[kind]) for kind, weight in weights.items()):
            raise SolverError(f"no row has a weight above zero ({_named(weights)})")
    ridges = direct.ridges
    kept = Decompositions(_room(direct, run.execution))
    folds = _fold_solutions(ridges, problem, moments, run.group, kept)
    path = _path(ridges, moments, folds, problem.weights)
    while more := further(direct, path, problem.criterion):
        folds = _joined(folds, _fold_solutions(more, problem, moments, run.group, kept))
        ridges = (*ridges, *more)
        path = _path(ridges, moments, folds, problem.weights)
    del kept
    best = path.best(problem.criterion) if folds else PathPoint.untested(ridges[0], problem.weights[0])
    place = ridges.index(best.ridge)
    models = [(paths[best.weights][:, place : place + 1], moved) for paths, moved in folds]
    curve = _curve(problem, moments, best, models)
    everything = normals(moments, range(max(problem.n_folds, 1)), shift)
    beta = run.group.broadcast(solution_at(everything, best.weights, best.ridge).contiguous())
    finite = bool(torch.isfinite(beta).all())
    return Solution(
        value=whitening.coefficients(beta),
        ridges=(best.ridge,),
        weights=best.weights,
        result=Result.SUCCESS if finite else Result.BREAKDOWN,
        path=path,
        fold_values=[whitening.coefficients(beta) for beta, _ in models],
        fold_shifts=[shift for _, shift in models],
        rank=whitening.rank,
        effort=Effort(
            rows=sum(part.rows for kinds in moments.values() for part in kinds), seconds=time.perf_counter() - start
        ),
        curve=curve,
    )


def _room(direct: Solver, execution: Execution) -> float:
    """Bytes for the folds' decompositions, until the grid of ridges goes on no further; only the default one does."""
    return execution.memory / 2 if direct.ridges == DEFAULT_RIDGES else 0.0


def _named(weights: Weights) -> str:
    return ", ".join(f"{kind.name.lower()} weight {weight:g}" for kind, weight in weights.items())


def _joined(found: list[_FoldSolution], more: list[_FoldSolution]) -> list[_FoldSolution]:
    """Fold by fold the solutions of more ridges beside those that there are."""
    return [
        ({weights: torch.cat([paths[weights], others[weights]], 1) for weights in paths}, shift)
        for (paths, shift), (others, _) in zip(found, more, strict=True)
    ]


def _fold_solutions(
    ridges: Sequence[float], problem: Problem, moments: MomentTable, group: Group, kept: Decompositions
) -> list[_FoldSolution]:
    """For each fold: solutions without it of all weights and ridges, and the baseline's shift.

    The folds are dealt to the ranks.
    """
    solutions = []
    weights = problem.weights
    rank = _rank(moments)
    systems = [[i for i in range(problem.n_folds) if i != fold] for fold in range(problem.n_folds)]
    by_rows = standing(moments, systems) if systems else ()
    for fold, others in enumerate(systems):
        shift = _shift(problem, moments, others)
        solved = torch.zeros(len(weights), rank, len(ridges), dtype=torch.float64)
        if fold % group.size == group.rank:
            paths = weight_paths(normals(moments, others, shift, by_rows), weights, ridges, kept, fold)
            solved = torch.stack([paths[combination] for combination in weights])
        solutions.append((solved, shift))
    return [
        (dict(zip(weights, group.broadcast(solved.contiguous(), fold % group.size), strict=True)), shift)
        for fold, (solved, shift) in enumerate(solutions)
    ]


def _shift(problem: Problem, moments: MomentTable, folds: Sequence[int]) -> Float64[Tensor, " species"]:
    """What the baseline's energies move by where it is fitted to some folds alone."""
    energy = [moments[RowKind.ENERGY][fold] for fold in folds]
    return refit_shift(
        problem.baseline,
        torch.stack([m.plain_gram for m in energy]).sum(0),
        torch.stack([m.plain_target for m in energy]).sum(0),
    )


def _curve(
    problem: Problem, moments: MomentTable, best: PathPoint, whole: Sequence[Solved]
) -> tuple[LearningPoint, ...]:
    """At the weights that were chosen; none without folds."""
    if not whole:
        return ()

    def solve(learned: Sequence[int], ridge: float) -> Solved:
        shift = _shift(problem, moments, learned)
        return solution_at(normals(moments, learned, shift), best.weights, ridge), shift

    return learning_curve(problem, moments, best.ridge, whole, solve)


def _path(
    ridges: Sequence[float], moments: MomentTable, folds: Sequence[_FoldSolution], weights: Sequence[Weights]
) -> Path:
    """Cross-validated errors of every ridge under each combination of weights, from the sums alone."""
    tried = weights if folds else ()
    return Path(tuple(point for each in tried for point in _errors(ridges, moments, folds, each)))


def _errors(
    ridges: Sequence[float], moments: MomentTable, folds: Sequence[_FoldSolution], weights: Weights
) -> list[PathPoint]:
    nothing = torch.zeros(len(ridges), dtype=torch.float64)
    left_out = {
        kind: [
            (part.squared_error(paths[weights], shift) if part.rows else nothing, part.share)
            for part, (paths, shift) in zip(parts, folds, strict=True)
        ]
        for kind, parts in moments.items()
    }
    return cross_validated(ridges, weights, left_out)


def normals(
    moments: MomentTable,
    folds: Sequence[int],
    shift: Float64[Tensor, " species"] | None = None,
    by_rows: Collection[RowKind] | None = None,
) -> dict[RowKind, Normal]:
    """The normal equations of some folds, kind by kind; without rows a kind is empty.

    Args:
        by_rows: kinds whose rows stand for themselves; see ``standing``.
    """
    rank = _rank(moments)
    by_rows = standing(moments, [folds]) if by_rows is None else by_rows
    found = {}
    for kind in RowKind:
        parts = [moments[kind][fold] for fold in folds if moments[kind][fold].rows]
        target = torch.zeros(rank, dtype=torch.float64)
        for part in parts:
            target += part.target if shift is None else part.target - part.counts @ shift
        if kind in by_rows or not parts:
            factors = [part.factor for part in parts]
            kept = [factor for factor in factors if factor is not None]
            found[kind] = Normal(None, torch.cat([*kept, target.new_zeros(0, rank)]), target)
            continue
        gram = parts[0].gram.clone()
        for part in parts[1:]:
            gram += part.gram
        found[kind] = Normal(gram, None, target)
    return found


def standing(moments: MomentTable, systems: Sequence[Sequence[int]]) -> frozenset[RowKind]:
    """Kinds whose rows stand for themselves in several systems, each of some folds.

    All where their span is solved in, or those that are so few that their products are cheap. One answer for all
    systems, however uneven the folds: rows are no longer kept once their products are made, and a system that is solved
    again for further ridges has to be what it was.
    """
    rank = _rank(moments)

    def most(*kinds: RowKind) -> int:
        return max(sum(moments[kind][fold].rows for kind in kinds for fold in folds) for folds in systems)

    kept = [kind for kind in RowKind if all(moments[kind][fold].keeps_rows for folds in systems for fold in folds)]
    spanned = len(kept) == len(RowKind) and most(*RowKind) <= SHORT * rank
    return frozenset(kind for kind in kept if spanned or most(kind) <= rank // 2)


def _rank(moments: MomentTable) -> int:
    return next(len(part.target) for parts in moments.values() for part in parts if part.rows)


def estimate(direct: Solver, job: Job) -> Estimate:
    """Memory and time: Gram matrices by fold and kind, eigendecompositions."""
    if iterates(job.n_weights, job.columns):
        return krylov_work.estimate(_all_rows(direct), job)
    row_bytes = float(job.rows) * sum(job.blocks) * DOUBLE
    kept = "memory" if row_bytes <= job.execution.memory else "nothing"
    in_memory = min(job.rows * job.columns * DOUBLE, job.execution.memory)
    held = job.whitening + sums_bytes(job, job.columns)
    solving, decomposed = solving_of(direct, job)
    while_solving = held + in_memory * (kept == "memory") + decomposed
    seconds = job.make + job.whiten + sums_seconds(job, job.columns)
    stages = [
        Stage(PASS, held + in_memory + job.work, job.tried * seconds, job.tried),
        Stage(SOLVING, while_solving, job.tried * solving),
    ]
    return Estimate(stages, kept, row_bytes, job.rows * job.columns * DOUBLE * (kept == "memory"))


def sums_bytes(job: Job, columns: int) -> float:
    """Of the sums of all folds and kinds: their rows where these are fewer than half of the columns."""
    folds, square = max(job.folds, 1), float(columns) ** 2 * DOUBLE
    per_fold = [n / folds * columns * DOUBLE for n in (job.energies, job.directions)]
    return sum(folds * (rows if 2 * rows <= square else square) for rows in per_fold)


def sums_seconds(job: Job, columns: int) -> float:
    """Of adding whitened rows up."""
    return job.rows * 2.0 * columns**2 * job.rates.flop + 4 * job.rows * columns * DOUBLE * job.rates.copy


def solving_of(direct: Solver, job: Job) -> tuple[float, float]:
    """Seconds of every ridge and combination of weights of one candidate, and bytes beside its sums."""
    folds = max(job.folds, 1)
    own_folds = -(-folds // job.ranks)
    learned = job.rows * job.ranks * (1 - 1 / folds if job.folds else 1)
    spanned = learned <= SHORT * job.columns and 2 * job.rows * job.ranks <= folds * job.columns
    size = learned if spanned else job.columns  # of a system (``in_span``); folds keep rows up to half of the rank
    solving = (own_folds + 1 / 3) * job.rates.eigen * float(size) ** 3
    solving += (own_folds + 1) * 2.0 * job.columns * learned**2 * job.rates.flop * spanned
    # energies that are fewer than a third of the system cost no decomposition for each ratio of weights
    others = job.energies * job.ranks * (1 - 1 / folds)
    ratios = job.n_ratios if 3 * others <= size else job.n_weights
    decomposed = own_folds * ratios * size**2 * DOUBLE if job.folds else 0.0
    decomposed = min(decomposed, _room(direct, job.execution))
    # every ridge: what eliminates the energies where they are split off, and their matrix
    light = others * (3 * others <= size)
    each = (2 * light**2 * size + light**3 / 3) * job.rates.flop + 3 * light * size * DOUBLE * job.rates.copy
    solving += own_folds * job.n_weights * len(job.ridges) * each * (job.folds > 0)
    # the learning curve: two Cholesky factors or more without every fold for each smaller number of folds
    solving += job.folds * len(halves(job.folds)[1:]) * 2 * float(size) ** 3 / 3 * job.rates.flop
    return solving, decomposed + 6 * job.square

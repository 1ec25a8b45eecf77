"""Every mixing of species from one pass over the rows (kernels that are linear in alpha).

Rows and K_ZZ are linear in 1 - alpha: K(alpha) = same + (1 - alpha) cross. One pass accumulates
the Gram matrices of both parts in the basis that whitens K_ZZ at alpha = 1, where it is block
diagonal; a second whitening, of 1 + (1 - alpha) T' cross T, leads from there to every alpha.
Gram matrices of rows that are not whitened lose too much accuracy for that. Since K(alpha) is at
least alpha K(1), the second step is well conditioned but for small alpha: at alpha = 0 it lost the
cross-validated errors altogether on real features, so such alphas need a pass of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mekrr_scale.arrays import RowKind
from mekrr_scale.errors import ConfigError
from mekrr_scale.models import Whitening, WhiteningBlock, whiten
from mekrr_scale.progress import Progress
from mekrr_scale.regression import Execution, Problem, RowBlock, Rows, Run, Source
from mekrr_scale.solvers import direct_work
from mekrr_scale.solvers.base import Solver, check, resumed
from mekrr_scale.solvers.job import DOUBLE, Estimate, Job, Stage
from mekrr_scale.solvers.solution import Solution

SMALLEST_ALPHA = 0.1


@dataclass(frozen=True)
class MixedRows:
    """Blocks whose matrix is [same, cross], from the rows at alpha = 1 and at alpha = 0."""

    apart: Rows
    alike: Rows

    def __iter__(self) -> Iterator[RowBlock]:
        return (block for block in self.blocks() if block is not None)

    def blocks(self, skip: int = 0) -> Iterator[RowBlock | None]:
        """See ``Rows``."""
        for own, whole in zip(self.apart.blocks(skip), self.alike.blocks(skip), strict=True):
            if own is None or whole is None:
                yield None
                continue
            yield replace(own, matrix=torch.cat([own.rows, whole.rows - own.rows], 1))


def solve_all(direct: Solver, problems: Sequence[Problem], source: Source, run: Run) -> Iterator[Solution]:
    """``Solver.solve_all`` of ``Direct``."""
    swept = [i for i, problem in enumerate(problems) if problem.kernel.mixing.alpha >= SMALLEST_ALPHA]
    solutions: dict[int, Solution] = {}
    if len(swept) > 1 and possible(problems[0], source, run):
        chosen = [problems[i] for i in swept]
        alphas = [problem.kernel.mixing.alpha for problem in chosen]
        identity: dict[str, object] = {"alphas": alphas, "kernel": repr(chosen[0].kernel.atom)}
        if chosen[0].basis.method != "eigen":  # which states do not tell that were made when there was no other
            identity["whitening"] = chosen[0].basis.method
        part = run.part("sweep", identity)
        with part.deferred():
            solutions = dict(zip(swept, solve_mixings(direct, chosen, source, part), strict=True))
    for i, problem in enumerate(problems):
        if i in solutions:
            yield solutions[i]
        else:
            yield resumed(lambda part, given=problem: direct.solve(given, source, part), problem, source, run)  # type: ignore[misc]


def possible(problem: Problem, source: Source, run: Run) -> bool:
    """Whether several alphas can share a pass: their Gram matrices take four times the memory of a single alpha's."""
    columns, derivatives = problem.landmarks.n_sets, source.moved is not None
    return problem.kernel.linear_in_alpha and _room(columns, problem.n_folds, derivatives, run.execution)


def _room(columns: int, folds: int, derivatives: bool, execution: Execution) -> bool:
    grams = 4 * columns**2 * DOUBLE * max(folds, 1) * (1 + 2 * derivatives)
    return execution.device == "cpu" and grams <= execution.memory


def estimate(direct: Solver, jobs: Sequence[Job]) -> Estimate:
    """``Solver.estimate`` of ``Direct``: alphas that share a pass, and the others one by one."""
    linear = [job for job in jobs if job.alpha is not None and job.alpha >= SMALLEST_ALPHA]
    first = jobs[0]
    room = _room(sum(first.blocks), first.folds, first.directions > 0, first.execution)
    swept = linear if len(linear) > 1 and room else []
    alone = [direct_work.estimate(direct, job) for job in jobs if job not in swept]
    return Estimate.joined([*alone, _shared(direct, swept)] if swept else alone)


def _shared(direct: Solver, jobs: Sequence[Job]) -> Estimate:
    """Of alphas that share a pass: rows of both parts, sums of twice the columns, and what each alpha makes of them."""
    apart = min(jobs, key=lambda job: job.make)
    alike = max(jobs, key=lambda job: job.make)
    base = min(jobs, key=lambda job: job.whitening)  # in blocks, where one of the alphas is 1
    wide = 2 * base.columns
    summed = apart.make + alike.make + 2 * base.whiten + direct_work.sums_seconds(base, wide)
    held = base.whitening + direct_work.sums_bytes(base, wide)
    own, more = direct_work.solving_of(direct, base)
    own += base.rates.eigen * float(base.columns) ** 3 + _projecting(base)
    solving = held + 2 * base.square + direct_work.sums_bytes(base, base.columns) + more
    return Estimate([
        Stage(direct_work.PASS, held + 2 * base.work, base.tried * summed, 2 * base.tried),
        Stage(direct_work.SOLVING, solving, base.tried * len(jobs) * own),
    ])  # fmt: skip


def _projecting(job: Job) -> float:
    """Seconds from the sums of both parts to those of one alpha: of rows where they are kept, else of matrices."""
    folds, columns = max(job.folds, 1), float(job.columns)
    per_fold = [n / folds for n in (job.energies, job.directions) if n]
    products = sum(4 * n * columns**2 if n <= columns else 12 * columns**3 for n in per_fold)
    return folds * products * job.rates.flop


def solve_mixings(direct: Solver, problems: Sequence[Problem], source: Source, run: Run) -> list[Solution]:
    """One pass, then a solution for every alpha; each gets its ridge, weights and folds as ``Direct`` says.

    Args:
        problems: equal but for their alphas, which lie between 0.1 and 1.

    Raises:
        ConfigError: no alpha, or a smaller one.
    """
    alphas = [problem.kernel.mixing.alpha for problem in problems]
    if not alphas or min(alphas) < SMALLEST_ALPHA:
        raise ConfigError(f"alphas {alphas}: a sweep takes those between {SMALLEST_ALPHA} and 1; solve others alone")
    problems = [problem.of_kinds(source.kinds) for problem in problems]
    first = problems[0]
    check(direct, first, source, run)
    apart, alike = first.with_alpha(1.0), first.with_alpha(0.0)
    grams = apart.kernel.gram_blocks(apart.landmarks)
    base = whiten(grams, first.basis.cut, first.basis.method)
    count = base.n_columns
    shifted = tuple(replace(block, columns=block.columns + count) for block in base.blocks)
    both = Whitening(base.blocks + shifted, 2 * count)
    counted = replace(run, progress=_Multiplied(run.progress, len(problems)))
    moments = direct_work.sums_of(first, MixedRows(apart.rows(source), alike.rows(source)), both, counted)
    transform = base.coefficients(torch.eye(base.rank, dtype=torch.float64))
    cross = base.pull((alike.kernel.gram(alike.landmarks) - torch.block_diag(*grams)) @ transform)
    return [_mixed(direct, problem, moments, transform, cross, run) for problem in problems]


def _mixed(
    direct: Solver,
    problem: Problem,
    moments: direct_work.MomentTable,
    transform: Tensor,
    cross: Tensor,
    run: Run,
) -> Solution:
    """The solution at one alpha, from the sums of both parts of the rows."""
    alpha, count = problem.kernel.mixing.alpha, len(transform)
    mixed = torch.eye(len(cross), dtype=torch.float64) + (1 - alpha) * (cross + cross.T) / 2
    second = whiten([mixed], problem.basis.cut, problem.basis.method).blocks[0]
    basis = torch.cat([second.matrix, (1 - alpha) * second.matrix])
    projected = {kind: [part.projected(basis) for part in moments[kind]] for kind in RowKind}
    block = WhiteningBlock(torch.arange(count), transform @ second.matrix, second.spectrum)
    return direct_work.from_sums(direct, problem, projected, Whitening((block,), count), run)


@dataclass(frozen=True)
class _Multiplied:
    """Progress in which a row counts for every problem that it serves."""

    inner: Progress
    times: int

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        self.inner.stage(name, total, unit)

    def advance(self, steps: int = 1) -> None:
        self.inner.advance(steps * self.times)

    def note(self, text: str) -> None:
        self.inner.note(text)

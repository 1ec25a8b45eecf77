"""What is said before a fit, against what a fit then holds, and against operations counted by hand."""

from dataclasses import fields, replace

import pytest

from mekrr_scale.regression import Execution, Run
from mekrr_scale.solvers import Direct, Exact, Falkon, Job, Rates
from tests.solvers.test_solvers import made

FREE = Rates(**{field.name: 0.0 for field in fields(Rates)})
JOB = Job(
    rates=FREE,
    execution=Execution(memory="1G", scratch=None),
    ranks=1,
    energies=40,
    directions=0,
    structures=40,
    n_species=3,
    dim=4,
    blocks=(60,),
    rank_part=1.0,
    tried=1,
    ridges=(1e-3, 1e-2),
    n_weights=1,
    n_ratios=1,
    folds=4,
    work=1000.0,
    block_rows=16,
)


def costing(**rates):
    return replace(FREE, **rates)


def seconds(solver, job, **rates):
    return [stage.seconds for stage in solver.estimate(replace(job, rates=costing(**rates))).stages]


@pytest.mark.parametrize("singletons", [60, 12])
def test_direct_holds_what_was_said(singletons):
    """The sums of a pass by folds, 10 structures in each: as rows where these are few, as Gram matrices where not."""
    problem, source = made(n=40, singletons=singletons, folds=4, cut=1e-13)
    whitening = problem.whitening()
    sums = Direct().accumulate(problem, problem.rows(source), whitening, Run())
    parts = [part for kind in sums.values() for part in kind if part.rows]
    factors = [part.factor for part in parts]
    light = [factor is not None and 2 * len(factor) <= whitening.rank for factor in factors]
    held = sum((factor if few else part.gram).nbytes for part, factor, few in zip(parts, factors, light, strict=True))
    job = replace(JOB, blocks=(whitening.rank,))
    per_fold = 8 * 10 * whitening.rank if whitening.rank >= 20 else 8 * whitening.rank**2
    assert job.square == 8 * whitening.rank**2
    first = Direct().estimate(job).stages[0]
    assert first.bytes == job.whitening + 8 * 40 * whitening.rank + job.work + 4 * per_fold
    assert all(light) == (singletons == 60)
    assert any(light) == (singletons == 60)
    assert held == 4 * per_fold
    kept = Direct().estimate(job)
    assert (kept.kept, kept.row_bytes) == ("memory", 8 * 40 * whitening.rank)
    assert kept.held_bytes == kept.row_bytes
    solving = kept.stages[1].bytes
    # decompositions of four folds, each in the span of the 30 rows that it learns where they are fewer than the rank
    decomposed = 4 * 8 * min(30, whitening.rank) ** 2
    assert solving == first.bytes - job.work + 6 * job.square + decomposed
    poor = Direct().estimate(replace(job, execution=Execution(memory=512, scratch=None)))
    assert (poor.kept, poor.held_bytes) == ("nothing", 0.0)
    assert poor.stages[0].bytes == first.bytes - kept.row_bytes + 512
    assert poor.stages[1].bytes == solving - kept.row_bytes - decomposed + 256  # half of the memory for them


def test_operations_of_a_direct_fit():
    """N M^2 multiplications and additions, the same for whitening; every fold and a third for the whole decomposed; two
    Cholesky factors, M^3 / 3, of one fold for each that it is tested on, for the learning curve."""
    job = replace(JOB, directions=40, tried=3)
    assert seconds(Direct(), job, flop=1.0) == [3 * (80 * 2 * 60**2 + 80 * 2 * 60**2), 3 * 4 * 2 * 60**3 / 3]
    assert seconds(Direct(), replace(job, folds=10), flop=1.0)[1] == 3 * 10 * 3 * 2 * 60**3 / 3  # of 4, 2, 1 folds
    assert seconds(Direct(), job, kernel=1.0) == [3 * 40, 0.0]
    assert seconds(Direct(), job, derivative=1.0) == [3 * 40, 0.0]
    assert seconds(Direct(), job, copy=1.0) == [3 * 4 * 80 * 60 * 8, 0.0]
    assert seconds(Direct(), job, eigen=1.0) == [0.0, pytest.approx(3 * (4 + 1 / 3) * 60**3)]
    assert seconds(Direct(), replace(job, ranks=3), eigen=1.0) == [0.0, pytest.approx(3 * (2 + 1 / 3) * 60**3)]
    assert seconds(Direct(), replace(job, folds=0), eigen=1.0) == [0.0, pytest.approx(3 * (1 + 1 / 3) * 60**3)]
    assert [stage.passes for stage in Direct().estimate(job).stages] == [3, 0]


def test_operations_of_every_ridge():
    """Of 30 energies that a fold learns, split off from 120 columns: a product and a Cholesky factor for each ridge."""
    job = replace(JOB, directions=400, blocks=(120,), n_weights=3)
    curve = 4 * 2 * 120**3 / 3
    every = 4 * 3 * 2 * (2 * 30**2 * 120 + 30**3 / 3)
    assert seconds(Direct(), job, flop=1.0)[1] == pytest.approx(curve + every)
    assert seconds(Direct(), job, copy=1.0)[1] == pytest.approx(4 * 3 * 2 * 3 * 30 * 120 * 8)
    assert seconds(Direct(), replace(job, folds=0), flop=1.0)[1] == 0.0


APART = replace(JOB, alpha=1.0, blocks=(30, 20, 10), rates=costing(kernel=1.0), tried=2)
ALIKE = replace(JOB, alpha=0.5, rates=costing(kernel=3.0), tried=2)


def test_alphas_that_share_a_pass():
    """Rows of both parts are made once for all alphas; their sums have twice the columns, and each alpha a second
    whitening, products that lead to its own sums, and what a solution takes anyway."""
    family = APART, ALIKE, replace(ALIKE, alpha=0.25)
    first, second = Direct().estimate(*family).stages
    assert (first.name, second.name) == ("pass over the rows", "ridges, weights and folds")
    assert (first.seconds, first.passes) == (2 * (40 + 3 * 40), 4)
    assert (second.seconds, second.passes) == (0.0, 0)

    def taken(**rates):
        jobs = [replace(job, rates=costing(**rates)) for job in family]
        return [stage.seconds for stage in Direct().estimate(*jobs).stages]

    projected = 4 * 10 * 4 * 60**2  # the 10 energies of each of four folds, from 120 columns to 60
    alone = seconds(Direct(), replace(ALIKE, tried=1), flop=1.0)[1]
    in_blocks = 40 * 2 * (30**2 + 20**2 + 10**2)
    assert taken(flop=1.0) == [2 * (2 * in_blocks + 40 * 2 * 120**2), pytest.approx(2 * 3 * (projected + alone))]
    alone = seconds(Direct(), replace(ALIKE, tried=1), eigen=1.0)[1]
    assert taken(eigen=1.0) == [0.0, pytest.approx(2 * 3 * (60**3 + alone))]
    assert first.bytes == APART.whitening + 4 * 10 * 120 * 8 + 2 * APART.work
    assert Direct().estimate(*family).kept == "nothing"


@pytest.mark.parametrize(
    "family",
    [
        [APART, replace(ALIKE, alpha=0.05)],  # too small
        [replace(APART, alpha=None), replace(ALIKE, alpha=None)],  # not linear
        [replace(job, execution=Execution(memory=1000, scratch=None)) for job in (APART, ALIKE)],
        [replace(job, execution=Execution(device="cuda", scratch=None)) for job in (APART, ALIKE)],
    ],
)
@pytest.mark.parametrize("solver", [Direct(), Falkon(), Exact()])
def test_mixings_that_share_nothing_are_solved_one_after_the_other(solver, family):
    together, alone = solver.estimate(*family), [solver.estimate(job) for job in family]
    for stage, one, other in zip(together.stages, alone[0].stages, alone[1].stages, strict=True):
        assert stage.seconds == one.seconds + other.seconds
        assert stage.passes == one.passes + other.passes
        assert stage.bytes == max(one.bytes, other.bytes)
    assert together.row_bytes == max(one.row_bytes for one in alone)


def test_operations_of_few_rows():
    """Of 40 energies and 8 directions folds learn 36 rows, whose span is solved in: a QR decomposition leads there."""
    job = replace(JOB, directions=8, tried=3)
    assert seconds(Direct(), job, eigen=1.0) == [0.0, pytest.approx(3 * (4 + 1 / 3) * 36**3)]
    assert seconds(Direct(), job, flop=1.0)[1] == pytest.approx(3 * (5 * 2 * 60 * 36**2 + 4 * 2 * 36**3 / 3))
    for more in (
        replace(job, directions=40),
        replace(job, ranks=3),
        replace(job, folds=0),
    ):  # too many to keep, or learn
        assert seconds(Direct(), more, flop=1.0)[1] == 2 * more.folds * 60**3  # of the learning curve alone
        assert seconds(Direct(), more, eigen=1.0)[1] >= 3 * (1 + 1 / 3) * 60**3


def test_operations_of_iterations():
    """Rows of 64 numbers that are kept; a subset of the rows for the preconditioner; each iteration sees each row."""
    job, solver = replace(JOB, directions=10, tried=3), Falkon((1e-3, 1e-2), subset=0.5)
    width = solver.estimate(job).row_bytes / 50 / 8
    assert [stage.passes for stage in solver.estimate(job).stages] == [3, 0, 0]
    assert width >= 60 + 3
    assert width % 8 == 0
    assert seconds(solver, job, flop=1.0) == [3 * (50 * 2 * 60**2 + 25 * 2 * 60**2), 0.0, 0.0]
    assert seconds(solver, job, eigen=1.0) == [0.0, 3 * 60**3, 0.0]
    assert seconds(solver, job, copy=1.0) == [3 * 4 * 50 * width * 8, 0.0, 0.0]
    assert seconds(solver, job, write=1.0) == [0.0, 0.0, 0.0]
    assert seconds(solver, job, kernel=1.0) == [3 * 40, 0.0, 0.0]
    found = solver.estimate(replace(job, rates=costing(thin=1.0, kernel=1.0)))
    assert (found.kept, found.seconds_iteration) == ("memory", 50 * 60)
    first, _, later = found.stages
    in_memory = 50 * width * 8
    assert first.bytes == job.whitening + in_memory + 6 * job.square + job.work
    assert later.bytes == first.bytes - job.work + 25 * 60 * 10 * 8  # 2 ridges of 4 folds and of all
    without = replace(job, execution=Execution(memory=512, scratch=None))
    found = solver.estimate(replace(without, rates=costing(thin=1.0, kernel=1.0)))
    assert (found.kept, found.seconds_iteration) == ("nothing", 50 * 60 + 40)
    assert found.stages[0].bytes == first.bytes - in_memory
    twice = replace(without, n_weights=2)
    assert seconds(solver, twice, kernel=1.0) == [3 * 2 * 40, 0.0, 0.0]
    assert seconds(solver, replace(job, n_weights=2), kernel=1.0) == [3 * 40, 0.0, 0.0]
    assert seconds(solver, replace(job, n_weights=2), eigen=1.0) == [0.0, 3 * 2 * 60**3, 0.0]


def test_large_preconditioners_are_dealt_to_the_ranks(tmp_path):
    """Above 4096 columns: a Cholesky factor, M^3 / 3, for every decade of ridges, in halves of matrices."""
    job = replace(JOB, blocks=(5000,), ranks=4, ridges=(1e-4, 5e-4, 1e-2))
    solver = Falkon(job.ridges, subset=1.0)
    expected = 2 * 5000**3 / 3 / 4
    assert seconds(solver, job, flop=1.0)[1] == pytest.approx(expected)
    assert seconds(solver, job, eigen=1.0) == [0.0, 0.0, 0.0]
    first = solver.estimate(job).stages[0]
    rows = solver.estimate(job).row_bytes
    panels = (3 * 5000**2 * 8 / 2 + 3 * 5000 * 512 * 8) / 4
    assert first.bytes == pytest.approx(job.whitening + rows + panels + job.work)
    scratch = replace(job, execution=Execution(memory=4096, scratch=tmp_path))
    found = solver.estimate(scratch)
    assert "scratch" in found.kept
    assert seconds(solver, scratch, write=1.0) == [rows, 0.0, 0.0]
    width = rows / 40
    assert found.stages[2].bytes - found.stages[1].bytes == 25 * 5000 * 15 * 8 + 2 * 16 * width


def test_many_columns_of_a_direct_fit_are_iterated():
    large = replace(JOB, blocks=(5000,))
    assert [stage.name for stage in Direct().estimate(large).stages] == ["first pass", "preconditioner", "iterations"]
    assert len(Direct().estimate(replace(large, n_weights=2)).stages) == 2
    assert len(Direct().estimate(replace(large, blocks=(4096,))).stages) == 2


def test_operations_of_the_dense_solver():
    """Cholesky factors, n^3 / 3, of three quarters of the structures for each of four folds and two ridges, and of all;
    four matrices of all structures at once."""
    job, solver = replace(JOB, blocks=(40,), tried=3), Exact((1e-3, 1e-2))
    assert seconds(solver, job, kernel=1.0) == [3 * 40, 0.0]
    assert seconds(solver, job, flop=1.0) == [0.0, pytest.approx(3 * (8 * 30**3 + 40**3) / 3)]
    assert seconds(solver, replace(job, n_weights=2), flop=1.0)[1] == pytest.approx(3 * (16 * 30**3 + 40**3) / 3)
    assert seconds(solver, replace(job, folds=0), flop=1.0)[1] == pytest.approx(3 * 40**3 / 3)
    assert max(stage.bytes for stage in solver.estimate(job).stages) == 4 * 40**2 * 8

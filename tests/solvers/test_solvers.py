"""Solvers against dense kernel ridge regression, refits and each other."""

import math
import weakref
from dataclasses import replace

import pytest
import torch

from mekrr_scale.arrays import DERIVATIVES, KINDS, FeatureBatch, RowKind
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, Transform
from mekrr_scale.landmarks import Uniform, WholeStructures, median_distance
from mekrr_scale.models import fit_baseline, whiten
from mekrr_scale.regression import (
    ENERGY_ALONE,
    Basis,
    Problem,
    RowBlock,
    Run,
    Source,
    assign_folds,
)
from mekrr_scale.solvers import (
    Direct,
    Exact,
    Falkon,
    FalkonLibrary,
    Moments,
    Normal,
    joined_moments,
    restored_table,
    table_tensors,
    weight_paths,
)
from mekrr_scale.solvers.sweep import solve_mixings
from mekrr_scale.store import FeatureStore
from tests import reference
from tests.solvers.problems import made, rows_of, weighted

RIDGES = (1e-6, 1e-4, 1e-2)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_whole_structures_equal_dense_ridge_regression(alpha, reduce):
    problem, source = made(alpha=alpha, reduce=reduce, folds=0, cut=1e-12)
    (batch,) = source.energies
    test = reference.random_batch(99, n_structures=10)
    structures, others = reference.structures_of(batch), reference.structures_of(test)
    gram, cross = (reference.dense_gram(problem.kernel, s, structures) for s in (structures, others))
    (block,) = problem.rows(source)
    largest = float(torch.linalg.eigvalsh(gram)[-1])
    for relative in (1e-6, 1e-3):
        ridge = relative * largest
        expected = cross @ reference.kernel_ridge(gram, block.target, block.weight, ridge)
        for solver in (Direct((ridge,)), Exact((ridge,))):
            found = rows_of(problem) @ solver.solve(problem, source).value[:, 0]
            assert float((found - expected).abs().max() / expected.abs().max()) < 1e-8


@pytest.mark.parametrize(("reduce", "alpha"), [("sum", 0.4), ("sum", 1.0), ("mean", 0.4), ("mean", 1.0)])
def test_singletons_on_every_atom_equal_dense_ridge_regression(reduce, alpha):
    problem, source = made(alpha=alpha, reduce=reduce, folds=0, cut=1e-12)
    (batch,) = source.energies
    everyone = Uniform(int(batch.n_atoms.sum())).select([batch], problem.kernel)
    problem = replace(problem, landmarks=everyone)
    (block,) = problem.rows(source)
    structures = reference.structures_of(batch)
    gram = reference.dense_gram(problem.kernel, structures, structures)
    ridge = 1e-5 * float(torch.linalg.eigvalsh(gram)[-1])
    test = reference.random_batch(98, n_structures=8)
    cross = reference.dense_gram(problem.kernel, reference.structures_of(test), structures)
    expected = cross @ reference.kernel_ridge(gram, block.target, block.weight, ridge)
    found = problem.kernel.rows(test, everyone) @ Direct((ridge,)).solve(problem, source).value[:, 0]
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-7


def test_separate_species_make_a_block_diagonal_gram():
    problem, _ = made(alpha=1.0, singletons=20)
    kernel, landmarks = problem.kernel, problem.landmarks
    gram = kernel.gram(landmarks)
    apart = landmarks.species[:, None] != landmarks.species
    assert bool((gram[apart] == 0).all())
    assert kernel.separate(landmarks)
    assert len(kernel.gram_blocks(landmarks)) == len(landmarks.species.unique())


def test_order_and_split_do_not_change_the_model():
    problem, source = made(singletons=15)
    kernel = problem.kernel
    (batch,) = source.energies
    pieces = [_part(batch, range(a, b)) for a, b in ((30, 40), (0, 13), (13, 30))]
    other = Uniform(15).select(pieces, kernel)
    assert torch.equal(other.features, problem.landmarks.features)
    assert median_distance(pieces, kernel.transform, 0) == median_distance([batch], kernel.transform, 0)
    split = replace(
        problem, landmarks=other, baseline=fit_baseline(pieces, "composition"), folds=assign_folds(pieces, 4)
    )
    direct = Direct(RIDGES)
    first, second = direct.solve(problem, source), direct.solve(split, Source(pieces))
    assert first.ridges == second.ridges
    test = rows_of(problem, 5, 6)
    torch.testing.assert_close(test @ first.value, test @ second.value, rtol=1e-7, atol=1e-9)
    for a, b in zip(first.path.points, second.path.points, strict=True):
        assert a.rmse[RowKind.ENERGY] == pytest.approx(b.rmse[RowKind.ENERGY], rel=1e-7)


def _part(batch, indices):
    structures = reference.structures_of(batch)
    chosen = [structures[i] for i in indices]
    sizes = torch.tensor([0, *(len(z) for z, _ in chosen)])
    part = FeatureBatch.from_atoms(
        torch.cat([h for _, h in chosen]),
        torch.tensor([a for z, _ in chosen for a in z]),
        sizes.cumsum(0),
        batch.energy[list(indices)],
    )
    return replace(part, ids=batch.ids[list(indices)], sources=_sources(batch, part, indices))


def _sources(batch, part, indices):
    kept = []
    for run in part.runs:
        place = [r.z for r in batch.runs].index(run.z)
        whole, source = batch.runs[place], batch.sources[place]
        kept.append(torch.cat([source[whole.ptr[i] : whole.ptr[i + 1]] for i in indices]))
    return tuple(kept)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("tangents", [False, True])
def test_paths_agree_with_refits(reduce, tangents):
    """Every ridge, weight and fold of one pass equals a fit of its own, baseline included."""
    weights = (weighted(1.0, 0.3, 0.1), weighted(1.0, 0.05)) if tangents else (ENERGY_ALONE,)
    problem, source = made(reduce=reduce, singletons=12, tangents=tangents, n=30, weights=weights)
    (batch,), baseline, whitening = source.energies, problem.baseline, problem.whitening()
    folds = problem.fold_of(batch)
    solution = Direct(RIDGES).solve(problem, source)
    assert len(solution.path.points) == len(RIDGES) * len(weights)
    blocks = list(problem.rows(source))
    for point in solution.path.points:
        squares = dict.fromkeys(RowKind, 0.0)
        shares = dict.fromkeys(RowKind, 0.0)
        for fold in range(4):
            kept = [i for i in range(batch.n_structures) if int(folds[i]) != fold]
            own = fit_baseline([_part(_bare(batch), kept)], "composition")
            shift = torch.zeros(len(baseline.species), dtype=torch.float64)
            for z, energy in zip(own.species, own.energies, strict=True):
                shift[baseline.species.index(z)] = energy
            delta = shift - baseline.energies
            left, right = [], []
            for block in blocks:
                weight = point.weights[block.kind]
                inside = block.fold != fold
                phi = whitening.rows(block.matrix[inside])
                w = weight * block.weight[inside]
                y = block.target[inside] - (block.counts[inside] @ delta) * block.scale[inside]
                left.append((phi * w[:, None]).T @ phi)
                right.append(phi.T @ (w * y))
            gram = sum(left) + point.ridge * torch.eye(whitening.rank, dtype=torch.float64)
            beta = torch.linalg.solve(gram, sum(right))
            for block in blocks:
                held = block.fold == fold
                y = block.target[held] - (block.counts[held] @ delta) * block.scale[held]
                error = whitening.rows(block.matrix[held]) @ beta - y
                squares[block.kind] += float((block.weight[held] * error.square()).sum())
                shares[block.kind] += float(block.share[held].sum())
        expected = {kind: math.sqrt(squares[kind] / shares[kind]) if shares[kind] else math.nan for kind in RowKind}
        for kind in RowKind:
            there = kind == RowKind.ENERGY or (tangents and kind in DERIVATIVES and KINDS[kind].judged)
            assert point.rmse[kind] == pytest.approx(expected[kind], rel=1e-8, nan_ok=not there)


def _bare(batch):
    return replace(batch, runs=tuple(replace(run, tangents=None) for run in batch.runs), directions=None)


def test_an_error_lost_to_rounding_does_not_win():
    """Where b'Gb - 2b'g + y'y cancels below its rounding, the error is put at that, never at zero."""
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    beta = 1e8 * torch.randn(6, 1, generator=generator, dtype=torch.float64)
    target = (phi @ beta)[:, 0]
    ones, counts = torch.ones(30, dtype=torch.float64), torch.zeros(30, 1, dtype=torch.float64)
    every = torch.zeros(30, dtype=torch.int64)
    block = RowBlock(RowKind.FORCE, phi, target, ones, ones, counts, ones, every, every)
    moments = Moments.zero(6, 1)
    moments.add(phi, block, every == 0)
    error = float(moments.squared_error(beta, torch.zeros(1, dtype=torch.float64))[0])
    assert error >= 8e-16 * float(phi.square().sum()) / 6 * float(beta.square().sum())


def test_sums_of_a_version_that_knew_fewer_kinds_are_read():
    problem, source = made(tangents=True)
    sums = Direct(RIDGES).accumulate(problem, problem.rows(source), problem.whitening(), Run())
    tensors = table_tensors(sums)
    assert {name.split("/")[0] for name in tensors} == {kind.name for kind in RowKind}
    older = {name: value for name, value in tensors.items() if not name.startswith("STRESS/")}
    found = restored_table(older, 4)
    assert set(found) == set(RowKind)
    assert all(part.rows == 0 for part in found[RowKind.STRESS])
    for kind in (RowKind.ENERGY, RowKind.FORCE):
        assert [part.rows for part in found[kind]] == [part.rows for part in sums[kind]]
    joined = joined_moments(found, sums)
    assert [part.rows for part in joined[RowKind.STRESS]] == [part.rows for part in sums[RowKind.STRESS]]
    assert [part.rows for part in joined[RowKind.ENERGY]] == [2 * part.rows for part in sums[RowKind.ENERGY]]


@pytest.mark.parametrize("singletons", [14, 0])
def test_alpha_sweep_agrees_with_refits(singletons):
    """Every alpha of one pass equals a fit of its own: errors of all ridges, weights, and predictions."""
    problem, source = made(
        n=30, singletons=singletons, tangents=True, cut=1e-12, weights=(weighted(1.0, 0.2, 0.1), weighted(1.0))
    )
    problems = [problem.with_alpha(alpha) for alpha in (0.1, 0.4, 0.9, 1.0)]
    direct = Direct((1e-4, 1e-2))
    passes = []

    class Counted(list):
        def __iter__(self):
            passes.append(1)
            return super().__iter__()

    once = Source(Counted(source.energies), Counted(source.moved))
    swept = solve_mixings(direct, problems, once, Run())
    assert len(passes) == 4  # energies and derivatives, of species apart and alike
    for own, found in zip(problems, swept, strict=True):
        expected = direct.solve(own, source)
        assert found.ridges == expected.ridges
        assert found.weights == expected.weights
        values = own.kernel.rows(reference.random_batch(55), own.landmarks)
        torch.testing.assert_close(values @ found.value, values @ expected.value, rtol=1e-6, atol=1e-8)
        for a, b in zip(found.path.points, expected.path.points, strict=True):
            assert (a.ridge, a.weights) == (b.ridge, b.weights)
            assert a.rmse[RowKind.ENERGY] == pytest.approx(b.rmse[RowKind.ENERGY], rel=1e-6)
            assert a.rmse[RowKind.FORCE] == pytest.approx(b.rmse[RowKind.FORCE], rel=1e-6)
    with pytest.raises(ConfigError, match="solve others alone"):
        solve_mixings(direct, [problem.with_alpha(0.0)], source, Run())
    with pytest.raises(ConfigError, match=r"alpha is 1\.2"):
        problem.with_alpha(1.2)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_exact_path_agrees_with_direct(reduce):
    problem, source = made(reduce=reduce, n=24, cut=1e-12)
    ridges = tuple(r * float(torch.linalg.eigvalsh(problem.kernel.gram(problem.landmarks))[-1]) for r in RIDGES)
    dense = Exact(ridges).solve(problem, source)
    # Nystrom with all structures keeps the held-out ones as landmarks, so only the full fit is the same
    direct = Direct((dense.ridges[0],)).solve(replace(problem, folds=None), source)
    test = rows_of(problem, 7, 6)
    torch.testing.assert_close(test @ direct.value, test @ dense.value, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("method", ["eigen", "cholesky"])
def test_whitening_makes_the_gram_the_identity(method):
    problem, _ = made(singletons=30, alpha=0.3)
    whitening = replace(problem, basis=Basis(1e-10, method)).whitening()
    identity = torch.eye(whitening.rank, dtype=torch.float64)
    transform, gram = whitening.coefficients(identity), problem.kernel.gram(problem.landmarks)
    torch.testing.assert_close(transform.T @ gram @ transform, identity, rtol=0, atol=1e-5)
    rows = torch.randn(4, whitening.n_columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(whitening.rows(rows), rows @ transform, rtol=1e-10, atol=1e-8)
    torch.testing.assert_close(whitening.pull(rows.T), transform.T @ rows.T, rtol=1e-10, atol=1e-8)


def test_both_whitenings_give_the_same_predictions():
    problem, source = made(n=50, singletons=30, folds=0)
    found = [
        rows_of(problem, 70, 6) @ Direct((1e-4,)).solve(replace(problem, basis=Basis(1e-12, method)), source).value
        for method in ("eigen", "cholesky")
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Direct(()), ConfigError, "ridges is empty"),
        (lambda: Direct((-1e-3,)), ConfigError, "positive"),
        (lambda: made(weights=(weighted(0.0),)), ConfigError, "not all zero"),
        (lambda: made(weights=(weighted(1.0, -0.1),)), ConfigError, "not be negative"),
        (lambda: replace(made()[0], weights=()), ConfigError, "at least one"),
        (lambda: Falkon((1e-3,), subset=0.0), ConfigError, "subset"),
        (lambda: Falkon((1e-3,), subset=1.01), ConfigError, "subset"),
        (lambda: Falkon((1e-3,), rtol=0.0), ConfigError, "rtol"),
        (lambda: Falkon((1e-3,), max_steps=0), ConfigError, "max_steps"),
        (lambda: Falkon((1e-3,), patience=0), ConfigError, "patience"),
        (lambda: FalkonLibrary((1e-3,), max_steps=0), ConfigError, "max_steps"),
        (lambda: Falkon((0.0,)), ConfigError, "positive"),
        (lambda: Exact((float("inf"),)), ConfigError, "finite"),
        (lambda: whiten([torch.eye(2).double()], 2.0), ConfigError, "cut"),
        (lambda: whiten([torch.full((2, 2), float("nan")).double()]), SolverError, "not finite"),
        (lambda: whiten([torch.zeros(2, 2).double()]), SolverError, "no positive eigenvalue"),
        (
            lambda: Uniform(10_000).select([reference.random_batch(0)], made()[0].kernel),
            ConfigError,
            "at most that many",
        ),
        (lambda: Uniform(0).select(made()[1].energies, made()[0].kernel), ConfigError, "at least one"),
        (lambda: WholeStructures(99).select(made()[1].energies, made()[0].kernel), ConfigError, "hold 40"),
        (lambda: assign_folds([reference.random_batch(0)], 7), ConfigError, "use fewer folds"),
        (lambda: assign_folds([reference.random_batch(0)], 1), ConfigError, "at least 2"),
    ],
)
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_pass_holds_one_block_at_a_time(tmp_path):
    """Peak memory follows the block, not the data: no more than two blocks of rows are alive."""
    from tests.store.test_store import fill

    fill(tmp_path / "s", count=60)
    store = FeatureStore(tmp_path / "s", max_atoms=20)
    kernel = SetKernel(Gaussian(2.0), SpeciesMixing(0.0), "sum", Transform.identity(6))
    problem = Problem(kernel, Uniform(10).select(store, kernel), fit_baseline(store, "composition"))
    alive, most, atoms = weakref.WeakSet(), [], []

    class Watched:
        """The problem's rows, and how many of their blocks are alive."""

        def __iter__(self):
            for batch, block in zip(store, problem.rows(Source(store)), strict=True):
                atoms.append(int(batch.n_atoms.sum()))
                alive.add(block)
                most.append(len(alive))
                yield block

        def blocks(self, skip=0):
            raise NotImplementedError

    Direct().accumulate(problem, Watched(), problem.whitening(), Run())
    assert len(most) > 8
    assert max(most) <= 2
    assert max(atoms) <= 20


def test_folds_of_another_assignment_are_refused():
    problem, source = made(singletons=10, folds=4)
    three = replace(problem, folds=replace(problem.folds, count=3))
    for solver in (Direct((1e-3,)), Falkon((1e-3,))):
        with pytest.raises(ConfigError, match="assign them alike"):
            solver.solve(three, source)
    with pytest.raises(ConfigError, match="assign them alike"):
        Direct((1e-3,)).accumulate(three, problem.rows(source), problem.whitening(), Run())
    (batch,) = source.energies
    with pytest.raises(ConfigError, match="not among those that the folds were made of"):
        Direct((1e-3,)).solve(replace(problem, folds=assign_folds([_part(batch, range(20))], 4)), source)


def test_no_usable_rows():
    batch = replace(reference.random_batch(0), energy=torch.full((6,), math.nan, dtype=torch.float64))
    with pytest.raises(ConfigError, match="no structure in the store has an energy"):
        fit_baseline([batch], "composition")


@pytest.mark.parametrize(
    ("light", "middle", "heavy"),
    [(5, 200, 50), (0, 200, 50), (5, 8, 50), (30, 200, 50), (4, 6, 20), (4, 0, 7), (20, 6, 13)],
)
def test_weight_paths_equal_refits(light, middle, heavy):
    """Few energies split off, two heavy kinds, rows alone, fewer rows than the rank: as one dense solve gives it."""
    generator = torch.Generator().manual_seed(light + middle)
    rank, ridges = 40, (1e-6, 1e-3, 1.0)
    weights = [weighted(1.0, 1.0), weighted(1.0, 1e-3), weighted(2.0, 0.1, 0.3), weighted(1.0)]
    factors = [torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in (light, middle, heavy)]
    factors[0][:, :3] *= 1e3  # energies see directions that forces hardly do
    factors[1][:, :3] *= 1e-2
    targets = [f.T @ torch.randn(len(f), generator=generator, dtype=torch.float64) for f in factors]
    kinds = {}
    for kind, factor, target in zip(list(RowKind)[:3], factors, targets, strict=True):
        few = len(factor) <= rank // 2
        kinds[kind] = Normal(None if few else factor.T @ factor, factor if few else None, target)
    found = weight_paths(kinds, weights, ridges)
    for combination in weights:
        for i, ridge in enumerate(ridges):
            gram = ridge * torch.eye(rank, dtype=torch.float64)
            side = torch.zeros(rank, dtype=torch.float64)
            for kind, factor, target in zip(kinds, factors, targets, strict=True):
                w = combination[kind]
                gram += w * factor.T @ factor
                side += w * target
            expected = torch.linalg.solve(gram, side)
            error = (found[combination][:, i] - expected).norm() / expected.norm().clamp_min(1e-300)
            # both solve to the condition of the system; the residual is what either can promise
            residual = (gram @ found[combination][:, i] - side).norm() / side.norm().clamp_min(1e-300)
            assert float(residual) < 1e-10
            assert float(error) < 1e-8 or float(torch.linalg.cond(gram)) > 1e8

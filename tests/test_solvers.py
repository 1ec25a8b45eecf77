"""Solvers against dense kernel ridge regression, refits and each other."""

import math
import weakref
from dataclasses import replace

import pytest
import torch

from mekrr_scale.arrays import FeatureBatch, RowBlock, RowKind
from mekrr_scale.baselines import fit_baseline
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing
from mekrr_scale.landmarks import FarthestPoint, LeverageScores, Uniform, WholeStructures
from mekrr_scale.operators import NormalOperator, SpectralPreconditioner, classical_gram
from mekrr_scale.pool import median_distance
from mekrr_scale.rows import DerivativeRows, EnergyRows, Rows, assign_folds
from mekrr_scale.solvers import AlphaSweep, Direct, Exact, Falkon, MixedRows, Result
from mekrr_scale.solvers.moments import Moments, accumulate
from mekrr_scale.solvers.path import Normal, weight_paths
from mekrr_scale.store import FeatureStore
from mekrr_scale.transforms import Transform, fit_transform
from mekrr_scale.whitening import whiten
from tests import reference

RIDGES = (1e-6, 1e-4, 1e-2)


def problem(seed=0, n=40, alpha=0.4, reduce="sum", singletons=0, folds=4, tangents=False, batches=1):
    whole = reference.random_batch(seed, n_structures=n)
    if tangents:
        whole, _ = reference.with_tangents(whole, seed + 1)
    kernel = SetKernel(Gaussian(1.6), SpeciesMixing(alpha), reduce, fit_transform([whole], "centre"))
    selection = Uniform(singletons) if singletons else WholeStructures()
    landmarks = selection.select([whole], kernel)
    baseline = fit_baseline([whole], "composition")
    parts = assign_folds([whole], folds)
    sources = [EnergyRows([whole], kernel, landmarks, baseline, parts)]
    if tangents:
        sources.append(DerivativeRows([whole], kernel, landmarks, baseline, parts, torch.float64))
    return whole, kernel, landmarks, baseline, Rows(tuple(sources)), parts


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_whole_structures_equal_dense_ridge_regression(alpha, reduce):
    batch, kernel, landmarks, baseline, rows, _ = problem(alpha=alpha, reduce=reduce)
    test = reference.random_batch(99, n_structures=10)
    structures, others = reference.structures_of(batch), reference.structures_of(test)
    gram, cross = (reference.dense_gram(kernel, s, structures) for s in (structures, others))
    block = next(iter(rows))
    largest = float(torch.linalg.eigvalsh(gram)[-1])
    whitening = whiten(kernel.gram_blocks(landmarks), 1e-12)
    for relative in (1e-6, 1e-3):
        ridge = relative * largest
        expected = cross @ reference.kernel_ridge(gram, block.target, block.weight, ridge)
        solution = Direct((ridge,)).solve(rows, whitening, baseline)
        found = kernel.rows(test, landmarks) @ solution.value[:, 0]
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-8
        dense = Exact((ridge,)).solve(block.matrix, block.target, block.weight, block.counts, block.scale, baseline)
        found = kernel.rows(test, landmarks) @ dense.value[:, 0]
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-8


@pytest.mark.parametrize(("reduce", "alpha"), [("sum", 0.4), ("sum", 1.0), ("mean", 0.4), ("mean", 1.0)])
def test_singletons_on_every_atom_equal_dense_ridge_regression(reduce, alpha):
    batch, kernel, landmarks, baseline, _, _ = problem(alpha=alpha, reduce=reduce)
    atoms = int(batch.n_atoms.sum())
    everyone = Uniform(atoms).select([batch], kernel)
    rows = Rows((EnergyRows([batch], kernel, everyone, baseline),))
    block = next(iter(rows))
    structures = reference.structures_of(batch)
    gram = reference.dense_gram(kernel, structures, structures)
    ridge = 1e-5 * float(torch.linalg.eigvalsh(gram)[-1])
    test = reference.random_batch(98, n_structures=8)
    cross = reference.dense_gram(kernel, reference.structures_of(test), structures)
    expected = cross @ reference.kernel_ridge(gram, block.target, block.weight, ridge)
    solution = Direct((ridge,)).solve(rows, whiten(kernel.gram_blocks(everyone), 1e-12), baseline)
    found = kernel.rows(test, everyone) @ solution.value[:, 0]
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-7


def test_separate_species_make_a_block_diagonal_gram():
    _, kernel, landmarks, *_ = problem(alpha=1.0, singletons=20)
    gram = kernel.gram(landmarks)
    apart = landmarks.species[:, None] != landmarks.species
    assert bool((gram[apart] == 0).all())
    assert kernel.separate(landmarks)
    assert len(kernel.gram_blocks(landmarks)) == len(landmarks.species.unique())


def test_order_and_split_do_not_change_the_model():
    batch, kernel, landmarks, baseline, rows, _ = problem(singletons=15)
    pieces = [_part(batch, range(a, b)) for a, b in ((30, 40), (0, 13), (13, 30))]
    other = Uniform(15).select(pieces, kernel)
    assert torch.equal(other.features, landmarks.features)
    assert median_distance(pieces, kernel, 0) == median_distance([batch], kernel, 0)
    whitening = whiten(kernel.gram_blocks(landmarks))
    folds = assign_folds(pieces, 4)
    direct = Direct(RIDGES)
    first = direct.solve(rows, whitening, baseline, 4)
    split = Rows((EnergyRows(pieces, kernel, other, fit_baseline(pieces, "composition"), folds),))
    second = direct.solve(split, whitening, baseline, 4)
    assert first.ridges == second.ridges
    test = kernel.rows(reference.random_batch(5), landmarks)
    torch.testing.assert_close(test @ first.value, test @ second.value, rtol=1e-7, atol=1e-9)
    for a, b in zip(first.path.points, second.path.points, strict=True):
        assert a.energy_rmse == pytest.approx(b.energy_rmse, rel=1e-7)


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
    batch, kernel, landmarks, baseline, rows, folds = problem(reduce=reduce, singletons=12, tangents=tangents, n=30)
    whitening = whiten(kernel.gram_blocks(landmarks))
    weights = ((1.0, 0.3, 0.1), (1.0, 0.05, 0.0)) if tangents else ((1.0, 0.0, 0.0),)
    solution = Direct(RIDGES, weights).solve(rows, whitening, baseline, 4)
    assert len(solution.path.points) == len(RIDGES) * len(weights)
    blocks = list(rows)
    for point in solution.path.points:
        squares = dict.fromkeys(RowKind, 0.0)
        shares = dict.fromkeys(RowKind, 0.0)
        for fold in range(4):
            kept = [i for i in range(batch.n_structures) if int(folds.of(batch)[i]) != fold]
            own = fit_baseline([_part(_bare(batch), kept)], "composition")
            shift = torch.zeros(len(baseline.species), dtype=torch.float64)
            for z, energy in zip(own.species, own.energies, strict=True):
                shift[baseline.species.index(z)] = energy
            delta = shift - baseline.energies
            left, right = [], []
            for block in blocks:
                weight = dict(zip(RowKind, point.weights, strict=True))[block.kind]
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
        assert point.energy_rmse == pytest.approx(expected[RowKind.ENERGY], rel=1e-8)
        if tangents:
            assert point.force_rmse == pytest.approx(expected[RowKind.FORCE], rel=1e-8)
            assert point.stress_rmse == pytest.approx(expected[RowKind.STRESS], rel=1e-8)


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


@pytest.mark.parametrize("singletons", [14, 0])
def test_alpha_sweep_agrees_with_refits(singletons):
    """Every alpha of one pass equals a fit of its own: errors of all ridges, weights, and predictions."""
    batch, kernel, landmarks, baseline, rows, folds = problem(n=30, singletons=singletons, tangents=True)
    alphas, weights = (0.1, 0.4, 0.9, 1.0), ((1.0, 0.2, 0.1), (1.0, 0.0, 0.0))
    direct = Direct((1e-4, 1e-2), weights)

    def parts(alpha):
        own = kernel.with_alpha(alpha)
        energy = EnergyRows([batch], own, landmarks, baseline, folds)
        return Rows((energy, DerivativeRows([batch], own, landmarks, baseline, folds, torch.float64)))

    apart, alike = (kernel.with_alpha(a) for a in (1.0, 0.0))
    found = AlphaSweep(direct, alphas, 1e-12).solve(
        MixedRows(parts(1.0), parts(0.0)), apart.gram_blocks(landmarks), alike.gram(landmarks), baseline, 4
    )
    test = reference.random_batch(55)
    for alpha in alphas:
        own = kernel.with_alpha(alpha)
        expected = direct.solve(parts(alpha), whiten(own.gram_blocks(landmarks), 1e-12), baseline, 4)
        assert found[alpha].ridges == expected.ridges
        values = own.rows(test, landmarks)
        torch.testing.assert_close(values @ found[alpha].value, values @ expected.value, rtol=1e-6, atol=1e-8)
        for a, b in zip(found[alpha].path.points, expected.path.points, strict=True):
            assert (a.ridge, a.weights) == (b.ridge, b.weights)
            assert a.energy_rmse == pytest.approx(b.energy_rmse, rel=1e-6)
            assert a.force_rmse == pytest.approx(b.force_rmse, rel=1e-6)
    for refused in (0.0, 1.2):
        with pytest.raises(ConfigError, match="solve others alone"):
            AlphaSweep(direct, (refused,))


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_exact_path_agrees_with_direct(reduce):
    _, kernel, landmarks, baseline, rows, _ = problem(reduce=reduce, n=24)
    block = next(iter(rows))
    ridges = tuple(r * float(torch.linalg.eigvalsh(kernel.gram(landmarks))[-1]) for r in RIDGES)
    dense = Exact(ridges).solve(
        block.matrix, block.target, block.weight, block.counts, block.scale, baseline, block.fold
    )
    # Nystrom with all structures keeps the held-out ones as landmarks, so only the full fit is the same
    direct = Direct(ridges, ridge=dense.ridges[0]).solve(rows, whiten(kernel.gram_blocks(landmarks), 1e-12), baseline)
    test = kernel.rows(reference.random_batch(7), landmarks)
    torch.testing.assert_close(test @ direct.value, test @ dense.value, rtol=1e-7, atol=1e-9)
    assert dense.ridges[0] == dense.path.best().ridge


@pytest.mark.parametrize("preconditioner", ["subset", "falkon"])
@pytest.mark.parametrize("tangents", [False, True])
def test_falkon_agrees_with_direct(preconditioner, tangents):
    _, kernel, landmarks, baseline, rows, _ = problem(n=60, singletons=25, tangents=tangents)
    whitening = whiten(kernel.gram_blocks(landmarks))
    weights = (1.0, 0.2, 0.1) if tangents else (1.0, 0.0, 0.0)
    ridges = (1e-4, 1e-3, 1e-2)
    direct = Direct(ridges, (weights,)).solve(rows, whitening, baseline, 4)
    falkon = Falkon(ridges, weights, rtol=1e-11, preconditioner=preconditioner, max_steps=500)
    found = falkon.solve(rows, whitening, baseline, 4)
    assert found.result is Result.SUCCESS
    assert found.ridges[0] == direct.ridges[0]
    test = kernel.rows(reference.random_batch(77), landmarks)
    expected = test @ direct.value[:, 0]
    assert float((test @ found.value[:, 0] - expected).abs().max() / expected.abs().max()) < 1e-6
    for a, b in zip(found.path.points, direct.path.points, strict=True):
        assert a.energy_rmse == pytest.approx(b.energy_rmse, rel=1e-5)
    for a, b in zip(found.fold_values, direct.fold_values, strict=True):
        torch.testing.assert_close(test @ a, test @ b, rtol=1e-4, atol=1e-6)
    assert found.stats["iterations"] > 0


def test_falkon_with_rows_that_do_not_fit_in_memory():
    """Evaluated again in every pass, as K (T beta): the same answer to what rounding leaves."""
    _, kernel, landmarks, baseline, rows, _ = problem(n=60, singletons=25, folds=3)
    whitening = whiten(kernel.gram_blocks(landmarks))
    kept, streamed = (
        Falkon((1e-3, 1e-2), rtol=1e-10, memory_bytes=size).solve(rows, whitening, baseline, 3) for size in (10**9, 0)
    )
    test = kernel.rows(reference.random_batch(78), landmarks)
    torch.testing.assert_close(test @ streamed.value, test @ kept.value, rtol=1e-6, atol=1e-8)
    for a, b in zip(kept.path.points, streamed.path.points, strict=True):
        assert a.energy_rmse == pytest.approx(b.energy_rmse, rel=1e-6)


def test_falkon_says_how_it_ended():
    *_, baseline, rows, _ = (p := problem(n=40, singletons=25))
    whitening = whiten(p[1].gram_blocks(p[2]))
    short = Falkon((1e-9,), max_steps=2).solve(rows, whitening, baseline)
    assert short.result is Result.MAX_STEPS
    assert "max_steps" in short.result.value
    stuck = Falkon((1e-9,), rtol=1e-40, patience=5, max_steps=2000).solve(rows, whitening, baseline)
    assert stuck.result is Result.STAGNATED


def test_operator_and_preconditioners_are_what_they_claim():
    _, kernel, landmarks, _, rows, _ = problem(n=30, singletons=15, alpha=1.0)
    whitening = whiten(kernel.gram_blocks(landmarks))
    ridges = torch.tensor([1e-3])
    operator = NormalOperator(rows, whitening, dict.fromkeys(RowKind, 1.0), torch.tensor([-1]), ridges.double())
    identity = torch.eye(whitening.rank, dtype=torch.float64)
    matrix = torch.cat([operator.apply(column[:, None]) for column in identity], 1)
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-9, atol=1e-11)
    block = next(iter(rows))
    phi = whitening.rows(block.matrix)
    expected = (phi * block.weight[:, None]).T @ phi + 1e-3 * identity
    torch.testing.assert_close(matrix, expected, rtol=1e-8, atol=1e-10)
    inverse = SpectralPreconditioner.of(expected - 1e-3 * identity, ridges.double())
    product = torch.cat([inverse.apply(column[:, None]) for column in expected], 1)
    torch.testing.assert_close(product, identity, rtol=1e-7, atol=1e-7)
    gram = kernel.gram(landmarks)
    dense = torch.block_diag(*[b.matrix for b in whitening.blocks]).T @ gram @ gram
    dense = dense @ torch.block_diag(*[b.matrix for b in whitening.blocks]) * (5.0 / whitening.n_columns)
    torch.testing.assert_close(classical_gram(whitening, 5.0), dense, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", ["eigen", "cholesky"])
def test_whitening_makes_the_gram_the_identity(method):
    _, kernel, landmarks, *_ = problem(singletons=30, alpha=0.3)
    whitening = whiten(kernel.gram_blocks(landmarks), 1e-10, method)
    identity = torch.eye(whitening.rank, dtype=torch.float64)
    transform = whitening.coefficients(identity)
    torch.testing.assert_close(transform.T @ kernel.gram(landmarks) @ transform, identity, rtol=0, atol=1e-5)
    rows = torch.randn(4, whitening.n_columns, dtype=torch.float64)
    torch.testing.assert_close(whitening.rows(rows), rows @ transform, rtol=1e-10, atol=1e-8)
    torch.testing.assert_close(whitening.pull(rows.T), transform.T @ rows.T, rtol=1e-10, atol=1e-8)


def test_both_whitenings_give_the_same_predictions():
    _, kernel, landmarks, baseline, rows, _ = problem(n=50, singletons=30)
    test = kernel.rows(reference.random_batch(70), landmarks)
    found = [
        test @ Direct((1e-4,)).solve(rows, whiten(kernel.gram_blocks(landmarks), 1e-12, m), baseline).value
        for m in ("eigen", "cholesky")
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("selection", [Uniform(9), FarthestPoint(9), LeverageScores(9), Uniform(9, balance="equal")])
def test_landmark_choices(selection):
    batch, kernel, *_ = problem(n=30)
    landmarks = selection.select([batch], kernel)
    assert landmarks.n_sets == len(landmarks.species) == 9
    atoms = torch.cat([run.features for run in batch.runs])
    assert all(bool((atoms == f).all(1).any()) for f in landmarks.features)
    assert len(torch.unique(landmarks.features, dim=0)) == 9
    again = selection.select([batch], kernel)
    assert torch.equal(again.features, landmarks.features)
    assert set(landmarks.species.tolist()) == {1, 6, 8}  # stratified: no species is left out
    other = replace(selection, seed=1).select([batch], kernel)
    assert not torch.equal(other.features, landmarks.features)


def test_farthest_points_are_farthest():
    batch, kernel, *_ = problem(n=30)
    chosen = FarthestPoint(12).select([batch], kernel)
    uniform = Uniform(12).select([batch], kernel)

    def closest(landmarks):
        z = 6
        points = landmarks.features[landmarks.species == z]
        return float(torch.pdist(points).min())

    assert closest(chosen) > closest(uniform)


def test_folds_are_balanced_and_keep_groups_together():
    batch = reference.random_batch(0, n_structures=31)
    sizes = torch.bincount(assign_folds([batch], 4).of(batch))
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    assert int(sizes.max() - sizes.min()) <= 1
    grouped = replace(batch, groups=torch.arange(31) // 5)
    folds = assign_folds([grouped], 3).of(grouped)
    assert all(len(set(folds[grouped.groups == g].tolist())) == 1 for g in range(7))


def test_baseline_is_the_minimum_norm_least_squares_fit():
    batch = reference.random_batch(3, n_structures=20)
    counts = batch.counts(batch.species).double()
    expected = torch.linalg.pinv(counts) @ batch.energy
    torch.testing.assert_close(fit_baseline([batch], "composition").energies, expected, rtol=1e-10, atol=1e-10)
    water = FeatureBatch.from_atoms(
        torch.zeros(12, 1), torch.tensor([1, 1, 8] * 4), torch.tensor([0, 3, 6, 12]), torch.tensor([-3.0, -3.1, -6.2])
    )
    counts = water.counts((1, 8)).double()
    expected = torch.linalg.pinv(counts) @ water.energy
    torch.testing.assert_close(fit_baseline([water], "composition").energies, expected, rtol=1e-8, atol=1e-8)
    with pytest.raises(ConfigError, match="needs an energy for species"):
        fit_baseline([water], "isolated", {1: -0.5})
    assert fit_baseline([water], "isolated", {1: -0.5, 8: -2.0}).energies.tolist() == [-0.5, -2.0]
    with pytest.raises(ConfigError, match="no backbone energies"):
        fit_baseline([water], "backbone")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Direct(()), ConfigError, "no ridge"),
        (lambda: Direct((-1e-3,)), ConfigError, "positive"),
        (lambda: Direct((1e-3,), ((0.0, 0.0, 0.0),)), ConfigError, "not all zero"),
        (lambda: Falkon((1e-3,), subset=0.0), ConfigError, "subset"),
        (lambda: Falkon((0.0,)), ConfigError, "positive"),
        (lambda: Exact((float("inf"),)), ConfigError, "positive"),
        (lambda: whiten([torch.eye(2).double()], 2.0), ConfigError, "cut"),
        (lambda: whiten([torch.full((2, 2), float("nan")).double()]), SolverError, "not finite"),
        (lambda: whiten([torch.zeros(2, 2).double()]), SolverError, "no positive eigenvalue"),
        (lambda: Uniform(10_000).select([reference.random_batch(0)], problem()[1]), ConfigError, "at most that many"),
        (lambda: Uniform(0).select([reference.random_batch(0)], problem()[1]), ConfigError, "at least one"),
        (lambda: WholeStructures(99).select([reference.random_batch(0)], problem()[1]), ConfigError, "hold 6"),
        (lambda: assign_folds([reference.random_batch(0)], 7), ConfigError, "use fewer folds"),
        (lambda: assign_folds([reference.random_batch(0)], 1), ConfigError, "at least 2"),
    ],
)
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_pass_holds_one_block_at_a_time(tmp_path):
    """Peak memory follows the block, not the data: no more than two blocks of rows are alive."""
    from tests.test_store import fill

    fill(tmp_path / "s", count=60)
    store = FeatureStore(tmp_path / "s", max_atoms=20)
    kernel = SetKernel(Gaussian(2.0), SpeciesMixing(0.0), "sum", Transform.identity(6))
    landmarks = Uniform(10).select(store, kernel)
    baseline = fit_baseline(store, "composition")
    alive, most, atoms = weakref.WeakSet(), [], []

    def watched():
        for batch, block in zip(store, EnergyRows(store, kernel, landmarks, baseline), strict=True):
            atoms.append(int(batch.n_atoms.sum()))
            alive.add(block)
            most.append(len(alive))
            yield block

    accumulate(watched(), whiten(kernel.gram_blocks(landmarks)), len(baseline.species), 1)
    assert len(most) > 8
    assert max(most) <= 2
    assert max(atoms) <= 20


def test_folds_of_another_assignment_are_refused():
    _, kernel, landmarks, baseline, rows, _ = problem(singletons=10, folds=4)
    whitening = whiten(kernel.gram_blocks(landmarks))
    for solver in (Direct((1e-3,)), Falkon((1e-3,))):
        with pytest.raises(ConfigError, match="assign them alike"):
            solver.solve(rows, whitening, baseline, 3)


def test_no_usable_rows():
    batch = replace(reference.random_batch(0), energy=torch.full((6,), math.nan, dtype=torch.float64))
    with pytest.raises(ConfigError, match="no structure in the store has an energy"):
        fit_baseline([batch], "composition")


@pytest.mark.parametrize(("light", "middle"), [(5, 200), (0, 200), (5, 8), (30, 200)])
def test_weight_paths_equal_refits(light, middle):
    """Few energies split off, two heavy kinds, rows alone: every ridge and weight as one dense solve gives it."""
    generator = torch.Generator().manual_seed(light + middle)
    rank, ridges = 40, (1e-6, 1e-3, 1.0)
    weights = [(1.0, 1.0, 0.0), (1.0, 1e-3, 0.0), (2.0, 0.1, 0.3), (1.0, 0.0, 0.0)]
    factors = [torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in (light, middle, 50)]
    factors[0][:, :3] *= 1e3  # energies see directions that forces hardly do
    factors[1][:, :3] *= 1e-2
    targets = [f.T @ torch.randn(len(f), generator=generator, dtype=torch.float64) for f in factors]
    kinds = []
    for factor, target in zip(factors, targets, strict=True):
        few = len(factor) <= rank // 2
        kinds.append(Normal(None if few else factor.T @ factor, factor if few else None, target))
    found = weight_paths(kinds, weights, ridges)
    for combination in weights:
        for i, ridge in enumerate(ridges):
            gram = ridge * torch.eye(rank, dtype=torch.float64)
            side = torch.zeros(rank, dtype=torch.float64)
            for w, factor, target in zip(combination, factors, targets, strict=True):
                gram += w * factor.T @ factor
                side += w * target
            expected = torch.linalg.solve(gram, side)
            error = (found[combination][:, i] - expected).norm() / expected.norm().clamp_min(1e-300)
            # both solve to the condition of the system; the residual is what either can promise
            residual = (gram @ found[combination][:, i] - side).norm() / side.norm().clamp_min(1e-300)
            assert float(residual) < 1e-10
            assert float(error) < 1e-8 or float(torch.linalg.cond(gram)) > 1e8

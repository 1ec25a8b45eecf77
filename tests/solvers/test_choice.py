"""Choosing among candidates: errors that are no numbers, ends of grids, columns that do not matter."""

import math
from dataclasses import replace

import pytest
import torch

from mekrr_scale.arrays import ByKind, FeatureBatch, RowKind, eigh
from mekrr_scale.errors import SolverError
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, fit_transform
from mekrr_scale.landmarks import WholeStructures
from mekrr_scale.models import fit_baseline
from mekrr_scale.regression import ENERGY_ALONE, Balanced, Basis, Execution, Problem, Run, Source, assign_folds
from mekrr_scale.solvers import DEFAULT_RIDGES, Direct, Exact, Falkon, Path, PathPoint, Result, direct_work
from mekrr_scale.solvers.grid import further
from mekrr_scale.solvers.moments import root_mean, typical_error
from tests import reference
from tests.solvers.test_solvers import made, rows_of, weighted

ENERGY, FORCE = RowKind.ENERGY, RowKind.FORCE
BOTH = weighted(1.0, 1e-2)
BALANCED = Balanced(frozenset({ENERGY, FORCE}))


def point(ridge, **errors):
    rmse = {RowKind[name.upper()]: value for name, value in errors.items()}
    return PathPoint(ridge, ENERGY_ALONE, ByKind.of(rmse, math.nan))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("first", [True, False])
def test_a_candidate_whose_errors_are_no_numbers_never_wins(broken, first):
    good = point(1e-3, energy=0.5, force=2.0)
    for bad in (
        point(1e-9, energy=broken, force=broken),
        point(1e-9, energy=broken, force=1e-3),
        point(1e-9, energy=1e-3, force=broken),
    ):
        listed = (bad, good) if first else (good, bad)
        assert Path(listed).best(BOTH) is good
        assert Path(listed).best(BALANCED) is good
    assert point(1e-3, energy=0.5).score(BOTH) == 0.25  # no force rows: nothing to count
    assert point(1e-3, force=1.0).score(weighted(1.0)) == math.inf  # nothing known of what is asked for


def test_a_balanced_choice_asks_for_no_units():
    """One per cent is one per cent, of whichever kind; a sum of squares sees the larger number alone."""
    first, second = point(1e-3, energy=5.0e-3, force=0.217), point(1e-6, energy=5.2e-3, force=0.167)
    for unit in (1.0, 1e3, 1e-4):
        listed = tuple(replace(p, rmse=ByKind.of({**p.rmse, FORCE: unit * p.rmse[FORCE]}, math.nan))
                       for p in (first, second))  # fmt: skip
        assert Path(listed).best(BALANCED).ridge == second.ridge
    assert Path((first, second)).best(weighted(1.0, 1e-4)) is first
    assert first.score(BALANCED) == pytest.approx(5.0e-3 * 0.217)
    assert point(1e-3, energy=0.5).score(BALANCED) == 0.25  # no force rows: nothing to count
    assert point(1e-3, force=1.0).score(Balanced(frozenset({ENERGY}))) == math.inf
    stress = replace(first, rmse=ByKind.of({**first.rmse, RowKind.STRESS: 0.01}, math.nan))
    assert stress.score(BALANCED) == first.score(BALANCED)  # not weighed
    assert stress.score(Balanced(frozenset(RowKind))) == pytest.approx((5.0e-3 * 0.217 * 0.01) ** (2 / 3))


def test_a_grid_goes_on_beyond_the_end_that_errors_fall_towards():
    rising = [1.0 + i for i in range(len(DEFAULT_RIDGES))]
    for errors, halves in ((rising, (-21, -22, -23, -24)), (rising[::-1], (-3, -2, -1, 0))):
        path = Path(tuple(point(r, energy=e) for r, e in zip(DEFAULT_RIDGES, errors, strict=True)))
        found = further(Direct(), path, ENERGY_ALONE)
        assert found == pytest.approx([10 ** (k / 2) for k in halves])
        assert further(Direct((1e-3,)), path, ENERGY_ALONE) == ()


def test_decompositions_are_kept_for_further_ridges(monkeypatch):
    """Where there is room, no system is decomposed twice; bits do not depend on it."""
    problem, source = made(n=60, folds=3)
    decomposed = []

    def counted(matrix):
        decomposed.append(len(matrix))
        return eigh(matrix)

    monkeypatch.setattr("mekrr_scale.solvers.path.eigh", counted)
    monkeypatch.setattr(direct_work, "further", lambda direct, path, criterion: more.pop() if more else ())
    found, counts = [], []
    for memory in (2**30, 0):
        more = [(1e-13, 1e-14), (1e-12,)]
        decomposed.clear()
        found.append(Direct().solve(problem, source, Run(Execution(memory=memory))))
        counts.append(len(decomposed))
    kept, again = found
    assert len(kept.path.points) == len(DEFAULT_RIDGES) + 3
    assert counts[1] == 3 * counts[0] > 0
    assert torch.equal(kept.value, again.value)
    assert [p.rmse[RowKind.ENERGY] for p in kept.path.points] == [p.rmse[RowKind.ENERGY] for p in again.path.points]


def test_weights_that_leave_no_row_are_refused():
    """Sums of energies, solved with weights of forces alone."""
    problem, source = made(n=16, folds=0)
    direct, whitening = Direct((1e-3,)), problem.whitening()
    sums = direct.accumulate(problem, problem.rows(source), whitening, Run())
    forces = replace(problem, weights=(weighted(0.0, 1.0),))
    with pytest.raises(SolverError, match="no row has a weight above zero"):
        direct.from_sums(forces, sums, whitening)


@pytest.mark.parametrize("solver", [Direct, Exact])
def test_rows_without_a_finite_error_lose(solver, monkeypatch):
    """A ridge whose fold solutions are NaN: its errors are infinite, and another is chosen."""
    problem, source = made(n=16)
    from mekrr_scale.solvers import exact_work

    paths, solved = direct_work.weight_paths, exact_work.dense_solution

    def broken_paths(kinds, weights, ridges, *kept):
        found = paths(kinds, weights, ridges, *kept)
        for values in found.values():
            values[:, 0] = math.nan
        return found

    def broken_solve(gram, target, weight, ridge):
        found = solved(gram, target, weight, ridge)
        return found * math.nan if ridge == 1e-6 and len(gram) < 16 else found

    monkeypatch.setattr(direct_work, "weight_paths", broken_paths)
    monkeypatch.setattr(exact_work, "dense_solution", broken_solve)
    found = solver((1e-6, 1e-3, 1e-1)).solve(problem, source)
    assert found.path.points[0].rmse[ENERGY] == math.inf
    assert math.isnan(found.path.points[0].rmse[FORCE])
    assert found.ridges[0] != 1e-6
    assert math.isfinite(found.score(problem.criterion))


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_exact_path_equals_refits(reduce):
    """Every ridge's cross-validated error, and the fold's solutions, from dense ridge regression by loops."""
    problem, source = made(reduce=reduce, n=18, folds=3)
    (batch,) = source.energies
    ridges = (1e-5, 1e-3, 1e-1)
    found = Exact(ridges).solve(problem, source)
    structures, folds = reference.structures_of(batch), problem.fold_of(batch)
    gram = reference.dense_gram(problem.kernel, structures, structures)
    n = batch.n_atoms.double()
    scale = 1 / n if reduce == "mean" else torch.ones_like(n)
    weight = torch.ones_like(n) if reduce == "mean" else n**-2
    counts = batch.counts(batch.species).double()
    for place, ridge in enumerate(ridges):
        square = 0.0
        for fold in range(3):
            inside = folds != fold
            references = torch.linalg.pinv(counts[inside]) @ batch.energy[inside]
            target = (batch.energy - counts @ references) * scale
            part = reference.kernel_ridge(gram[inside][:, inside], target[inside], weight[inside], ridge)
            errors = gram[~inside][:, inside] @ part - target[~inside]
            square += float((weight[~inside] * errors.square()).sum())
            if ridge == found.ridges[0]:
                torch.testing.assert_close(found.fold_values[fold][inside, 0], part, rtol=1e-6, atol=1e-8)
                assert bool((found.fold_values[fold][~inside] == 0).all())
        assert found.path.points[place].rmse[ENERGY] == pytest.approx(math.sqrt(square / 18), rel=1e-7)
    assert found.ridges[0] == min(found.path.points, key=lambda p: p.rmse[ENERGY]).ridge


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("sizes", ["one atom", "one atom, by element", "ragged"])
def test_exact_with_mean_on_structures_of_one_atom(alpha, sizes):
    """Two columns each where species mix and they come by element; the solution is that of dense ridge regression."""
    batch = reference.random_batch(3, n_structures=15, most=3 if sizes == "ragged" else 1)
    kernel = SetKernel(Gaussian(1.6), SpeciesMixing(alpha), "mean", fit_transform([batch], "centre"))
    landmarks = WholeStructures().select([batch], kernel)
    if sizes == "one atom, by element":
        energies = batch.energy[landmarks.owner]
        batch = FeatureBatch.from_atoms(landmarks.features, landmarks.species, torch.arange(16), energies)
        landmarks = WholeStructures().select([batch], kernel)
        assert kernel.n_columns(landmarks) == (30 if alpha == 0.4 else 15)
    problem = Problem(kernel, landmarks, fit_baseline([batch], "composition"), assign_folds([batch], 3))
    found = Exact((1e-3,)).solve(problem, Source([batch]))
    (block,) = problem.rows(Source([batch]))
    structures = reference.structures_of(batch)
    gram = reference.dense_gram(kernel, structures, structures)
    expected = gram @ reference.kernel_ridge(gram, block.target, torch.ones(15, dtype=torch.float64), 1e-3)
    torch.testing.assert_close(kernel.rows(batch, landmarks) @ found.value[:, 0], expected, rtol=1e-8, atol=1e-10)
    assert len(found.value) == kernel.n_columns(landmarks)
    folds = problem.fold_of(batch)
    for fold, value in enumerate(found.fold_values):
        inside = folds != fold
        counts = batch.counts(batch.species).double() / batch.n_atoms[:, None]
        references = torch.linalg.pinv(batch.counts(batch.species)[inside].double()) @ batch.energy[inside]
        target = batch.energy / batch.n_atoms - counts @ references
        ones = torch.ones(int(inside.sum()), dtype=torch.float64)
        part = reference.kernel_ridge(gram[inside][:, inside], target[inside], ones, 1e-3)
        torch.testing.assert_close(
            kernel.rows(batch, landmarks) @ value[:, 0], gram[:, inside] @ part, rtol=1e-7, atol=1e-9
        )


def learnable(seed=0, noise=0.0):
    """Structures whose energies a kernel of this length scale learns to the noise."""
    batch = reference.random_batch(seed, n_structures=60, most=3)
    energies = [float(h.sin().sum() + 0.3 * (h**2).sum()) for _, h in reference.structures_of(batch)]
    generator = torch.Generator().manual_seed(seed)
    spread = noise * torch.randn(60, generator=generator, dtype=torch.float64)
    batch = replace(batch, energy=torch.tensor(energies, dtype=torch.float64) + spread)
    kernel = SetKernel(Gaussian(3.0), SpeciesMixing(0.0), "sum", fit_transform([batch], "centre"))
    landmarks = WholeStructures().select([batch], kernel)
    folds = assign_folds([batch], 4)
    return Problem(kernel, landmarks, fit_baseline([batch], "composition"), folds, basis=Basis(1e-14)), Source([batch])


@pytest.mark.parametrize("solver", [Direct, Exact])
def test_the_default_grid_goes_on_where_errors_still_fall(solver):
    """Large noise wants ridges above 1e-2: the grid is extended by half decades until the best lies inside."""
    problem, source = learnable(noise=30.0)
    found = solver().solve(problem, source)
    ridges = sorted({p.ridge for p in found.path.points})
    assert ridges[0] == DEFAULT_RIDGES[0]
    assert ridges[-1] > DEFAULT_RIDGES[-1]
    assert ridges[0] < found.ridges[0] < ridges[-1] or found.path.end(problem.criterion) == 0
    assert found.path.end(problem.criterion) == 0
    for low, high in zip(ridges, ridges[1:], strict=False):
        assert high / low == pytest.approx(10**0.5)
    # the same numbers as if all of them had been asked for
    asked = solver(tuple(ridges)).solve(problem, source)
    assert asked.ridges == found.ridges
    torch.testing.assert_close(found.value, asked.value, rtol=1e-8, atol=1e-10)
    assert {p.ridge: p.rmse[ENERGY] for p in found.path.points} == pytest.approx(
        {p.ridge: p.rmse[ENERGY] for p in asked.path.points}, rel=1e-8
    )


def test_falkons_grid_goes_on_as_directs_does():
    """To larger ridges, which few iterations solve; not with ridges that somebody chose."""
    problem, source = learnable(noise=30.0)
    found, expected = (solver().solve(problem, source) for solver in (Falkon, Direct))
    assert found.ridges[0] == expected.ridges[0] > DEFAULT_RIDGES[-1]
    assert found.path.end(problem.criterion) == 0
    errors = {point.ridge: point.rmse[ENERGY] for point in expected.path.points}
    for point in found.path.points:
        assert math.isnan(point.rmse[ENERGY]) or point.rmse[ENERGY] == pytest.approx(errors[point.ridge], rel=1e-4)
    torch.testing.assert_close(
        rows_of(problem) @ found.value[:, 0], rows_of(problem) @ expected.value[:, 0], rtol=1e-5, atol=1e-6
    )
    assert {point.ridge for point in Falkon((1e-6, 1e-4)).solve(problem, source).path.points} == {1e-6, 1e-4}


def test_ridges_that_somebody_chose_are_left_alone():
    problem, source = learnable(noise=30.0)
    found = Direct((1e-6, 1e-4)).solve(problem, source)
    assert [p.ridge for p in found.path.points] == [1e-6, 1e-4]
    assert found.path.end(problem.criterion) == 1


def test_ends_of_grids():
    falling = Path(tuple(point(10.0**-k, energy=1.0 - 0.1 * k) for k in range(5)))
    assert falling.end() == -1
    assert Path(tuple(point(10.0**k, energy=1.0 - 0.1 * k) for k in range(5))).end() == 1
    assert Path(tuple(point(10.0**k, energy=1.0 + (k - 2) ** 2) for k in range(5))).end() == 0
    flat = Path(tuple(point(10.0**-k, energy=1.0 - 1e-3 * k) for k in range(5)))
    assert flat.end() == 0
    assert Path((point(1e-3, energy=1.0),)).end() == 0
    weights = [replace(p, weights=weighted(1.0, 0.1), rmse=ByKind.of({ENERGY: 5.0}, math.nan)) for p in falling.points]
    assert Path((*weights, *falling.points)).end() == -1


def test_iterations_are_judged_by_the_column_that_was_chosen():
    """Tiny ridges hardly converge; where another is chosen that did, there is nothing to warn of."""
    problem, source = learnable(noise=0.3)
    ridges = (1e-13, 1e-11, 1e-3, 1e-2, 1e-1)
    given = {"subset": 0.3, "max_steps": 60, "rtol": 1e-8, "patience": 60, "recompute_every": 1000}
    found = Falkon(ridges, **given).solve(problem, source)
    assert found.ridges[0] >= 1e-3
    assert found.effort.residuals[-1] > 1e-8  # of the others
    assert found.result is Result.SUCCESS
    expected = Direct(ridges).solve(problem, source)
    assert found.ridges[0] == expected.ridges[0]
    torch.testing.assert_close(
        rows_of(problem) @ found.value[:, 0], rows_of(problem) @ expected.value[:, 0], rtol=1e-5, atol=1e-6
    )
    # the hard ones alone: the warning stays
    assert Falkon(ridges[:2], **given).solve(problem, source).result is Result.MAX_STEPS
    # without folds every column is a result
    assert Falkon(ridges, **given).solve(replace(problem, folds=None), source).result is Result.MAX_STEPS


def test_columns_that_do_not_matter_are_left():
    """Ridges whose errors have risen already are not iterated to the end of the steps, and the choice is the same."""
    problem, source = learnable(noise=0.3)
    ridges = (1e-13, 1e-11, 1e-6, 1e-3, 1e-2, 1e-1)
    found = Falkon(ridges, subset=0.3, max_steps=400, rtol=1e-8, patience=400).solve(problem, source)
    expected = Direct(ridges).solve(problem, source)
    assert found.result is Result.SUCCESS
    assert found.effort.iterations <= 150  # of 400
    assert found.effort.residuals[-1] > 1e-8
    assert found.ridges[0] == expected.ridges[0]
    for mine, other in zip(found.fold_values, expected.fold_values, strict=True):
        torch.testing.assert_close(rows_of(problem) @ mine, rows_of(problem) @ other, rtol=1e-4, atol=1e-5)


def test_a_structure_far_outside_does_not_decide():
    """One fold's error is large for every candidate; the others say which is better."""
    inside, outside, share = torch.tensor([0.01, 0.04]), torch.tensor([9.0, 4.0]), 16.0
    squares = [share * inside.double()] * 4 + [share * outside.double()]
    pooled = root_mean(torch.stack(squares).sum(0), 5 * share)
    typical = typical_error(squares, [share] * 5)
    assert pooled.argmin() == 1
    assert typical.argmin() == 0
    expected = [(0.1**4 * 3.0) ** (1 / 5), (0.2**4 * 2.0) ** (1 / 5)]
    torch.testing.assert_close(typical, torch.tensor(expected, dtype=torch.float64))
    few = [square * 15 / 16 for square in squares]
    torch.testing.assert_close(typical_error(few, [15.0] * 5), pooled)  # too few in a fold to say anything


@pytest.mark.parametrize(("worst", "found"), [(math.nan, math.inf), (math.inf, math.inf), (0.0, 0.0)])
def test_typical_errors_that_are_no_numbers(worst, found):
    squares = [torch.tensor([16.0], dtype=torch.float64), torch.tensor([worst], dtype=torch.float64)]
    assert typical_error(squares, [16.0, 16.0]).tolist() == [found]
    nothing = torch.zeros(1, dtype=torch.float64)
    assert math.isnan(float(typical_error([nothing, nothing], [0.0, 0.0])))  # no rows of this kind
    assert typical_error([squares[0], nothing], [16.0, 0.0]).tolist() == [1.0]  # nor in one fold


def test_balanced_compares_what_is_typical_and_weights_what_is_the_mean():
    at = replace(point(1e-3, energy=2.0, force=4.0), typical=ByKind.of({ENERGY: 1.0, FORCE: 3.0}, math.nan))
    assert at.score(BALANCED) == pytest.approx(3.0)
    assert at.score(weighted(1.0, 1.0)) == 20.0
    again = PathPoint.from_dict(at.to_dict())
    assert again.typical is not None
    assert again.score(BALANCED) == at.score(BALANCED)
    assert point(1e-3, energy=2.0, force=4.0).score(BALANCED) == pytest.approx(8.0)  # of 0.1.0


def told_apart(ridge, energy, weights=ENERGY_ALONE):
    """A point by its folds' errors of energies."""
    errors = torch.tensor(energy, dtype=torch.float64)
    by_kind = (errors.square().mean().sqrt().item(), errors.log().mean().exp().item())
    rmse, typical = (ByKind.of({ENERGY: value}, math.nan) for value in by_kind)
    return PathPoint(ridge, weights, rmse, typical, ByKind.of({ENERGY: tuple(energy)}, ()))


DISAGREE = [
    told_apart(1e-8, [1.0, 1.0, 1.0, 6.0]),  # the lowest
    told_apart(1e-6, [1.1, 1.1, 1.1, 4.9]),
    told_apart(1e-5, [1.6, 1.6, 1.6, 6.0]),  # too high: ln(rise) is 0.35 +- 0.12
    told_apart(1e-4, [1.3, 1.3, 1.3, 3.2]),  # 0.04 +- 0.22
    told_apart(1e-2, [1.6, 1.6, 1.6, 6.0]),
    told_apart(1e-3, [1.0, 1.0, 1.0, 6.0], BOTH),  # other weights
]


def test_where_folds_disagree_the_largest_ridge_within_one_standard_error_is_taken():
    path = Path(tuple(DISAGREE))
    assert path.lowest(BALANCED) is DISAGREE[0]
    assert path.best(BALANCED) is DISAGREE[3]
    assert path.best(weighted(1.0)) is path.lowest(weighted(1.0))  # a sum that somebody chose
    again = Path(tuple(PathPoint.from_dict(point.to_dict()) for point in path.points))
    assert again.best(BALANCED) == DISAGREE[3]
    older = Path(tuple(replace(point, folds=None) for point in path.points))
    assert older.best(BALANCED).ridge == 1e-8
    broken = replace(DISAGREE[3], folds=ByKind.of({ENERGY: (1.0, 1.0, math.inf, 1.0)}, ()))
    assert Path((*DISAGREE[:3], broken)).best(BALANCED) is DISAGREE[1]
    exact = told_apart(1e-9, [0.0, 0.0, 0.0, 0.0])  # labels that a baseline tells: there is no logarithm
    assert Path((*DISAGREE, exact)).best(BALANCED) is exact


def test_a_safer_ridge_costs_a_tenth_at_most():
    """One fold far worse than the others, at a ridge that suits these: they would lose a factor of four."""
    lowest = told_apart(1e-8, [0.005, 0.005, 0.006, 0.006, 0.58])
    dear = told_apart(1e-2, [0.023, 0.023, 0.025, 0.025, 0.05])  # ln(rise) 0.67 +- 0.78
    cheap = told_apart(1e-6, [0.0055, 0.0055, 0.0068, 0.0068, 0.48])  # 0.05 +- 0.06
    assert Path((lowest, dear)).best(BALANCED) is lowest
    assert Path((lowest, dear, cheap)).best(BALANCED) is cheap


def test_where_folds_agree_the_lowest_is_taken():
    """Errors that differ by less than a factor of 1.6, though another ridge is within a standard error."""
    points = (told_apart(1e-8, [1.0, 1.2, 1.4, 1.6]), told_apart(1e-6, [1.1, 1.3, 1.5, 1.5]))
    assert Path(points).best(BALANCED) is points[0]
    apart = (points[0], told_apart(1e-6, [1.0, 1.1, 1.3, 2.6]), told_apart(1e-5, [0.8, 1.0, 1.2, 4.0]))
    assert Path(apart).best(BALANCED) is apart[2]  # they disagree at a larger one


@pytest.mark.parametrize("solver", [Direct, Exact, Falkon])
def test_every_solver_tells_the_folds_apart(solver):
    problem, source = made(n=96, folds=3)
    found = solver((1e-4, 1e-2)).solve(problem, source)
    for point in found.path.points:
        assert point.folds is not None
        errors = torch.tensor(point.folds[ENERGY], dtype=torch.float64)
        assert len(errors) == 3
        assert errors.log().mean().exp().item() == pytest.approx(point.typical[ENERGY], rel=1e-12)
        assert errors.min() < point.rmse[ENERGY] < errors.max()
    few = solver((1e-4, 1e-2)).solve(*made(n=18, folds=3))
    assert not any(point.folds[ENERGY] for point in few.path.points)  # six structures a fold

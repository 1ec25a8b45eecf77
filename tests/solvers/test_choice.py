"""Choosing among candidates: errors that are no numbers, ends of grids, columns that do not matter."""

import math

import pytest
import torch

from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, fit_transform
from mekrr_scale.landmarks import WholeStructures
from mekrr_scale.models import fit_baseline
from mekrr_scale.regression import ENERGY_ALONE, Problem, Source, assign_folds
from mekrr_scale.solvers import Direct, Exact, Path, PathPoint
from tests import reference
from tests.solvers.test_solvers import made, weighted

ENERGY, FORCE = RowKind.ENERGY, RowKind.FORCE
BOTH = weighted(1.0, 1e-2)


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
    assert point(1e-3, energy=0.5).score(BOTH) == 0.25  # no force rows: nothing to count
    assert point(1e-3, force=1.0).score(weighted(1.0)) == math.inf  # nothing known of what is asked for


@pytest.mark.parametrize("solver", [Direct, Exact])
def test_rows_without_a_finite_error_lose(solver, monkeypatch):
    """A ridge whose fold solutions are NaN: its errors are infinite, and another is chosen."""
    problem, source = made(n=16)
    from mekrr_scale.solvers import direct_work, exact_work

    paths, solved = direct_work.weight_paths, exact_work._solved

    def broken_paths(kinds, weights, ridges):
        found = paths(kinds, weights, ridges)
        for values in found.values():
            values[:, 0] = math.nan
        return found

    def broken_solve(gram, target, weight, ridge):
        found = solved(gram, target, weight, ridge)
        return found * math.nan if ridge == 1e-6 and len(gram) < 16 else found

    monkeypatch.setattr(direct_work, "weight_paths", broken_paths)
    monkeypatch.setattr(exact_work, "_solved", broken_solve)
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
@pytest.mark.parametrize("sizes", ["one atom", "ragged"])
def test_exact_with_mean_on_structures_of_one_atom(alpha, sizes):
    """Two columns each where species mix; the solution is still that of dense ridge regression."""
    batch = reference.random_batch(3, n_structures=15, most=1 if sizes == "one atom" else 3)
    kernel = SetKernel(Gaussian(1.6), SpeciesMixing(alpha), "mean", fit_transform([batch], "centre"))
    landmarks = WholeStructures().select([batch], kernel)
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

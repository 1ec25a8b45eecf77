"""Every solver, over every kernel, reduction and kind of rows that it takes, against dense algebra by loops."""

import math
from dataclasses import replace

import pytest
import torch

from mekrr_scale import solvers
from mekrr_scale.arrays import DERIVATIVES, ByKind, RowKind
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import KERNELS, SetKernel, SpeciesMixing, atom_kernel, fit_transform
from mekrr_scale.landmarks import Uniform, WholeStructures
from mekrr_scale.models import fit_baseline
from mekrr_scale.plans import fields_of
from mekrr_scale.regression import Basis, Precision, Problem, Source, assign_folds
from mekrr_scale.solvers import SOLVERS, Krylov
from tests import reference

DENSE_TOO = [name for name in SOLVERS if name != "falkon-library"]  # which needs a library that is not on PyPI
TIGHT = {"rtol": 1e-12, "max_steps": 800, "patience": 200, "subset": 1.0}  # options of those that iterate
WEIGHTS = ByKind.of({RowKind.ENERGY: 1.0, RowKind.FORCE: 0.3, RowKind.STRESS: 0.1}, 0.0)


def exact(solver):
    """Options with which a solver is as exact as dense algebra."""
    return {name: value for name, value in TIGHT.items() if name in fields_of(getattr(solvers, SOLVERS[solver]))}


def atom(name):
    return atom_kernel(name, **({"length_scales": (1.2, 2.5)} if name == "gaussian-sum" else {"length_scale": 1.6}))


def made(solver, kernel, reduce, alpha, seed=0):
    """A problem on ragged sets with the rows that the solver takes, its source, and its dense rows."""
    cls = getattr(solvers, SOLVERS[solver])
    derivatives = bool(cls.takes.kinds & DERIVATIVES)
    batch = reference.random_batch(seed, n_structures=14, dim=3, most=4)
    tangents = None
    if derivatives:
        batch, tangents = reference.with_tangents(batch, seed + 1)
    set_kernel = SetKernel(atom(kernel), SpeciesMixing(alpha), reduce, fit_transform([batch], "centre"))
    method = WholeStructures() if cls.whole_structures else Uniform(9)
    problem = Problem(
        set_kernel,
        method.select([batch], set_kernel),
        fit_baseline([batch], "composition"),
        assign_folds([batch], 3),
        weights=(WEIGHTS,),
        basis=Basis(1e-12),
        precision=Precision(derivative=torch.float64),
    )
    if not derivatives:
        problem = problem.of_kinds(frozenset({RowKind.ENERGY}))
    return problem, Source([batch], [batch] if derivatives else None), reference.dense_rows(problem, batch, tangents)


@pytest.mark.parametrize("solver", DENSE_TOO)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("reduce", "alpha"), [("sum", 0.4), ("sum", 1.0), ("mean", 0.4), ("mean", 0.0)])
def test_solutions_and_errors_equal_dense_algebra(solver, kernel, reduce, alpha, monkeypatch):
    monkeypatch.setattr("mekrr_scale.solvers.moments.FEW", 0.0)  # so that small folds are told apart
    problem, source, rows = made(solver, kernel, reduce, alpha)
    gram = reference.landmark_gram(problem.kernel, problem.landmarks)
    ridge = 1e-3 * float(torch.linalg.eigvalsh(gram)[-1])
    config = getattr(solvers, SOLVERS[solver])(ridges=(ridge,), **exact(solver))
    solution = config.solve(problem, source)
    assert solution.result is solvers.Result.SUCCESS
    phi = torch.tensor([row["phi"] for row in rows], dtype=torch.float64)
    weights = problem.weights[0]
    coefficients, _ = reference.dense_fit(rows, gram, weights, ridge)
    found, expected = phi @ solution.value[:, 0], phi @ coefficients
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    fits = {}
    for fold in range(3):
        if config.whole_structures:  # each fold's landmarks are the structures that it is fitted to
            inside = torch.tensor([row["fold"] != fold for row in rows])
            few = [row | {"phi": torch.tensor(row["phi"], dtype=torch.float64)[inside].tolist()} for row in rows]
            part, references = reference.dense_fit(few, gram[inside][:, inside], weights, ridge, fold)
            whole = torch.zeros(len(gram), dtype=torch.float64)
            whole[inside] = part
            fits[fold] = whole, references
        else:
            fits[fold] = reference.dense_fit(rows, gram, weights, ridge, fold)
    errors, typical = reference.dense_errors(rows, fits), reference.dense_typical_errors(rows, fits)
    point = solution.path.best()
    for kind in RowKind:
        assert point.rmse[kind] == pytest.approx(errors[kind], rel=1e-5, nan_ok=True)
        assert point.typical[kind] == pytest.approx(typical[kind], rel=1e-5, nan_ok=True)
    assert math.isnan(point.rmse[RowKind.FORCE]) == (RowKind.FORCE not in config.takes.kinds)


@pytest.mark.parametrize("solver", SOLVERS)
def test_kinds_of_rows_that_a_solver_cannot_take_are_refused_by_name(solver):
    cls = getattr(solvers, SOLVERS[solver])
    problem, source, _ = made("direct", "gaussian", "sum", 0.5)
    missing = frozenset(RowKind) - cls.takes.kinds
    if not missing:
        assert cls(ridges=(1e-3,)).solve(problem, source).ridges == (1e-3,)
        return
    with pytest.raises(ConfigError, match=f"solver '{solver}' takes no force and stress rows"):
        cls(ridges=(1e-3,)).solve(problem, source)


def test_kinds_of_rows_that_are_weighed_zero_or_are_not_there_are_no_obstacle():
    energies = ByKind.of({RowKind.ENERGY: 1.0}, 0.0)
    problem, source, _ = made("exact", "gaussian", "sum", 0.5)
    alone = solvers.Exact((1e-3,)).solve(problem, source)
    (batch,) = source.energies
    moved, _ = reference.with_tangents(batch, 1)
    for weights, rows in ((energies, Source([moved], [moved])), (WEIGHTS, source)):
        found = solvers.Exact((1e-3,)).solve(replace(problem, weights=(weights,), criterion=energies), rows)
        assert torch.equal(found.value, alone.value)


@pytest.mark.parametrize("solver", [name for name in SOLVERS if issubclass(getattr(solvers, SOLVERS[name]), Krylov)])
def test_several_weights_are_all_tried(solver):
    """Falkon chose among ridges only, with the first of the weights."""
    problem, source, _ = made(solver, "gaussian", "sum", 0.5)
    weights = tuple(ByKind.of({RowKind.ENERGY: 1.0, RowKind.FORCE: w}, 0.0) for w in (0.3, 1e-6))
    criterion = ByKind.of({RowKind.FORCE: 1.0}, 0.0)
    problem = replace(problem, weights=weights, criterion=criterion)
    direct = solvers.Direct((1e-3, 1e-1)).solve(problem, source)
    found = getattr(solvers, SOLVERS[solver])((1e-3, 1e-1), **TIGHT).solve(problem, source)
    assert len(found.path.points) == len(direct.path.points) == 4
    assert found.weights == direct.weights == weights[1]
    assert found.ridges[0] == direct.ridges[0]
    for mine, other in zip(found.path.points, direct.path.points, strict=True):
        assert (mine.ridge, mine.weights) == (other.ridge, other.weights)
        assert mine.rmse[RowKind.FORCE] == pytest.approx(other.rmse[RowKind.FORCE], rel=1e-5)


@pytest.mark.parametrize("folds", [True, False])
def test_weights_of_energies_are_heard_by_the_dense_solver(folds):
    """The same as a ridge that is larger by as much; all are tried, and the one that was taken is told."""
    problem, source, _ = made("exact", "gaussian", "sum", 0.5)
    problem = problem if folds else replace(problem, folds=None)
    one, light = (ByKind.of({RowKind.ENERGY: weight}, 0.0) for weight in (1.0, 1e-3))
    found = solvers.Exact((1e-4,)).solve(replace(problem, weights=(light, one)), source)
    same = solvers.Exact((1e-1,)).solve(problem, source)
    assert found.weights == light  # which has the smaller error, and is the first
    torch.testing.assert_close(found.value, same.value, rtol=1e-9, atol=1e-9)
    for mine, other in zip(found.fold_values, same.fold_values, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
    given = replace(problem, weights=(light,), basis=Basis(1e-14))
    phi = problem.kernel.rows(next(iter(source.energies)), problem.landmarks)
    direct = solvers.Direct((1e-4,)).solve(given, source)
    torch.testing.assert_close(phi @ found.value, phi @ direct.value, rtol=1e-6, atol=1e-8)
    if folds:
        other = solvers.Exact((1e-4,)).solve(problem, source).path.points[0]
        errors = [point.rmse[RowKind.ENERGY] for point in found.path.points]
        assert errors == [pytest.approx(p.rmse[RowKind.ENERGY]) for p in (same.path.points[0], other)]
        assert [point.weights for point in found.path.points] == [light, one]

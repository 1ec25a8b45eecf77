"""Falkon: as exact as it says, with what does not fit in memory, and its parts."""

import pytest
import torch

from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.regression import (
    ENERGY_ALONE,
    Execution,
    Run,
)
from mekrr_scale.solvers import (
    Direct,
    Falkon,
    NormalOperator,
    Result,
    SpectralPreconditioner,
    classical_gram,
)
from tests.solvers.problems import made, rows_of, weighted


@pytest.mark.parametrize("preconditioner", ["subset", "falkon"])
@pytest.mark.parametrize("tangents", [False, True])
def test_falkon_agrees_with_direct(preconditioner, tangents):
    weights = weighted(1.0, 0.2, 0.1) if tangents else ENERGY_ALONE
    problem, source = made(n=60, singletons=25, tangents=tangents, weights=(weights,))
    ridges = (1e-4, 1e-3, 1e-2)
    direct = Direct(ridges).solve(problem, source)
    falkon = Falkon(ridges, rtol=1e-11, preconditioner=preconditioner, max_steps=500)
    found = falkon.solve(problem, source)
    assert found.result is Result.SUCCESS
    assert found.ridges[0] == direct.ridges[0]
    test = rows_of(problem, 77, 6)
    expected = test @ direct.value[:, 0]
    assert float((test @ found.value[:, 0] - expected).abs().max() / expected.abs().max()) < 1e-6
    for a, b in zip(found.path.points, direct.path.points, strict=True):
        assert a.rmse[RowKind.ENERGY] == pytest.approx(b.rmse[RowKind.ENERGY], rel=1e-5)
    for a, b in zip(found.fold_values, direct.fold_values, strict=True):
        torch.testing.assert_close(test @ a, test @ b, rtol=1e-4, atol=1e-6)
    assert found.effort.iterations == len(found.effort.residuals) > 0
    assert found.effort.rows == sum(len(block.target) for block in problem.rows(source))


def test_falkon_as_it_is_without_options_is_as_exact_as_it_says():
    """A relative residual of 1e-9, in steps that are far fewer than it may take."""
    problem, source = made(n=60, singletons=25)
    found, direct = (solver((1e-3,)).solve(problem, source) for solver in (Falkon, Direct))
    assert found.result is Result.SUCCESS
    assert max(found.effort.residuals[-1:]) <= 1e-9
    test = rows_of(problem, 77, 6)
    torch.testing.assert_close(test @ found.value, test @ direct.value, rtol=1e-6, atol=1e-7)


def test_falkon_with_rows_that_do_not_fit_in_memory():
    """Evaluated again in every pass, as K (T beta): the same answer to what rounding leaves."""
    problem, source = made(n=60, singletons=25, folds=3)
    kept, streamed = (
        Falkon((1e-3, 1e-2), rtol=1e-10).solve(problem, source, Run(Execution(memory=size, scratch=None)))
        for size in (10**9, 0)
    )
    assert kept.effort.bytes_memory > 0 == streamed.effort.bytes_memory == streamed.effort.bytes_scratch
    test = rows_of(problem, 78, 6)
    torch.testing.assert_close(test @ streamed.value, test @ kept.value, rtol=1e-6, atol=1e-8)
    for a, b in zip(kept.path.points, streamed.path.points, strict=True):
        assert a.rmse[RowKind.ENERGY] == pytest.approx(b.rmse[RowKind.ENERGY], rel=1e-6)


@pytest.mark.parametrize("memory", [10**9, 20_000, 0])
def test_falkon_solves_for_weights_alike_in_whatever_order_they_are_listed(tmp_path, memory):
    """A part of the rows makes the preconditioner of each, wherever the rows are kept after the first pass."""
    first, second = weighted(1.0, 0.2, 0.1), weighted(1.0, 0.01, 0.1)
    solver, run = Falkon((1e-4, 1e-2), rtol=1e-10), Run(Execution(memory=memory, scratch=tmp_path))

    def solved(*weights):
        return solver.solve(*made(n=60, singletons=25, tangents=True, weights=weights), run)

    alone = {weights: solved(weights) for weights in (first, second)}
    best = min(alone.values(), key=lambda found: found.score(ENERGY_ALONE))
    for order in ((first, second), (second, first)):
        found = solved(*order)
        errors = [[p.rmse[kind] for kind in (RowKind.ENERGY, RowKind.FORCE)] for p in found.path.points]
        points = [p for weights in order for p in alone[weights].path.points]
        assert errors == [[p.rmse[kind] for kind in (RowKind.ENERGY, RowKind.FORCE)] for p in points]
        assert found.effort.residuals == best.effort.residuals
        assert torch.equal(found.value, best.value)
    assert (found.effort.bytes_scratch > 0) == (memory < 10**9)


def test_falkon_says_how_it_ended():
    problem, source = made(n=40, singletons=25, folds=0)
    short = Falkon((1e-9,), max_steps=2).solve(problem, source)
    assert short.result is Result.MAX_STEPS
    assert "max_steps" in short.result.value
    stuck = Falkon((1e-9,), rtol=1e-40, patience=5, max_steps=2000).solve(problem, source)
    assert stuck.result is Result.STAGNATED


def test_operator_and_preconditioners_are_what_they_claim():
    problem, source = made(n=30, singletons=15, alpha=1.0)
    rows, whitening = problem.rows(source), problem.whitening()
    ridges = torch.tensor([1e-3])
    operator = NormalOperator(rows, whitening, ByKind.of({}, 1.0), torch.tensor([-1]), ridges.double())
    identity = torch.eye(whitening.rank, dtype=torch.float64)
    matrix = torch.cat([operator.apply(column[:, None]) for column in identity], 1)
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-9, atol=1e-11)
    (block,) = rows
    phi = whitening.rows(block.matrix)
    expected = (phi * block.weight[:, None]).T @ phi + 1e-3 * identity
    torch.testing.assert_close(matrix, expected, rtol=1e-8, atol=1e-10)
    inverse = SpectralPreconditioner.of(expected - 1e-3 * identity, ridges.double())
    product = torch.cat([inverse.apply(column[:, None]) for column in expected], 1)
    torch.testing.assert_close(product, identity, rtol=1e-7, atol=1e-7)
    gram = problem.kernel.gram(problem.landmarks)
    dense = torch.block_diag(*[b.matrix for b in whitening.blocks]).T @ gram @ gram
    dense = dense @ torch.block_diag(*[b.matrix for b in whitening.blocks]) * (5.0 / whitening.n_columns)
    torch.testing.assert_close(classical_gram(whitening, 5.0), dense, rtol=1e-6, atol=1e-8)

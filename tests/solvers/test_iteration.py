"""The loop of conjugate directions on small diagonal systems, and one ridge by Cholesky."""

import pytest
import torch

from mekrr_scale.solvers import ConjugateGradients, Iteration, Result, SpectralPreconditioner
from mekrr_scale.solvers.path import ridge_path

SPECTRUM = torch.tensor([1.0, 2.0, 3.0, 5.0, 8.0, 13.0], dtype=torch.float64)
# so many of its eigenvectors are in a column, and so many steps it takes
THREE_AND_SIX = torch.tensor([[1.0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.float64).T
PLAIN = SpectralPreconditioner(torch.ones(6).double(), torch.eye(6).double(), torch.zeros(2).double())


def product(columns):
    return SPECTRUM[:, None] * columns


def iteration(**given):
    return Iteration(**{"method": ConjugateGradients(), "rtol": 1e-10, "max_steps": 50, "recompute_every": 2} | given)


def test_whether_the_rest_matters_is_asked_once_some_are_solved():
    asked = []

    def enough(best, solved):
        asked.append(solved.tolist())
        torch.testing.assert_close(best[:, 0], THREE_AND_SIX[:, 0] / SPECTRUM)
        return False

    system = iteration(patience=50).solve(product, THREE_AND_SIX, PLAIN, enough)
    assert (system.result, system.iterations) == (Result.SUCCESS, 6)
    assert asked == [[True, False]]  # in step 4 of 2, 4 and 6


def test_residuals_are_relative():
    """A system of another scale takes the same steps: what is small is measured by the right side."""
    one = iteration(patience=50).solve(product, THREE_AND_SIX, PLAIN)
    for scale in (2.0**-40, 2.0**40):
        other = iteration(patience=50).solve(product, scale * THREE_AND_SIX, PLAIN)
        assert other.history == one.history
        assert torch.equal(other.value, scale * one.value)
    first = (THREE_AND_SIX - product(one.value)).norm(dim=0) / THREE_AND_SIX.norm(dim=0)
    torch.testing.assert_close(one.residuals, first, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ridge", [1e-14, 1e-3])
def test_one_ridge_is_enough_where_cholesky_breaks_down(ridge):
    """A Gram matrix with an eigenvalue below zero by rounding: that is taken for zero."""
    q, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    spectrum = torch.tensor([-1e-12, 0.5, 1.0, 4.0], dtype=torch.float64)
    target = q @ torch.tensor([0.0, 1.0, -2.0, 3.0], dtype=torch.float64)
    found = ridge_path(q @ torch.diag(spectrum) @ q.T, target, [ridge])
    expected = q @ ((q.T @ target) / (spectrum.clamp_min(0.0) + ridge))
    torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=1e-1 if ridge < 1e-12 else 1e-8)

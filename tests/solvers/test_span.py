"""As many rows as the rank has columns: what one fold is solved by is no matter of the others, nor of the order."""

import pytest
import torch

from mekrr_scale.arrays import RowKind
from mekrr_scale.solvers import DEFAULT_RIDGES, Direct
from tests.solvers.problems import made, rows_of


@pytest.mark.parametrize("n", [44, 47, 48, 49, 50, 51, 60])
def test_further_ridges_are_of_the_same_systems(n):
    """Of 0.9 rows for each column some folds have less and some more; and the grid goes on, for noise has no best."""
    problem, source = made(seed=n, n=n, singletons=40, folds=4)
    noise = torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    (batch,) = source.energies
    batch.energy.copy_(noise)
    found = Direct().solve(problem, source)
    ridges = tuple(dict.fromkeys(point.ridge for point in found.path.points))
    assert len(ridges) > len(DEFAULT_RIDGES)
    given = Direct(ridges).solve(problem, source)
    errors = [[point.rmse[RowKind.ENERGY] for point in one.path.points] for one in (found, given)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-6)
    torch.testing.assert_close(rows_of(problem) @ found.value, rows_of(problem) @ given.value, rtol=1e-6, atol=1e-9)

"""Preconditioners of a part of the rows: the whole matrix, or panels of a large one."""

import pytest
import torch

from mekrr_scale.distributed import ALONE
from mekrr_scale.solvers import SpectralPreconditioner, preconditioners
from mekrr_scale.solvers.preconditioners import PanelPreconditioner, SubsetGram


@pytest.mark.parametrize(("largest", "kind"), [(6, SpectralPreconditioner), (5, PanelPreconditioner)])
def test_a_sum_of_rows_is_inverted_in_one_way_or_the_other(largest, kind, monkeypatch):
    """Up to the largest size that is decomposed, and above it."""
    monkeypatch.setattr(preconditioners, "LARGEST_EIGEN", largest)
    generator = torch.Generator().manual_seed(0)
    pieces = [torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (5, 9)]
    made = SubsetGram(6, ALONE, torch.device("cpu"))
    for rows in pieces:
        made.add(rows)
    made.meet()
    ridges = torch.tensor([1e-2, 1e-2], dtype=torch.float64)
    found = made.preconditioner(2.0, ridges)
    assert isinstance(found, kind)
    dense = 2.0 * sum(rows.T @ rows for rows in pieces) + 1e-2 * torch.eye(6).double()
    residual = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(found.apply(residual), torch.linalg.solve(dense, residual))

"""Structures of one atom, and the table of a mixing of elements."""

import torch

from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, Transform
from tests import reference

MATRIX = SpeciesMixing(0.0, (1, 6, 8), ((1.0, 0.2, 0.0), (0.2, 0.9, -0.3), (0.0, -0.3, 1.1)))


def test_single_atoms_need_no_loop(monkeypatch):
    """Calibration asks for thousands of single atoms: none of them is arranged as a structure."""
    batch = reference.random_batch(5, n_structures=9, most=1)
    kernel = SetKernel(Gaussian(1.0), SpeciesMixing(0.4), "mean", Transform.identity(4))
    expected = kernel.diagonal(batch)

    def refused(*_):
        raise AssertionError

    monkeypatch.setattr(Gaussian, "left", refused)  # of the atoms of a structure
    assert torch.equal(kernel.diagonal(batch), expected)
    assert torch.equal(expected, torch.ones(9, dtype=torch.float64))


def test_mixing_of_elements():
    """B by its definition, and the matrix that was given."""
    rows, columns = [1, 8, 6], [6, 1]
    expected = torch.tensor([[0.6, 1.0], [0.6, 0.6], [1.0, 0.6]], dtype=torch.float64)
    torch.testing.assert_close(SpeciesMixing(0.4).table(rows, columns), expected)
    given = torch.tensor([[0.2, 1.0], [-0.3, 0.0], [0.9, 0.2]], dtype=torch.float64)
    torch.testing.assert_close(MATRIX.table(rows, columns), given)

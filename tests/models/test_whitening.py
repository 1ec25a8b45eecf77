"""T of whitening against dense algebra, where blocks lie apart and where scales differ."""

import pytest
import torch

from mekrr_scale.models import Whitening, WhiteningBlock, whiten


def positive(size, seed):
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a @ a.T + torch.eye(size, dtype=torch.float64)


def test_blocks_whose_columns_lie_between_one_another():
    """Rows of columns 0, 2, 5 and 1, 3, 4 of a matrix that couples none of them."""
    places = [torch.tensor([0, 2, 5]), torch.tensor([1, 3, 4])]
    grams = [positive(3, seed) for seed in (0, 1)]
    dense = torch.zeros(6, 6, dtype=torch.float64)
    for at, gram in zip(places, grams, strict=True):
        dense[at[:, None], at] = gram
    blocks = []
    for at, gram in zip(places, grams, strict=True):
        (block,) = whiten([gram], 1e-12).blocks
        blocks.append(WhiteningBlock(at, block.matrix, block.spectrum))
    whitening = Whitening(tuple(blocks), 6)
    eye = torch.eye(6, dtype=torch.float64)
    phi = whitening.rows(dense)
    torch.testing.assert_close(whitening.pull(phi), eye)  # T' K T = 1
    torch.testing.assert_close(dense @ whitening.coefficients(eye), phi)
    torch.testing.assert_close(phi @ phi.T, dense)  # K T T' K = K


@pytest.mark.parametrize("method", ["eigen", "cholesky"])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_the_cut_is_relative(method, size):
    """Of eigenvalues 1, 1e-3 and 1e-8 of the largest a cut of 1e-5 leaves two, whatever the largest is."""
    gram = torch.diag(size * torch.tensor([1e-3, 1.0, 1e-8], dtype=torch.float64))
    assert whiten([gram], 1e-5, method=method).rank == 2
    assert whiten([gram], 1e-2, method=method).rank == 1

"""T of whitening against dense algebra, where blocks lie apart and where scales differ."""

from functools import partial

import pytest
import torch

from mekrr_scale.distributed import Group
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


def of_rank_three():
    """Five landmarks that are combinations of three."""
    a = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return a @ a.T


def test_columns_of_eigen_are_eigenvectors():
    """Orthogonal, with squares 1 / w: the default."""
    gram = of_rank_three()
    for found in (whiten([gram], 1e-10), whiten([gram], 1e-10, method="eigen")):
        (block,) = found.blocks
        torch.testing.assert_close(block.spectrum, torch.linalg.eigvalsh(gram)[2:])
        torch.testing.assert_close(block.matrix.T @ block.matrix, torch.diag(1 / block.spectrum))


def test_cholesky_leaves_landmarks_out():
    """Of a matrix that has no full rank: three landmarks have coefficients, of which the second has those of the first
    and itself; nothing is lost."""
    gram = of_rank_three()
    whitening = whiten([gram], 1e-10, method="cholesky")
    (block,) = whitening.blocks
    assert sorted((block.matrix != 0).sum(1).tolist()) == [0, 0, 1, 2, 3]
    assert float(block.spectrum[0]) == pytest.approx(float(gram.diagonal().max()))  # the first pivot
    phi = whitening.rows(gram)
    torch.testing.assert_close(phi @ phi.T, gram)
    torch.testing.assert_close(whitening.pull(phi), torch.eye(3, dtype=torch.float64))


def test_a_block_of_one_column():
    grams = [torch.tensor([[4.0]], dtype=torch.float64), positive(2, 0), torch.tensor([[9.0]], dtype=torch.float64)]
    dense = torch.block_diag(*grams)
    whitening = whiten(grams)
    assert [block.span for block in whitening.blocks] == [slice(0, 1), slice(1, 3), slice(3, 4)]
    assert [block.matrix.abs().item() for block in whitening.blocks[::2]] == [0.5, pytest.approx(1 / 3)]
    torch.testing.assert_close(whitening.pull(whitening.rows(dense)), torch.eye(4, dtype=torch.float64))


class Second(Group):
    """The second of two ranks, and what the first one sends."""

    def __init__(self, sent):
        super().__init__(1, 2)
        object.__setattr__(self, "sent", list(sent))

    def gather_json(self, value):
        return [list(self.sent[0].shape) if self.sent else None, value]

    def broadcast(self, tensor, source=0):
        return self.sent.pop(0) if source == 0 else tensor


def test_blocks_are_dealt_to_the_ranks():
    """Each makes its own, and has all in the end."""
    grams = [positive(size, size) for size in (3, 2, 4, 1)]
    alone, made = whiten(grams), []

    def maker(place):
        made.append(place)
        return grams[place]

    sent = [part for block in alone.blocks[::2] for part in (block.matrix, block.spectrum)]
    found = whiten([partial(maker, place) for place in range(4)], group=Second(sent))
    assert made == [1, 3]
    assert found.n_columns == alone.n_columns == 10
    for mine, other in zip(found.blocks, alone.blocks, strict=True):
        assert torch.equal(mine.columns, other.columns)
        assert torch.equal(mine.matrix, other.matrix)
        assert torch.equal(mine.spectrum, other.spectrum)

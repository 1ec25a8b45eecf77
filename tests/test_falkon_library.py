"""The adapter for the falkon library: its numbers here, the library itself where it is installed."""

import importlib.util

import pytest
import torch

from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing
from mekrr_scale.landmarks import Uniform, WholeStructures
from mekrr_scale.solvers.falkon_library import IndexedKernel, library_kernel, library_options
from mekrr_scale.transforms import Transform
from tests import reference

INSTALLED = importlib.util.find_spec("falkon") is not None


def indexed(reduce="sum", alpha=0.4, selection=None):
    batch = reference.random_batch(0, n_structures=20)
    kernel = SetKernel(Gaussian(1.5), SpeciesMixing(alpha), reduce, Transform.identity(4))
    return IndexedKernel(kernel, batch, (selection or Uniform(8)).select([batch], kernel))


def test_blocks_are_rows_of_the_kernel():
    given = indexed()
    whole = given.kernel.rows(given.batch, given.landmarks)
    torch.testing.assert_close(given.block(given.structures, given.centres), whole)
    rows, columns = torch.tensor([[3.0], [22.0], [0.0], [19.0]]).double(), given.centres[[5, 1]]
    gram = given.kernel.gram(given.landmarks)
    expected = torch.stack([whole[3], gram[2], whole[0], whole[19]])[:, [5, 1]]
    torch.testing.assert_close(given.block(rows, columns), expected)
    with pytest.raises(ConfigError, match="must be landmarks"):
        given.block(rows, rows)


def test_two_columns_per_landmark_are_refused():
    with pytest.raises(ConfigError, match="two columns"):
        library_kernel(indexed("mean", 0.4))


@pytest.mark.skipif(INSTALLED, reason="the library is installed")
def test_absence_is_explained():
    with pytest.raises(ConfigError, match="not on PyPI"):
        library_kernel(indexed("mean", 0.4, WholeStructures(5)))


@pytest.mark.skipif(not INSTALLED, reason="the falkon library is not on PyPI")
def test_library_fit_agrees():
    import falkon

    given = indexed()
    target = torch.randn(20, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = falkon.Falkon(
        kernel=library_kernel(given, library_options()),
        penalty=1e-4,
        M=8,
        center_selection=falkon.center_selection.FixedSelector(given.centres),
        maxiter=50,
        options=library_options(),
    )
    model.fit(given.structures, target)
    rows, gram = given.block(given.structures, given.centres), given.kernel.gram(given.landmarks)
    c = torch.linalg.solve(rows.T @ rows + 20 * 1e-4 * gram, rows.T @ target)
    torch.testing.assert_close(model.predict(given.structures), rows @ c, rtol=1e-4, atol=1e-5)

"""Kernels with a single landmark."""

import pytest
import torch

from mekrr_scale.kernels import KERNELS, SetKernel, SpeciesMixing, Transform
from mekrr_scale.landmarks import Uniform
from tests import reference
from tests.solvers.test_solver_conformance import atom


@pytest.mark.parametrize("name", KERNELS)
def test_one_landmark_is_enough(name):
    batch = reference.random_batch(0)
    kernel = SetKernel(atom(name), SpeciesMixing(0.4), "sum", Transform.identity(4))
    landmarks = Uniform(1).select([batch], kernel)
    structures, sets = reference.structures_of(batch), reference.landmark_sets(landmarks)
    assert len(sets) == 1
    expected = reference.dense_gram(kernel, structures, sets)
    torch.testing.assert_close(kernel.rows(batch, landmarks), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(kernel.gram(landmarks), reference.dense_gram(kernel, sets, sets))

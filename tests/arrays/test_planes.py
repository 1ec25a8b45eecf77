"""The plane of features: that of the singular value decomposition, whatever the precision of the features."""

import numpy as np
import pytest

from mekrr_scale.arrays import Plane


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_plane_is_that_of_the_singular_values(dtype):
    features = (np.random.default_rng(0).normal(size=(40, 6)) * [9, 1, 1, 4, 1, 1] + 100).astype(dtype)
    plane = Plane.of(features)
    _, values, vectors = np.linalg.svd(features - features.mean(0, dtype=float), full_matrices=False)
    places = plane.at(features)
    assert places.dtype == np.float64
    np.testing.assert_allclose(np.abs(plane.axes), np.abs(vectors[:2].T), atol=1e-6)
    np.testing.assert_allclose(plane.explained, values[:2] ** 2 / (values**2).sum(), rtol=1e-6)
    np.testing.assert_allclose(places.mean(0), 0, atol=1e-6)


def test_two_points_are_no_plane():
    assert Plane.of(np.eye(2)) is None
    assert Plane.of(np.ones((9, 1))) is None

"""Principal axes against numpy, what they leave out, and their turn to the deviations."""

import numpy as np
import pytest
import torch

from mekrr_scale.arrays import Moments
from mekrr_scale.errors import ConfigError

SIZES = {1: 60, 8: 40, 6: 1}


@pytest.fixture
def data():
    """Features of three elements, one of them with a single atom, and their tangents."""
    generator = np.random.default_rng(0)
    mixed = {z: generator.normal(size=(12, 12)) * np.logspace(0, -3, 12)[:, None] for z in SIZES}
    features = {z: generator.normal(size=(n, 12)) @ mixed[z] + z for z, n in SIZES.items()}
    tangents = {z: generator.normal(size=(3 * n, 12)) @ mixed[z] * 5 for z, n in SIZES.items()}
    return features, tangents


@pytest.fixture
def moments(data):
    found = Moments()
    for z, values in data[0].items():
        half = len(values) // 2
        found.add(z, torch.from_numpy(values[:half]), torch.from_numpy(data[1][z][:half]))
        found.add(z, torch.from_numpy(values[half:]), torch.from_numpy(data[1][z][half:]))
    return found


def parts(data, z):
    """The matrices that share the trace, by numpy."""
    values, moved = data[0][z], data[1][z]
    found = [np.atleast_2d(np.cov(values.T, bias=True))] if len(values) > 1 else []
    return [part / np.trace(part) for part in (*found, moved.T @ moved)]


@pytest.mark.parametrize("kind", ["species", "common"])
def test_axes_are_the_leading_ones(data, moments, kind):
    found = moments.compression(4, kind=kind)
    assert (found.species, found.full, found.dim) == (((0,) if kind == "common" else (0, 1, 6, 8)), 12, 4)
    for z, count in SIZES.items():
        total = sum(parts(data, z))
        if kind == "common":
            means = np.stack([data[0][z].mean(0) for z in sorted(SIZES)])
            between = np.cov(means.T, bias=True)
            total = sum(part for other in SIZES for part in parts(data, other)) + between / np.trace(between)
        largest = np.linalg.eigvalsh(total)[-4:]  # their axes are what they are where some are equal
        own = found.basis[found.place(z)].numpy()
        np.testing.assert_allclose(np.linalg.eigvalsh(own.T @ total @ own), largest, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(own.T @ own, np.eye(4), atol=1e-12)
        spread = found.spread[found.place(z)].numpy()
        turned = (own / spread[:, None]).T @ (own / spread[:, None])
        np.testing.assert_allclose(turned, np.diag(found.scale[found.place(z)].numpy() ** -2.0), atol=1e-9)
        if kind == "species" and count > 1:
            np.testing.assert_allclose(spread, data[0][z].std(0), rtol=1e-9)
            np.testing.assert_allclose(found.mean[found.place(z)].numpy(), data[0][z].mean(0), rtol=1e-12)


def test_coordinates_and_what_they_stand_for(data, moments):
    found = moments.compression(11)
    features, tangents = torch.from_numpy(data[0][8]), torch.from_numpy(data[1][8])
    t = found.apply(8, features)
    torch.testing.assert_close(found.apply_tangent(8, tangents), found.apply(8, features[:1] + tangents) - t[:1])
    torch.testing.assert_close(found.restore(8, t), features, atol=0.05, rtol=0)
    torch.testing.assert_close(found.apply(8, found.restore(8, t)), t)
    assert found.place(29) == 0  # an element that was not among them has the axes of all
    assert found.hash == moments.compression(11).hash != moments.compression(10).hash


@pytest.mark.parametrize("kind", ["species", "common"])
@pytest.mark.parametrize("residual", [0.1, 1e-3, 1e-6])
def test_a_residual_is_kept_by_the_fewest_axes(data, moments, kind, residual):
    found = moments.compression(residual=residual, kind=kind)

    def worst(axes):
        """The largest part that is lost, by numpy; for common axes also of what the means differ by."""
        lost = []
        for z in SIZES:
            own = axes.basis[axes.place(z)].numpy()
            lost += [1 - np.trace(own.T @ part @ own) for part in parts(data, z)]
        if kind == "common":
            between = np.cov(np.stack([data[0][z].mean(0) for z in SIZES]).T, bias=True)
            lost.append(1 - np.trace(axes.basis[0].numpy().T @ between @ axes.basis[0].numpy()) / np.trace(between))
        return max(lost)

    assert worst(found) <= residual < worst(moments.compression(found.dim - 1, kind=kind))
    told = moments.left_out(found)
    assert np.isnan(told[6][0])
    assert max(part for lost in told.values() for part in lost if not np.isnan(part)) <= residual


def test_options_out_of_range_are_refused(moments):
    for options, said in [
        ({}, "say how far"),
        ({"dim": 4, "residual": 0.1}, "say how far"),
        ({"dim": 12}, "12 numbers cannot be compressed to 12; give a number from 1 to 11"),
        ({"dim": 0}, "cannot be compressed to 0"),
        ({"residual": 1.0}, "give a part between 0 and 1"),
    ]:
        with pytest.raises(ConfigError, match=said):
            moments.compression(**options)
    with pytest.raises(ConfigError, match="the store is empty"):
        Moments().compression(3)

"""Centring and scaling against numpy, and features that do not vary."""

import numpy as np
import pytest
import torch

from mekrr_scale.arrays import FeatureBatch
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import fit_transform
from mekrr_scale.landmarks import median_distance
from tests import reference


def by_species(batch):
    return {run.z: run.features.double().numpy() for run in batch.runs}


@pytest.mark.parametrize("kind", ["none", "centre", "scale", "centre-per-species", "scale-per-species"])
@pytest.mark.parametrize("pieces", [1, 3])
def test_means_and_deviations_are_numpys(kind, pieces):
    batch = reference.random_batch(2, n_structures=30, dim=5)
    parts = [batch.take(torch.arange(30) % pieces == i) for i in range(pieces)]
    found = fit_transform(parts, kind)
    groups = by_species(batch)
    if not kind.endswith("species"):
        groups = {0: np.concatenate(list(groups.values()))}
    assert found.species == tuple(groups)
    for place, values in enumerate(groups.values()):
        mean = np.zeros(5) if kind == "none" else values.mean(0)
        scale = values.std(0) if kind.startswith("scale") else np.ones(5)
        np.testing.assert_allclose(found.mean[place].numpy(), mean, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(found.scale[place].numpy(), scale, rtol=1e-10)
    z, values = next(iter(by_species(batch).items()))
    place = 0 if found.species == (0,) else found.species.index(z)
    expected = (values - found.mean[place].numpy()) / found.scale[place].numpy()
    np.testing.assert_allclose(found.apply(z, torch.from_numpy(values), torch.float64).numpy(), expected, rtol=1e-14)
    moved = found.apply_tangent(z, torch.from_numpy(values), torch.float64).numpy()
    np.testing.assert_allclose(moved, values / found.scale[place].numpy(), rtol=1e-14)


def batch_of(features, species=None):
    species = torch.full((len(features),), 6) if species is None else torch.tensor(species)
    return FeatureBatch.from_atoms(torch.from_numpy(features), species, torch.arange(len(features) + 1))


def ulps(base, steps, dtype):
    """Numbers a few units in the last place above one another."""
    found = np.full(len(steps), base, dtype=dtype)
    for _ in range(max(steps)):
        found = np.where(np.array(steps) > 0, np.nextafter(found, dtype(np.inf)), found)
        steps = [s - 1 for s in steps]
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1.0, 37.3, -0.02, 4096.0])
def test_columns_that_only_rounding_moves_keep_their_scale(dtype, size):
    """A column constant to 2 ulp beside one that varies: its scale is 1, that of the other its deviation."""
    values = np.random.default_rng(0).normal(size=(60, 4)).astype(dtype)
    values[:, 1] = ulps(dtype(size), [i % 3 for i in range(60)], dtype)
    values[:, 2] = dtype(size)
    values[:, 3] *= dtype(1e-3)
    for kind in ("scale", "scale-per-species"):
        found = fit_transform([batch_of(values)], kind)
        assert found.scale[0, 1:3].tolist() == [1.0, 1.0]
        np.testing.assert_allclose(found.scale[0, [0, 3]].numpy(), values[:, [0, 3]].astype(float).std(0), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("noise", [0.0, 2.0])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_identical_features_have_scales_of_one(dtype, noise, size):
    """Bitwise alike, or but for the rounding of another order of the atoms; beside a species far away, too."""
    generator = np.random.default_rng(1)
    row = generator.normal(size=8)
    row[3] = 1e-3  # a component that is near zero has the rounding of the others
    row *= size
    values = np.tile(row, (50, 1)).astype(dtype)
    values += (noise * np.finfo(dtype).eps * np.abs(row).mean() * generator.normal(size=values.shape)).astype(dtype)
    others = generator.normal(size=(50, 8)).astype(dtype) * dtype(0.1 * size) + dtype(5.0 * size)
    alone = fit_transform([batch_of(values)], "scale-per-species")
    assert alone.scale.tolist() == [[1.0] * 8]
    both = fit_transform([batch_of(np.concatenate([values, others]), [6] * 50 + [8] * 50)], "scale-per-species")
    assert both.scale[0].tolist() == [1.0] * 8
    np.testing.assert_allclose(both.scale[1].numpy(), others.astype(float).std(0), rtol=1e-5)
    for kind in ("none", "scale-per-species"):
        with pytest.raises(ConfigError, match="the same features"):
            median_distance([batch_of(values)], fit_transform([batch_of(values)], kind), 0)


def test_small_variations_are_no_rounding():
    """Of float32 features that vary by 1e-4 of their size, every deviation is taken."""
    values = (3.0 + 3e-4 * np.random.default_rng(2).normal(size=(200, 6))).astype(np.float32)
    found = fit_transform([batch_of(values)], "scale")
    np.testing.assert_allclose(found.scale[0].numpy(), values.astype(float).std(0), rtol=1e-6)

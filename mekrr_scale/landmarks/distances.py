"""How far apart atoms' features are."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, Landmarks, leaders
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import Transform
from mekrr_scale.landmarks.pool import Pool, draw_pool

_SINGLE, _DOUBLE = 3e-7, 1e-14  # of a feature's length


def median_distance(
    batches: Iterable[FeatureBatch], transform: Transform, seed: int, sample: int = 2000, group: Group = ALONE
) -> float:
    """Median distance between pairs of atoms (transformed features), over a random sample of atoms.

    Raises:
        ConfigError: fewer than two distinct atoms, so that no length scale can be told.
    """
    chosen = _sample(draw_pool(batches, sample, seed, group), sample)
    points = torch.cat([transform.apply(z, f, torch.float64) for z, f in chosen.items()])
    distances = torch.pdist(points)
    positive = distances[distances > 0]
    if len(positive) == 0 or float(positive.median()) <= _rounding(chosen, transform):
        raise ConfigError(
            "all atoms have the same features, so there is no median distance; give length_scale as a number"
        )
    return float(positive.median())


def _rounding(chosen: dict[int, Tensor], transform: Transform) -> float:
    """Distances that rounding alone makes between equal features, a few ulp of their length."""
    lengths = [(f.double() / transform.scale[transform.place(z)]).norm(dim=1).median() for z, f in chosen.items()]
    single = any(f.dtype == torch.float32 for f in chosen.values())
    return (_SINGLE if single else _DOUBLE) * max(map(float, lengths), default=0.0)


def n_distinct(landmarks: Landmarks) -> int:
    """How many of single atoms differ by more than the rounding of their features."""
    species = landmarks.species.unique().tolist()
    return sum(len(first_of_each(landmarks.features[landmarks.species == z])) for z in species)


def first_of_each(features: Tensor) -> NDArray[np.int64]:
    """Places of those that differ from all before them by more than the rounding of features."""
    given = features.double()
    radius = (_SINGLE if features.dtype == torch.float32 else _DOUBLE) * float(given.norm(dim=1).max())
    order = np.arange(len(given), dtype=np.uint64)
    return np.unique(leaders(given.numpy(), order, 10 * radius))


def _sample(pool: Pool, size: int) -> dict[int, Tensor]:
    """The candidates with the lowest draws over all species: a sample of atoms as they come."""
    everything = np.sort(np.concatenate([pool.draws[z] for z in pool.draws]))
    highest = everything[min(size, len(everything)) - 1]
    return {z: pool.features[z][torch.from_numpy(pool.draws[z] <= highest)] for z in pool.features}

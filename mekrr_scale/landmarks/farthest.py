"""Landmarks far from one another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, Landmarks
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.kernels import SetKernel
from mekrr_scale.landmarks.choices import Balance
from mekrr_scale.landmarks.method import LandmarkMethod
from mekrr_scale.landmarks.pool import draw_pool, singletons


@final
@dataclass(frozen=True)
class FarthestPoint(LandmarkMethod):
    """Single atoms, each the one farthest from those chosen before it, species by species.

    Distances are those of the transformed features; candidates are a random pool.
    """

    count: int
    seed: int = 0
    balance: Balance = "sqrt"
    pool: int = 20  # candidates per landmark
    tangents: ClassVar[bool] = False

    def select(self, batches: Iterable[FeatureBatch], kernel: SetKernel, group: Group = ALONE) -> Landmarks:
        pool = draw_pool(batches, self.count * self.pool, self.seed, group)
        pool.require(self.count)
        chosen = {}
        for z, n in pool.share(self.count, self.balance).items():
            features = kernel.transform.apply(z, pool.features[z], torch.float64)
            chosen[z] = pool.features[z][_farthest(features, n)]
        return singletons(chosen)


def _farthest(points: Float64[Tensor, "points dim"], count: int) -> Tensor:
    """Indices of ``count`` points, each farthest from those before it; starts at the first."""
    chosen = torch.zeros(count, dtype=torch.int64)
    distance = torch.full((len(points),), torch.inf, dtype=torch.float64)
    for i in range(1, count):
        distance = torch.minimum(distance, (points - points[chosen[i - 1]]).square().sum(1))
        chosen[i] = int(distance.argmax())
    return chosen

"""Landmarks at random."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

from mekrr_scale.arrays import FeatureBatch, Landmarks
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.kernels import SetKernel
from mekrr_scale.landmarks.choices import Balance
from mekrr_scale.landmarks.method import LandmarkMethod
from mekrr_scale.landmarks.pool import draw_pool, singletons


@final
@dataclass(frozen=True)
class Uniform(LandmarkMethod):
    """Single atoms at random, stratified by species.

    The shares of the species go with the square root of their numbers of atoms (``sqrt``), so
    that a rare species, an adsorbate say, is not left out.
    """

    count: int
    seed: int = 0
    balance: Balance = "sqrt"
    tangents: ClassVar[bool] = False

    def select(self, batches: Iterable[FeatureBatch], kernel: SetKernel, group: Group = ALONE) -> Landmarks:
        pool = draw_pool(batches, self.count, self.seed, group)
        pool.require(self.count)
        shares = pool.share(self.count, self.balance)
        return singletons({z: pool.features[z][:n] for z, n in shares.items()})

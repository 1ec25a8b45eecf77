"""Landmarks of another model, and more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import torch

from mekrr_scale.arrays import FeatureBatch, Landmarks
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import SetKernel
from mekrr_scale.landmarks.method import LandmarkMethod
from mekrr_scale.landmarks.pool import singletons


@final
@dataclass(frozen=True)
class Warm(LandmarkMethod):
    """The landmarks of a source model, and others chosen beside them.

    The span then holds what the source has learned, so that a fit to few new data can fall back on it.
    Landmarks of elements that the features were not standardised on are left out.
    """

    source: Landmarks
    others: LandmarkMethod | None  # None: the source's alone

    @property
    def tangents(self) -> bool:
        return self.others is not None and self.others.tangents

    def select(self, batches: Iterable[FeatureBatch], kernel: SetKernel, group: Group = ALONE) -> Landmarks:
        """As ``LandmarkMethod.select``.

        Raises:
            ConfigError: the source's are whole structures, or of none of the data's elements.
        """
        if not self.source.singletons:
            raise ConfigError("the source model's landmarks are whole structures; only single atoms can be joined")
        kept = {
            z: self.source.features[self.source.species == z]
            for z in self.source.species.unique().tolist()
            if kernel.transform.knows(z)
        }
        if not kept:
            raise ConfigError(
                f"the source model's landmarks are of species {self.source.species.unique().tolist()}, the data hold "
                f"{list(kernel.transform.species)}: none can be taken; leave --landmarks-from out"
            )
        if self.others is None:
            return singletons(kept)
        found = self.others.select(batches, kernel, group)
        kept = {z: features.to(found.features.dtype) for z, features in kept.items()}
        for z in found.species.unique().tolist():
            own = found.features[found.species == z]
            kept[z] = torch.cat([kept[z], own]) if z in kept else own
        return singletons(kept)

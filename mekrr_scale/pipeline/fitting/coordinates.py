"""Compressed features back where those of all species can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from mekrr_scale.arrays import Compression, FeatureBatch
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import Transform
from mekrr_scale.pipeline.fitting.plan import FitPlan
from mekrr_scale.store import FeatureStore


@dataclass(frozen=True)
class Restored:
    """Batches of coordinates as those of the features that they stand for, without tangents."""

    batches: Iterable[FeatureBatch]
    compression: Compression

    def __iter__(self) -> Iterator[FeatureBatch]:
        for batch in self.batches:
            runs = (
                replace(
                    run,
                    features=self.compression.restore(run.z, run.features).to(run.features.dtype),
                    tangents=None,
                )
                for run in batch.runs
            )
            yield replace(batch, runs=tuple(runs), directions=None)


def restored(transform: Transform, compression: Compression) -> Transform:
    """What does to restored features what ``transform`` does to their coordinates, for species that do not meet.

    A mean of all species, or none, leaves distances as they are.
    """
    if transform.species == (0,):
        return Transform.identity(compression.full)
    places = [compression.place(z) for z in transform.species]
    means = [compression.restore(z, transform.mean[[i]])[0] for i, z in enumerate(transform.species)]
    scaled = bool((transform.scale != 1.0).any())
    spread = compression.spread[places]
    return Transform(transform.species, torch.stack(means), spread if scaled else torch.ones_like(spread))


def check_axes(plan: FitPlan, store: FeatureStore) -> None:
    """Refuse kernels that compare atoms whose features lie along axes of their own.

    Raises:
        ConfigError: says what can be done.
    """
    if store.header.compression.get("basis") != "species":
        return
    at = plan.kernel
    if at.mixing is not None or any(value != 1.0 for value in at.alphas):
        asked = f"alpha = {', '.join(f'{v:g}' for v in at.alphas)}" if at.mixing is None else "a mixing of species"
        raise ConfigError(
            f"{store.path} has axes of each species, between which there are no distances, but the kernel has {asked}; "
            "take alpha = 1, or compress with --basis common"
        )

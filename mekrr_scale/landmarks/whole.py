"""Whole structures as landmarks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, Landmarks, draw
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import SetKernel
from mekrr_scale.landmarks.method import LandmarkMethod
from mekrr_scale.landmarks.pool import common_dtype

_Drawn = tuple[int, list[tuple[int, Tensor]]]  # a structure's draw, and its atoms by species


@final
@dataclass(frozen=True)
class WholeStructures(LandmarkMethod):
    """Whole structures as landmarks; all of them (count 0, in their order) give MEKRR itself, exactly."""

    count: int = 0
    seed: int = 0
    tangents: ClassVar[bool] = False

    def select(self, batches: Iterable[FeatureBatch], kernel: SetKernel, group: Group = ALONE) -> Landmarks:
        if self.count < 0:
            raise ConfigError(f"{self.count} landmarks asked for; ask for at least one, or 0 for all")
        kept: list[_Drawn] = []
        for batch in batches:
            draws = draw(batch.ids.numpy().astype(np.uint64), self.seed)
            for i in range(batch.n_structures):
                atoms = [(run.z, run.features[run.ptr[i] : run.ptr[i + 1]].clone()) for run in batch.runs]
                kept.append((int(draws[i]), atoms))
            if self.count and len(kept) > 2 * self.count:
                kept = sorted(kept, key=lambda item: item[0])[: self.count]
        kept = _everyones(kept, self.count, group)
        if self.count or group.size > 1:
            kept.sort(key=lambda item: item[0])
        if self.count > len(kept):
            raise ConfigError(
                f"{self.count} structures asked for as landmarks, the data hold {len(kept)}; ask for fewer, or 0"
            )
        sets = [atoms for _, atoms in (kept[: self.count] if self.count else kept)]
        parts = [(z, i, f) for i, atoms in enumerate(sets) for z, f in atoms if len(f)]
        parts.sort(key=lambda part: (part[0], part[1]))
        if not parts:
            raise ConfigError("there are no structures to choose landmarks from; the store is empty")
        return Landmarks(
            features=torch.cat([f for _, _, f in parts]),
            species=torch.cat([torch.full((len(f),), z) for z, _, f in parts]),
            owner=torch.cat([torch.full((len(f),), i) for _, i, f in parts]),
            n_sets=len(sets),
        )


def _everyones(own: list[_Drawn], count: int, group: Group) -> list[_Drawn]:
    """The structures with the ``count`` lowest draws of all ranks; all for 0."""
    if group.size == 1:
        return own
    draws = np.sort(group.joined(torch.tensor([item[0] for item in own], dtype=torch.float64)).numpy())
    if count and len(draws) > count:
        own = [item for item in own if float(item[0]) <= draws[count - 1]]
    pieces = [(i, z, f) for i, (_, atoms) in enumerate(own) for z, f in atoms if len(f)]
    width = max(group.gather_json(max((f.shape[1] for _, _, f in pieces), default=0)))
    dtype = common_dtype([f for _, _, f in pieces], group)
    features = group.gather(torch.cat([torch.zeros(0, width, dtype=dtype), *(f.to(dtype) for _, _, f in pieces)]))
    sizes = group.gather_json([[item[0] for item in own], [[i, z, len(f)] for i, z, f in pieces]])
    found: list[_Drawn] = []
    for (numbers, places), rows in zip(sizes, features, strict=True):
        part: list[_Drawn] = [(number, []) for number in numbers]
        for (i, z, _), f in zip(places, rows.split([n for *_, n in places]), strict=True):
            part[i][1].append((z, f))
        found += part
    return found

"""Batches of several stores as one, without the structures that do not count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from mekrr_scale.arrays import FeatureBatch


@dataclass(frozen=True)
class Chained:
    """Several re-iterables as one."""

    parts: Sequence[Iterable[FeatureBatch]]
    weights: tuple[float, ...] = ()  # of their rows; empty: all 1
    examples: bool = False  # without the isolated atoms, which are references
    configs: Mapping[int, Sequence[float]] = field(default_factory=dict)  # ``FeatureBatch.weighed``
    dropped: frozenset[int] = frozenset()  # structures that are left out

    def __iter__(self) -> Iterator[FeatureBatch]:
        for part, weight in zip(self.parts, self.weights or [1.0] * len(self.parts), strict=True):
            for batch in part:
                counting = self._counting(batch.weighed(self.configs))
                if counting.n_structures or counting is batch:
                    yield counting if weight == 1.0 else replace(counting, importance=weight)

    def _counting(self, batch: FeatureBatch) -> FeatureBatch:
        """Structures with neighbours, some of whose rows count, that are not left out."""
        out = batch.isolated if self.examples else torch.zeros_like(batch.isolated)
        out = out | (batch.largest_weight == 0)
        if self.dropped:
            out = out | torch.isin(batch.ids, torch.tensor(sorted(self.dropped)))
        return batch.kept(~out)

"""How alike structures are, from their features: copies, and frames that follow one another.

A structure's print is a short vector that neither the order of its atoms, nor where it stands, nor a repetition of its
cell changes: means and deviations, over the atoms of every element, of random combinations of the features, weighted
with the elements' parts of the atoms. Prints are compared among structures of one composition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray
from numpy.typing import NDArray
from torch import Tensor

from mekrr_scale.arrays import N_ELEMENTS, FeatureBatch, draw, leaders
from mekrr_scale.distributed import Group

_WIDTH = 16  # random combinations of the features, of which means and deviations are kept
_COPY = 0.03  # of the distance that nine in ten pairs of a composition are within: nearer ones are copies
_ROUNDING = 3e-6  # of a print's length: what other orders and places of the atoms leave
_SMALL = 1e-2  # deviation along an axis, relative to the largest, that is looked at
_AXES = 3  # at least: with fewer, neighbours come by chance
_CORRELATED = 0.5  # mean squared distance of neighbours over that of any two; 1 where they have nothing in common
_FEWEST = 20  # pairs of neighbours that a correlation is told from

Piece = tuple[Tensor, ...]  # places, keys, groups, compositions, prints and elements of a batch's structures


@dataclass(frozen=True)
class Prints:
    """Of all structures, in the order in which they came to the data."""

    keys: NDArray[np.uint64]  # what folds know a structure, or its trajectory, by
    free: Bool[ndarray, " structures"]  # of no trajectory that is known
    composition: NDArray[np.uint64]  # of the formula unit
    values: Float64[ndarray, "structures numbers"]
    elements: Bool[ndarray, "structures elements"]  # which a structure holds, where its energy is known

    @classmethod
    def joined(cls, pieces: Sequence[Piece], group: Group) -> Prints:
        """Of the structures of all ranks, from the pieces of their batches."""
        none = *(torch.zeros(0, dtype=torch.int64),) * 4, torch.zeros(0, 2 * _WIDTH).double(), _no_elements(0)
        own = [torch.cat(parts) for parts in zip(none, *pieces, strict=True)]
        place, keys, groups, composition, values, elements = (group.joined(part).numpy() for part in own)
        order = np.argsort(place, kind="stable")
        return cls(
            keys=keys[order].astype(np.uint64),
            free=groups[order] < 0,
            composition=composition[order].astype(np.uint64),
            values=values[order],
            elements=elements[order] > 0,
        )

    def compositions(self) -> list[NDArray[np.int64]]:
        """Places of the structures of no trajectory, composition by composition, each in the order of the data."""
        places = np.flatnonzero(self.free)
        _, which = np.unique(self.composition[places], return_inverse=True)
        return [places[which == c] for c in range(int(which.max()) + 1)] if len(places) else []

    def copies(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of copies, and of what each is a copy of.

        Copies are told from ordinary neighbours by their distance: what rounding leaves, or a small part of what most
        pairs of the same composition have, in axes that all count alike. Each is near its original, so that a dense
        series does not become one set of copies.
        """
        groups = [members for members in self.compositions() if len(members) > 1]
        alike, original = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        if not groups:
            return alike[0], original[0]
        even = self._even(groups)
        pairs = [even[a] - even[b] for a, b in map(self._random_pairs, groups)]
        jitter = _COPY * float(np.quantile(np.linalg.norm(np.concatenate(pairs), axis=1), 0.9))
        for members in groups:
            rounding = _ROUNDING * float(np.median(np.linalg.norm(self.values[members], axis=1)))
            for values, radius in ((self.values, rounding), (even, jitter)):
                first = members[leaders(values[members], self.keys[members], radius)]
                alike.append(members[first != members])
                original.append(first[first != members])
        return np.concatenate(alike), np.concatenate(original)

    def _even(self, groups: Sequence[NDArray[np.int64]]) -> Float64[ndarray, "structures axes"]:
        """Prints along the principal axes within compositions, in units of the deviation along each.

        The first axis alone, most often the volume, would make neighbours of structures that differ otherwise. Axes
        of little variance, and more than a quarter of what the structures determine, would hide copies.
        """
        centred = np.concatenate([self.values[members] - self.values[members].mean(0) for members in groups])
        known = len(centred) - len(groups)
        _, size, axes = np.linalg.svd(centred, full_matrices=False)
        count = int((size > _SMALL * size[0]).sum()) if size[0] > 0 else 0
        count = min(count, max(_AXES, known // 4))
        if count < min(_AXES, known):
            return np.zeros((len(self.values), 0))
        return np.asarray(self.values @ (axes[:count].T / size[:count] * known**0.5))

    def correlated(self) -> tuple[list[NDArray[np.int64]], float]:
        """Compositions whose consecutive frames are alike, and how much: 1 is not at all, 0 copies."""
        found, ratios, counts = [], [], []
        for members in self.compositions():
            after = members[1:][np.diff(members) == 1]
            if not len(after):
                continue
            spread = 2.0 * float(self.values[members].var(0, ddof=1).sum())
            if spread > 0:
                found.append(members)
                distances = np.linalg.norm(self.values[after] - self.values[after - 1], axis=1)
                ratios.append(float((distances**2).mean()) / spread)
                counts.append(len(after))
        ratio, count = np.array(ratios), np.array(counts)
        if not found:
            return [], 1.0
        pooled = float((ratio * count).sum() / count.sum())
        certain = np.array([_certain(r, n) for r, n in zip(ratios, counts, strict=True)])
        certain |= _certain(pooled, sum(counts))
        chosen = certain & (ratio < _CORRELATED)
        if not chosen.any():
            return [], pooled
        share = float((ratio * count)[chosen].sum() / count[chosen].sum())
        return [members for members, yes in zip(found, chosen, strict=True) if yes], share

    def _random_pairs(self, members: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Neighbours in the order of the keys, which has nothing to do with that of the data."""
        order = members[np.argsort(self.keys[members], kind="stable")]
        return order, np.roll(order, 1)


def _certain(ratio: float, count: int) -> bool:
    """Whether so many uncorrelated neighbours would hardly ever have this ratio (von Neumann 1941)."""
    return count >= _FEWEST and ratio < min(_CORRELATED, 1.0 - 4.0 / count**0.5)


def piece(batch: FeatureBatch, keys: NDArray[np.uint64], first: int) -> Piece:
    """A batch's part of the prints.

    Args:
        first: place of its first structure in the whole data.
    """
    places = torch.arange(first, first + batch.n_structures)
    known_by = torch.from_numpy(keys.astype(np.int64))
    return places, known_by, batch.groups, _composition(batch), _print(batch), _elements(batch)


def _no_elements(count: int) -> Tensor:
    return torch.zeros(count, N_ELEMENTS, dtype=torch.uint8)


def _print(batch: FeatureBatch) -> Float64[Tensor, "structures numbers"]:
    found = torch.zeros(batch.n_structures, 2 * _WIDTH, dtype=torch.float64)
    for run in batch.runs:
        counts = run.ptr.diff()
        owner = torch.repeat_interleave(torch.arange(batch.n_structures), counts)
        generator = torch.Generator().manual_seed(run.z)
        mixing = torch.randn(run.features.shape[1], _WIDTH, generator=generator, dtype=torch.float64)
        mixed, size = run.features.double() @ mixing, counts.clamp_min(1)[:, None]
        mean = torch.zeros(batch.n_structures, _WIDTH, dtype=torch.float64).index_add_(0, owner, mixed) / size
        square = torch.zeros_like(mean).index_add_(0, owner, (mixed - mean[owner]).square()) / size
        found += (counts / batch.n_atoms)[:, None] * torch.cat([mean, square.sqrt()], 1)
    return found


def _composition(batch: FeatureBatch) -> Int64[Tensor, " structures"]:
    """A number for the formula unit."""
    counts = batch.counts(batch.species).numpy()
    unit = counts // np.gcd.reduce(counts, axis=1, keepdims=True).clip(min=1)
    weights = draw(np.array(batch.species, dtype=np.uint64), 0)
    return torch.from_numpy((unit.astype(np.uint64) * weights).sum(1, dtype=np.uint64).astype(np.int64))


def _elements(batch: FeatureBatch) -> Tensor:
    found = _no_elements(batch.n_structures)
    found[:, list(batch.species)] = (batch.counts(batch.species) > 0).to(torch.uint8)
    return found * batch.with_energy[:, None]

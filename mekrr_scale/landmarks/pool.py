"""Candidates for landmarks and samples: the atoms with the lowest draws, from one pass.

Every atom draws its number from a hash of its structure's content and its place there, so that
neither the order of the structures, nor their split into shards, nor the ranks that hold them change
what is chosen. Memory is for the candidates, never for all atoms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, Landmarks, draw
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.errors import ConfigError, require_known
from mekrr_scale.landmarks.choices import Balance

_POWERS: Mapping[Balance, float] = {"proportional": 1.0, "sqrt": 0.5, "equal": 0.0}  # of a species' number of atoms


@dataclass(frozen=True)
class Pool:
    """Candidate atoms, and how many atoms of each species the data hold."""

    features: Mapping[int, Tensor]  # by atomic number: [candidates, dim], in the order of their draws
    draws: Mapping[int, NDArray[np.uint64]]
    counts: Mapping[int, int]

    def require(self, count: int) -> None:
        """That many single atoms can be chosen, or a ConfigError."""
        atoms = sum(self.counts.values())
        if count > atoms:
            raise ConfigError(
                f"{count} landmarks asked for, but the data hold {atoms} atoms; ask for at most that many"
            )

    def share(self, count: int, balance: Balance, copies: int = 1) -> dict[int, int]:
        """How many of ``count`` landmarks each species gets; never more than it has candidates.

        Args:
            copies: how often each candidate may be taken.

        Raises:
            ConfigError: an unknown balance.
        """
        require_known("there is no balance", balance, _POWERS)
        power = _POWERS[balance]
        available = {z: copies * len(self.features[z]) for z in sorted(self.features)}
        shares = dict.fromkeys(available, 0)
        left = min(count, sum(available.values()))
        while left > 0:
            open_species = [z for z in available if shares[z] < available[z]]
            weights = np.array([self.counts[z] ** power for z in open_species])
            exact = weights / weights.sum() * left
            add = np.floor(exact).astype(int)
            add[np.argsort(-(exact - add), kind="stable")[: left - int(add.sum())]] += 1
            for z, extra in zip(open_species, add.tolist(), strict=True):
                taken = min(extra, available[z] - shares[z])
                shares[z] += taken
                left -= taken
        return shares


def check_count(count: int) -> None:
    """At least one landmark is asked for, or a ConfigError."""
    if count < 1:
        raise ConfigError(f"{count} landmarks asked for; ask for at least one")


def draw_pool(batches: Iterable[FeatureBatch], most: int, seed: int, group: Group = ALONE) -> Pool:
    """For every species the ``most`` atoms with the lowest draws; the same on all ranks."""
    check_count(most)
    features: dict[int, Tensor] = {}
    draws: dict[int, NDArray[np.uint64]] = {}
    counts: dict[int, int] = {}
    for batch in batches:
        for run, source in zip(batch.runs, batch.sources, strict=True):
            counts[run.z] = counts.get(run.z, 0) + len(run.features)
            drawn = atom_draws(batch, run.ptr, source, seed)
            best = np.argsort(drawn, kind="stable")[:most]
            found = run.features[torch.from_numpy(np.sort(best))]
            drawn = drawn[np.sort(best)]
            if run.z in features:
                found = torch.cat([features[run.z], found])
                drawn = np.concatenate([draws[run.z], drawn])
            order = np.argsort(drawn, kind="stable")[:most]
            features[run.z], draws[run.z] = found[torch.from_numpy(order)], drawn[order]
    if group.size > 1:
        counted = [{int(z): n for z, n in part.items()} for part in group.gather_json(counts)]
        counts = {z: sum(part.get(z, 0) for part in counted) for z in sorted(set().union(*counted))}
        width = max(group.gather_json(max((f.shape[1] for f in features.values()), default=0)))
        none = torch.zeros(0, width), np.empty(0, np.uint64)
        for z in counts:
            own, drawn = (features[z], draws[z]) if z in features else none
            features[z], draws[z] = lowest(own, drawn, most, group)
    present = [z for z in sorted(features) if len(features[z])]
    return Pool({z: features[z] for z in present}, {z: draws[z] for z in present}, counts)


def lowest(features: Tensor, draws: NDArray[np.uint64], most: int, group: Group) -> tuple[Tensor, NDArray[np.uint64]]:
    """Those with the ``most`` lowest draws of all ranks, in the order of their draws.

    The draws are exchanged first, so that the features sent are those that are kept.
    """
    everyone = np.sort(group.joined(torch.from_numpy(draws.astype(np.int64))).numpy().astype(np.uint64))
    if len(everyone) > most:
        keep = draws <= everyone[most - 1]
        features, draws = features[torch.from_numpy(keep)], draws[keep]
    features = group.joined(features.to(common_dtype([features], group)))
    draws = group.joined(torch.from_numpy(draws.astype(np.int64))).numpy().astype(np.uint64)
    order = np.argsort(draws, kind="stable")[:most]
    return features[torch.from_numpy(order)], draws[order]


def common_dtype(tensors: Sequence[Tensor], group: Group) -> torch.dtype:
    """The precision of all ranks' features; a rank may have none."""
    return (
        torch.float64
        if max(group.gather_json(any(len(t) and t.dtype == torch.float64 for t in tensors)))
        else torch.float32
    )


def atom_draws(batch: FeatureBatch, ptr: Tensor, source: Tensor, seed: int) -> NDArray[np.uint64]:
    """The number that every atom of a run of one species draws.

    Args:
        ptr: where the atoms of each structure begin in the run [structures + 1].
        source: place of each atom in its structure.
    """
    owner = np.repeat(np.arange(len(ptr) - 1), ptr.diff().numpy())
    ids = batch.ids.numpy().astype(np.uint64)[owner]
    return draw(draw(ids, seed) ^ source.numpy().astype(np.uint64), seed + 1)


def singletons(chosen: Mapping[int, Tensor]) -> Landmarks:
    """Single atoms as landmarks, from the chosen features of each species."""
    count = sum(len(f) for f in chosen.values())
    return Landmarks(
        features=torch.cat([chosen[z] for z in sorted(chosen)]),
        species=torch.cat([torch.full((len(chosen[z]),), z) for z in sorted(chosen)]),
        owner=torch.arange(count),
        n_sets=count,
    )

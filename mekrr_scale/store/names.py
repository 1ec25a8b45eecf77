"""Structures of stores by the names that people know them by: which file, and which place in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from mekrr_scale.arrays import config_hash
from mekrr_scale.store.documents import SIDECAR
from mekrr_scale.store.reader import FeatureStore
from mekrr_scale.store.shard import config_names, sample_place
from mekrr_scale.store.sidecars import Sidecar

_SHARDS = 1000  # that are looked at for a sample


@dataclass(frozen=True)
class Named:
    """Where a structure came from."""

    source: str  # a file, or what made it
    index: int  # counted from 0 in its source
    geometry: int  # hash that equal structures share, whatever their labels

    @property
    def name(self) -> str:
        """As reports call it."""
        return f"structure {self.index} of {self.source}"


def names_of(stores: Sequence[FeatureStore], ids: Iterable[int]) -> dict[int, str]:
    """Names of some structures, counted from 0 in their files.

    Args:
        ids: hashes of their content (``FeatureBatch.ids``).
    """
    return {number: item.name for number, item in origins_of(stores, ids).items()}


def origins_of(stores: Sequence[FeatureStore], ids: Iterable[int]) -> dict[int, Named]:
    """Where some structures came from.

    Args:
        ids: hashes of their content (``FeatureBatch.ids``).
    """
    wanted = np.array(sorted(set(ids)), dtype=np.int64)
    found: dict[int, Named] = {}
    for store in stores:
        for info in store.shards:
            shard = store.open(info)
            small = shard.small
            places = np.flatnonzero(shard.counting & np.isin(small["/structure/id"], wanted))
            if not len(places):
                continue
            sidecar = Sidecar.read(store.path / f"{info.path}{SIDECAR}")
            origins, geometries = sidecar.each(), None if sidecar.origins is None else sidecar.origins.geometries
            for place in places.tolist():
                origin = origins[place]
                index = int(small["/structure/index"][place]) - origin.first
                source = origin.source or info.input
                geometry = 0 if geometries is None else int(geometries[place])
                found.setdefault(int(small["/structure/id"][place]), Named(source, index, geometry))
    return found


def configs_of(store: FeatureStore) -> tuple[str, ...]:
    """The configuration types of a store's structures that count, in order."""
    found: set[str] = set()
    for shard in map(store.open, store.shards):
        if "/structure/config" in shard.small:
            own = set(shard.small["/structure/config"][shard.counting].tolist())
            found.update(name for name in config_names(shard.small) if config_hash(name) in own)
    return tuple(sorted(found))


@dataclass(frozen=True)
class Sample:
    """A structure of a store: the one of its shard that has the lowest energy per atom, a periodic one if there is."""

    atoms: Atoms
    id: int  # hash of its content
    energy: float  # eV/atom


def samples_of(stores: Sequence[FeatureStore]) -> list[Sample]:
    """One of each shard, periodic ones of lowest energy first; of very many shards some are looked at.

    Shards of older versions have none.
    """
    found = []
    shards = [(store, info) for store in stores for info in store.shards]
    for store, info in shards[:: max(1, len(shards) // _SHARDS)]:
        small = store.open(info).small
        if "/sample/numbers" not in small:
            continue
        place, at = sample_place(small), int(small["/sample/structure"][0])
        if at in info.excluded:
            continue
        atoms = Atoms(small["/sample/numbers"], place.positions, cell=place.cell, pbc=place.pbc.astype(bool))
        number, energy = int(small["/structure/id"][at]), float(small["/structure/energy"][at])
        found.append(Sample(atoms, number, energy / len(atoms)))
    return sorted(found, key=lambda sample: (not sample.atoms.pbc.all(), sample.energy, sample.id))

"""What stores hold, told from their small arrays; and atoms drawn from them, with their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from numpy import ndarray

from mekrr_scale.arrays import ISOLATED, RowKind, config_hash
from mekrr_scale.store.format import ShardInfo
from mekrr_scale.store.reader import FeatureStore
from mekrr_scale.store.shard import WEIGHTS, Arrays, config_names

LOOKED_AT = 200_000  # structures of which the survey tells one by one
_RUN = 16  # atoms of a shard and species that are read together


@dataclass(frozen=True)
class Survey:
    """Structures of stores: all, or those of every so many-th shard."""

    whole: bool  # all of them
    species: tuple[int, ...]
    ids: Int64[ndarray, " structures"]  # hashes of their content
    counts: Int64[ndarray, "structures species"]
    energy: Float64[ndarray, " structures"]  # eV; NaN: not known
    isolated: Bool[ndarray, " structures"]
    configs: tuple[str, ...]  # configuration type of each; empty: not told
    forced: Bool[ndarray, " structures"]  # whether forces are known
    stressed: Bool[ndarray, " structures"]
    force: Float64[ndarray, " atoms"]  # magnitudes of the forces on atoms, eV/angstrom
    directions: dict[RowKind, int]  # with a label, by kind

    @property
    def n_atoms(self) -> Int64[ndarray, " structures"]:
        """Their sizes."""
        return np.asarray(self.counts.sum(1))


def survey(stores: Sequence[FeatureStore]) -> Survey:
    """Look at the labels of stores; no features are read."""
    shards = [(store, info) for store in stores for info in store.shards]
    total = sum(store.n_structures for store in stores)
    step = -(-total // LOOKED_AT) if total else 1
    species = tuple(sorted({z for store in stores for z in store.species}))
    return _joined([_piece(store, info, species) for store, info in shards[::step]], species, step == 1)


def bring_weights(stores: Sequence[FeatureStore]) -> bool:
    """Whether frames have weights of their own in the shards that a rank owns; no features are read."""
    return any(WEIGHTS in store.open(info).small for store in stores for info in store.own_shards)


def _joined(pieces: Sequence[Survey], species: tuple[int, ...], whole: bool) -> Survey:
    def every(name: str, empty: ndarray) -> ndarray:
        return np.concatenate([empty, *(getattr(piece, name) for piece in pieces)])

    no, nothing = np.empty(0, bool), np.empty(0)
    return Survey(
        whole, species, every("ids", np.empty(0, np.int64)), every("counts", np.empty((0, len(species)), np.int64)),
        every("energy", nothing), every("isolated", no), tuple(name for piece in pieces for name in piece.configs),
        every("forced", no), every("stressed", no), every("force", nothing),
        {kind: sum(piece.directions[kind] for piece in pieces) for kind in RowKind},
    )  # fmt: skip


def _piece(store: FeatureStore, info: ShardInfo, species: tuple[int, ...]) -> Survey:
    small = store.open(info).small
    number = len(small["/structure/id"])
    kept = np.ones(number, bool)
    kept[sorted(info.excluded)] = False
    counts = np.zeros((number, len(species)), np.int64)
    for z, ptr in zip(small["/species/z"].tolist(), small["/structure/ptr"], strict=True):
        counts[:, species.index(z)] = np.diff(ptr)
    owner = small["/atom/structure"]
    inside = np.asarray(kept[owner])
    force, forced = _forces(small, owner, number)
    stress = small.get("/structure/stress", np.full((number, 6), np.nan))
    names = {config_hash(name): name for name in config_names(small)}
    configs = small.get("/structure/config", np.zeros(number, np.int64))
    return Survey(
        True, species, small["/structure/id"][kept], counts[kept], small["/structure/energy"][kept],
        (small["/structure/group"] == ISOLATED)[kept],
        tuple(names.get(int(config), "") for config in configs[kept]),
        forced[kept], np.asarray(np.isfinite(stress).all(1))[kept],
        force[inside & np.isfinite(force)], _directions(small, kept),
    )  # fmt: skip


def _forces(small: Arrays, owner: ndarray, number: int) -> tuple[Float64[ndarray, " atoms"], Bool[ndarray, " _"]]:
    """Magnitudes, NaN where not known, and whether all of a structure's are known."""
    if "/atom/forces" not in small:
        return np.full(len(owner), np.nan), np.zeros(number, bool)
    force = np.linalg.norm(small["/atom/forces"], axis=1)
    return force, np.bincount(owner, weights=~np.isfinite(force), minlength=number) == 0


def _directions(small: Arrays, kept: Bool[ndarray, " structures"]) -> dict[RowKind, int]:
    found = dict.fromkeys(RowKind, 0)
    if "/tangent/ptr" in small:
        owner = np.repeat(np.arange(len(kept)), np.diff(small["/tangent/structure_ptr"]))
        known = kept[owner] & np.isfinite(small["/tangent/label"])
        found |= {kind: int((known & (small["/tangent/kind"] == int(kind))).sum()) for kind in RowKind}
    return found


@dataclass(frozen=True)
class DrawnAtoms:
    """Atoms with their features."""

    features: Float[ndarray, "atoms dim"]
    species: Int64[ndarray, " atoms"]  # atomic numbers
    structures: Int64[ndarray, " atoms"]  # hashes of their structures' content


def drawn_atoms(stores: Sequence[FeatureStore], count: int, seed: int = 5) -> DrawnAtoms:
    """About so many atoms of each species alike, in short runs from random places; few pages of a shard are read.

    Args:
        count: of all species together, at most twice as many.
        seed: of the places.
    """
    rng = np.random.default_rng(seed)
    shards = [(store, info) for store in stores for info in store.shards]
    there = {z for store in stores for z in store.species}
    runs = max(1, -(-count // (_RUN * max(1, len(there)) * max(1, len(shards)))))
    some = rng.permutation(len(shards))[: max(1, count // (_RUN * max(1, len(there))))]
    features, species, structures = [], [], []
    for place in sorted(some.tolist()):
        store, info = shards[place]
        shard = store.open(info)
        ptr, excluded = shard.small["/species/ptr"], np.array(sorted(info.excluded), np.int64)
        for z, first, last in zip(shard.small["/species/z"].tolist(), ptr, ptr[1:], strict=False):
            blocks = -(-int(last - first) // _RUN)
            for block in rng.permutation(blocks)[:runs].tolist():
                a = int(first) + block * _RUN
                b = min(a + _RUN, int(last))
                owner = shard.small["/atom/structure"][a:b]
                fine = ~np.isin(owner, excluded)
                features.append(np.asarray(shard.rows("/atom/features", a, b), np.float64)[fine])
                species.append(np.full(int(fine.sum()), z, np.int64))
                structures.append(shard.small["/structure/id"][owner][fine])
    whole = np.empty(0, np.int64)
    return DrawnAtoms(
        np.concatenate(features) if features else np.empty((0, 0)),
        np.concatenate([whole, *species]),
        np.concatenate([whole, *structures]),
    )

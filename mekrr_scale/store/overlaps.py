"""Structures that several stores have in common: a fit that takes them all counts them more than once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import UInt64
from numpy import ndarray

from mekrr_scale.errors import StoreError
from mekrr_scale.store.documents import SIDECAR
from mekrr_scale.store.reader import FeatureStore
from mekrr_scale.store.sidecars import Sidecar


def shared(stores: Sequence[FeatureStore]) -> list[str]:
    """What to say of geometries that stand in more than one of some stores; empty if there are none."""
    if len(stores) < 2:
        return []
    listed = [(store, _geometries(store)) for store in stores]
    found = []
    for (one, first), (other, second) in combinations(listed, 2):
        count = len(np.intersect1d(first, second, assume_unique=True))
        if count:
            found.append(
                f"{count} geometries are in {one.path} and in {other.path}: they count twice; to count them once, fit "
                f"what `mekrr-scale store merge {one.path} {other.path} -o NEW` makes"
            )
    return found


def _geometries(store: FeatureStore) -> UInt64[ndarray, " geometries"]:
    """Hashes of the geometries that count, as far as sidecars tell them."""
    found = [np.empty(0, dtype=np.uint64)]
    for info in store.shards:
        try:
            origins = Sidecar.read(store.path / f"{info.path}{SIDECAR}").origins
        except (StoreError, OSError):  # the shards alone make a store
            continue
        if origins is not None:
            found.append(np.delete(origins.geometries, list(info.excluded)))
    return np.unique(np.concatenate(found))

"""Isolated atoms in a store: frames of one atom without neighbours, which give reference energies."""

from __future__ import annotations

import math

import numpy as np

from mekrr_scale.arrays import ISOLATED
from mekrr_scale.store.reader import FeatureStore


def isolated_atoms(store: FeatureStore) -> dict[int, list[float]]:
    """Energies (eV) of the isolated atoms that count in a rank's shards, by atomic number; NaN where unknown.

    No features are read.
    """
    found: dict[int, list[float]] = {}
    for shard in map(store.open, store.own_shards):
        lone = shard.counting & (shard.small["/structure/group"] == ISOLATED)
        for place in np.flatnonzero(lone).tolist():
            z = int(shard.z[shard.atoms[:, place].argmax()])
            found.setdefault(z, []).append(float(shard.small["/structure/energy"][place]))
    return found


def lowest_energies(found: dict[int, list[float]]) -> dict[int, float]:
    """The lowest known energy of every element: atoms in other states are no references."""
    known = {z: [e for e in energies if not math.isnan(e)] for z, energies in found.items()}
    return {z: min(energies) for z, energies in sorted(known.items()) if energies}

"""Isolated atoms in a store: frames of one atom without neighbours, which give reference energies."""

from __future__ import annotations

import math

import numpy as np

from mekrr_scale.arrays import ISOLATED
from mekrr_scale.store.reader import FeatureStore


def isolated_atoms(store: FeatureStore) -> dict[int, list[float]]:
    """Energies (eV) of the isolated atoms in the shards that a rank owns, by atomic number; NaN where unknown.

    No features are read.
    """
    found: dict[int, list[float]] = {}
    for info in store.shards:
        if store.owned is not None and info.path not in store.owned:
            continue
        small = store.open(info).small
        places = np.flatnonzero(small["/structure/group"] == ISOLATED)
        if not len(places):
            continue
        species, ptr = small["/species/z"], small["/structure/ptr"]
        for place in places.tolist():
            z = int(species[int((ptr[:, place + 1] - ptr[:, place]).argmax())])
            found.setdefault(z, []).append(float(small["/structure/energy"][place]))
    return found


def lowest_energies(found: dict[int, list[float]]) -> dict[int, float]:
    """The lowest known energy of every element: atoms in other states are no references."""
    known = {z: [e for e in energies if not math.isnan(e)] for z, energies in found.items()}
    return {z: min(energies) for z, energies in sorted(known.items()) if energies}

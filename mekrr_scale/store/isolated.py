"""Isolated atoms in a store: frames of one atom without neighbours, which give reference energies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.arrays import ISOLATED, RowKind
from mekrr_scale.store.reader import FeatureStore
from mekrr_scale.store.shard import WEIGHTS, Arrays


def isolated_atoms(store: FeatureStore, factors: Mapping[int, Sequence[float]] | None = None) -> dict[int, list[float]]:
    """Energies (eV) of the isolated atoms that count in a rank's shards, by atomic number; NaN where unknown.

    No features are read.

    Args:
        factors: of the weights of configuration types (``FeatureBatch.weighed``), for a fit: energies that weigh
            nothing are NaN as well.
    """
    found: dict[int, list[float]] = {}
    for shard in map(store.open, store.own_shards):
        lone = shard.counting & (shard.small["/structure/group"] == ISOLATED)
        energy = shard.small["/structure/energy"]
        if factors is not None:
            energy = np.where(_weights(shard.small, factors) > 0, energy, np.nan)
        for place in np.flatnonzero(lone).tolist():
            z = int(shard.z[shard.atoms[:, place].argmax()])
            found.setdefault(z, []).append(float(energy[place]))
    return found


def _weights(small: Arrays, factors: Mapping[int, Sequence[float]]) -> Float64[ndarray, " structures"]:
    """Of their energies."""
    found = small[WEIGHTS][:, RowKind.ENERGY].copy() if WEIGHTS in small else np.ones(len(small["/structure/energy"]))
    for config, factor in factors.items():
        if "/structure/config" in small:
            found[small["/structure/config"] == config] *= factor[RowKind.ENERGY]
    return found


def lowest_energies(found: dict[int, list[float]]) -> dict[int, float]:
    """The lowest known energy of every element: atoms in other states are no references."""
    known = {z: [e for e in energies if not math.isnan(e)] for z, energies in found.items()}
    return {z: min(energies) for z, energies in sorted(known.items()) if energies}

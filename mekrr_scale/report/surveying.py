"""From stores to what a page says of the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols
from numpy import ndarray

from mekrr_scale.arrays import KINDS, ByKind, RowKind
from mekrr_scale.models import Model
from mekrr_scale.regression import UNITS
from mekrr_scale.report.results import Data, Histogram
from mekrr_scale.store import FeatureStore, Survey

_BINS = 40


def surveyed_data(
    model: Model, stores: Sequence[FeatureStore], seen: Survey, weights: ByKind[float] | None = None
) -> Data:
    """What stores hold, and what of it went into a model.

    Args:
        weights: of the kinds of rows in the fit; None: not known, so that what was used is not told.
    """
    known = seen.energy[np.isfinite(seen.energy) & ~seen.isolated]
    sizes = seen.n_atoms
    elements = {
        chemical_symbols[z]: (int(seen.counts[:, place].sum()), int((seen.counts[:, place] > 0).sum()))
        for place, z in enumerate(seen.species)
    }
    names, numbers = np.unique([name or "(none)" for name in seen.configs], return_counts=True)
    told = any(seen.configs)
    return Data(
        stores=[str(store.path) for store in stores],
        structures=sum(store.n_structures for store in stores),
        atoms=sum(store.n_atoms for store in stores),
        smallest=int(sizes.min(initial=0 if not len(sizes) else 1 << 40)),
        largest=int(sizes.max(initial=0)),
        elements=elements,
        configs=dict(zip(names.tolist(), numbers.tolist(), strict=True)) if told else {},
        used={} if weights is None else _used(weights, seen),
        ignored=_ignored(weights, seen, stores, len(known)),
        histograms=_histograms(model, seen),
        looked_at=len(seen.ids),
    )


def _used(weights: ByKind[float], seen: Survey) -> dict[str, str]:
    energies = int((np.isfinite(seen.energy) & ~seen.isolated).sum())
    found = {"energy": f"{energies} structures, weight {weights[RowKind.ENERGY]:g}"}
    whose = {RowKind.FORCE: (seen.forced, "displacements"), RowKind.STRESS: (seen.stressed, "strains")}
    for kind, (known, what) in whose.items():
        if seen.directions[kind] and weights[kind]:
            found[KINDS[kind].name] = (
                f"{seen.directions[kind]} directions ({what}) of {int(known.sum())} structures, "
                f"weight {weights[kind]:g}"
            )
    return found


def _ignored(weights: ByKind[float] | None, seen: Survey, stores: Sequence[FeatureStore], energies: int) -> list[str]:
    """Labels that are there and were not learned from, and structures that are left out."""
    found = []
    lacking = len(seen.ids) - energies - int(seen.isolated.sum())
    if lacking:
        found.append(f"{lacking} structures have no energy")
    if seen.isolated.any():
        found.append(f"{int(seen.isolated.sum())} isolated atoms are references of the baseline and no examples")
    for kind, known, what in ((RowKind.FORCE, seen.forced, "forces"), (RowKind.STRESS, seen.stressed, "stress")):
        used = seen.directions[kind] and (weights is None or weights[kind])
        if known.any() and not used:
            why = "no directions were extracted" if not seen.directions[kind] else "their rows have weight 0"
            found.append(f"{what} of {int(known.sum())} structures: {why}")
    excluded = sum(store.n_excluded for store in stores)
    if excluded:
        found.append(f"{excluded} copies of structures in the stores do not count")
    return found


def _histograms(model: Model, seen: Survey) -> list[Histogram]:
    baseline = model.baseline
    places = [baseline.species.index(z) for z in seen.species if z in baseline.species]
    found = []
    if len(places) == len(seen.species) and len(seen.ids):
        rest = (seen.energy - seen.counts @ baseline.energies.numpy()[places]) / np.maximum(seen.n_atoms, 1)
        unit = UNITS["energy"]
        known = unit.factor * rest[~seen.isolated & np.isfinite(rest)]
        middle = float(np.median(known)) if len(known) else 0.0
        found.append(_histogram(known - middle, f"energy less references and median ({unit.symbol})"))
    if len(seen.force):
        found.append(_histogram(UNITS["force"].factor * seen.force, f"force on an atom ({UNITS['force'].symbol})"))
    return [each for each in found if each.counts]


def _histogram(values: ndarray, about: str) -> Histogram:
    known = values[np.isfinite(values)]
    if not len(known):
        return Histogram([], [], about)
    counts, edges = np.histogram(known, _BINS)
    return Histogram(edges.tolist(), counts.tolist(), about)

"""From what a fit's cross-validation left out to the numbers of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.arrays import KINDS, RowKind
from mekrr_scale.errors import MekrrError
from mekrr_scale.files import split_frames
from mekrr_scale.pipeline import FitReport, Outlier
from mekrr_scale.report.listing import listed, numbered, picture, scores_by, short
from mekrr_scale.report.results import Measured, Picture, Quantity, Rows, Worst
from mekrr_scale.report.statistics import scored
from mekrr_scale.store import FeatureStore, Named, Survey, origins_of
from mekrr_scale.structures import geometry_hash, read_structures

_WORST = 6
_READ = 2000  # frames of a file that are looked through for pictures
_WHAT = {"energy": "energies per atom", "force": "along the stored directions", "stress": "virials per atom"}


def held_out(fit: FitReport, stores: Sequence[FeatureStore], seen: Survey) -> Measured:
    """What cross-validation left out, with errors by element, configuration type and store."""
    place_of = {int(number): place for place, number in enumerate(seen.ids.tolist())}
    quantities = []
    for kind, rows in sorted(fit.rows.items()):
        info = KINDS[kind]
        factor = info.unit.factor
        ids = rows.ids.numpy()
        reference, predicted = factor * rows.reference.numpy(), factor * rows.predicted.numpy()
        total = scored(reference, predicted, ids)
        if total is None:
            continue
        places = np.array([place_of.get(int(each), -1) for each in ids])
        named = np.array([seen.configs[place] if place >= 0 else "" for place in places], dtype=object)
        holds = seen.counts[places] > 0
        holds[places < 0] = False
        groups = {chemical_symbols[z]: holds[:, column] for column, z in enumerate(seen.species)}
        interval = _scaled(factor * rows.interval.numpy(), predicted - reference)
        posterior = fit.model.posterior
        sure = None if posterior is None else posterior.energy if kind is RowKind.ENERGY else posterior.force
        shown = listed(info.name, len(ids))
        quantities.append(
            Quantity(
                info.name, f"{_WHAT[info.name]}, held out", info.unit.text, total,
                scores_by(reference, predicted, ids, {n: named == n for n in sorted(set(named)) if n}),
                scores_by(reference, predicted, ids, groups) if kind is RowKind.ENERGY else {},
                Rows(
                    numbered(ids)[shown].tolist(), short(reference[shown]), short(predicted[shown]),
                    short(interval[shown]) if np.isfinite(interval).all() else [],
                ),
                None if sure is None or not np.isfinite(interval).all() else sure.within_95 / sure.within_68,
                scores_by(reference, predicted, ids, {n: rows.stores.numpy() == k for k, n in enumerate(fit.stores)}),
            )
        )  # fmt: skip
    structures = max((each.total.structures for each in quantities), default=0)
    all_of_them = fit.model.validation.get("structures", structures)
    remarks = [] if structures == all_of_them else [f"a random {structures} of {all_of_them} structures"]
    return Measured("cross-validation", False, structures, quantities, remarks, _worst(fit, stores))


def _worst(fit: FitReport, stores: Sequence[FeatureStore]) -> list[Worst]:
    """Outliers, the farthest first; then the structures with the largest errors of forces, or of energies."""
    listed_ones = {item.id: _outlier(item) for item in fit.outliers[:_WORST]}
    kind = RowKind.FORCE if RowKind.FORCE in fit.rows else RowKind.ENERGY
    rows = fit.rows.get(kind)
    if rows is not None:
        ids, owner = np.unique(rows.ids.numpy(), return_inverse=True)
        squares = np.bincount(owner, weights=((rows.predicted - rows.reference) ** 2).numpy())
        errors = np.sqrt(squares / np.bincount(owner))
        unit, middle = KINDS[kind].unit, float(np.median(errors))
        for at in np.argsort(-errors, kind="stable")[:_WORST].tolist():
            times = f"{errors[at] / middle:.1f} times that of the middle structure" if middle > 0 else ""
            worst = Worst("", KINDS[kind].name, unit.factor * float(errors[at]), unit.text, times)
            listed_ones.setdefault(int(ids[at]), worst)
    some = dict(list(listed_ones.items())[:_WORST])
    origins = origins_of(stores, some)
    pictures = _pictures(origins)
    return [
        replace(
            item, name=item.name or (origins[number].name if number in origins else f"structure {number:x}"),
            picture=pictures.get(number),
        )
        for number, item in some.items()
    ]  # fmt: skip


def _pictures(origins: Mapping[int, Named]) -> dict[int, Picture]:
    """Structures whose files are still there, known by their geometry."""
    found: dict[int, Picture] = {}
    named = {item.source for item in origins.values() if item.source}
    for source in (each for each in named if split_frames(each)[0].is_file()):
        wanted = {item.geometry: number for number, item in origins.items() if item.source == source}
        try:
            for atoms in islice(read_structures(source), _READ):
                number = wanted.pop(geometry_hash(atoms), None)
                shown = None if number is None else picture(atoms)
                if number is not None and shown is not None:
                    found[number] = shown
                if not wanted:
                    break
        except MekrrError:  # the file is another one now, or wants to be told its format
            continue
    return found


def _scaled(interval: Float64[ndarray, " rows"], errors: Float64[ndarray, " rows"]) -> Float64[ndarray, " rows"]:
    """Intervals that hold 68 % of held-out errors: those of the whole model are narrower than those of the folds."""
    if not len(errors) or not (interval > 0).all():
        return np.full(len(errors), np.nan)
    return np.asarray(interval * np.percentile(np.abs(errors) / interval, 68.27))


def _outlier(item: Outlier) -> Worst:
    unit = KINDS[item.kind].unit
    why = f"{item.ratio:.1f} times its 95 % interval: is the label right?"
    return Worst(item.name, KINDS[item.kind].name, unit.factor * item.error, unit.text, why, True)

"""From a fit, its stores and evaluations to the numbers of a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from mekrr_scale.arrays import KINDS, RowKind
from mekrr_scale.figures import TextTable
from mekrr_scale.models import Model
from mekrr_scale.pipeline import FitReport, Outlier
from mekrr_scale.regression import UNITS
from mekrr_scale.report.advising import advice
from mekrr_scale.report.chart import charted
from mekrr_scale.report.listing import listed, numbered, scores_by, short
from mekrr_scale.report.results import About, Curve, Folds, Measured, Quantity, Results, Rows, Table, Worst
from mekrr_scale.report.statistics import PowerLaw, scored
from mekrr_scale.report.surveying import surveyed_data
from mekrr_scale.store import FeatureStore, survey

_WORST = 6
_CHOICES = ("Candidates, cross-validated", "Landmarks, grown, cross-validated")
_WHAT = {"energy": "energies per atom", "force": "along the stored directions", "stress": "virials per atom"}


def results_of(fit: FitReport, stores: Sequence[FeatureStore | Path | str], name: str = "model") -> Results:
    """All that a fit and its stores tell.

    Args:
        name: of the model's file.
    """
    opened = [store if isinstance(store, FeatureStore) else FeatureStore(Path(store)) for store in stores]
    seen = survey(opened)
    held = _held_out(fit, seen)
    found = replace(
        results_of_model(fit.model, name),
        data=surveyed_data(fit.model, opened, seen, fit.solution.weights),
        folds=_folds(fit),
        measured=[held] if held.quantities else [],
        candidates=[_table(table) for table in fit.tables() if table.title in _CHOICES and fit.plan.validation.folds],
        curves=_curves(fit),
        growth=[(step.landmarks, step.line.errors(shown=True)) for step in fit.growth],
        chart=charted(opened, _errors_by_id(fit)),
        warnings=list(fit.warnings),
        remarks=list(fit.remarks),
    )
    return found.but(advice=advice(found))


def results_of_model(model: Model, name: str) -> Results:
    """What a model's file tells alone."""
    at = model.kernel.atom
    mixing = model.kernel.mixing
    mixed = "mixing matrix over the elements" if mixing.matrix else f"alpha {mixing.alpha:g}"
    length = getattr(at, "length_scale", getattr(at, "length_scales", None))
    shown = "" if length is None else f", length scale {length:.3g}" if isinstance(length, float) else f", {length}"
    backbone = " ".join(str(model.backbone[key]) for key in ("name", "version") if model.backbone.get(key))
    about = About(
        name=name,
        backbone=backbone,
        kernel=f"{type(at).__name__}{shown}, {model.kernel.reduce}, {mixed}",
        landmarks=model.landmarks.n_sets,
        coefficients=str(model.provenance.get("coefficients_sha256", "")),
        solver=str(model.provenance.get("solver", "")),
        writer=str(model.provenance.get("writer", "")),
    )
    return Results(about)


def _folds(fit: FitReport) -> Folds | None:
    count = fit.plan.validation.folds
    rows = fit.rows.get(RowKind.ENERGY)
    if not count:
        return None
    sizes = [] if rows is None else np.bincount(rows.fold.numpy(), minlength=count).tolist()
    told = [line.removeprefix("folds: ") for line in fit.remarks if line.startswith("folds: ") or "same fold" in line]
    return Folds(count, sizes, told)


def _held_out(fit: FitReport, seen: Survey) -> Measured:
    """What cross-validation left out, with errors by element and configuration type."""
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
        interval = factor * rows.interval.numpy()
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
            )
        )  # fmt: skip
    remarks = [] if seen.whole else ["errors are those of a random part of the structures"]
    worst = [_outlier(item) for item in fit.outliers[:_WORST]]
    structures = max((each.total.structures for each in quantities), default=0)
    return Measured("cross-validation", False, structures, quantities, remarks, worst)


def _outlier(item: Outlier) -> Worst:
    unit = KINDS[item.kind].unit
    why = f"{item.ratio:.1f} times its 95 % interval: is the label right?"
    return Worst(item.name, KINDS[item.kind].name, unit.factor * item.error, unit.text, why)


def _errors_by_id(fit: FitReport) -> dict[int, float]:
    rows = fit.rows.get(RowKind.ENERGY)
    if rows is None:
        return {}
    errors = UNITS["energy"].factor * (rows.predicted - rows.reference).abs()
    return dict(zip(rows.ids.tolist(), errors.tolist(), strict=True))


def _curves(fit: FitReport) -> list[Curve]:
    found = []
    for kind, info in KINDS.items():
        points = [(point.structures, info.unit.factor * point.rmse[kind]) for point in fit.solution.curve]
        known = [(size, error) for size, error in points if math.isfinite(error)]
        if len(known) > 1 and info.judged:
            sizes, errors = np.array(known).T
            law = PowerLaw.fitted(sizes, errors)
            found.append(Curve(info.name, info.unit.text, sizes.tolist(), errors.tolist(), law))
    return found


def _table(table: TextTable) -> Table:
    return Table(table.title, table.columns, table.rows, table.caption, table.left)

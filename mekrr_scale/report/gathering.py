"""From a fit, its stores and evaluations to the numbers of a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mekrr_scale.arrays import KINDS, RowKind
from mekrr_scale.checks import CheckReport
from mekrr_scale.figures import Line, TextTable
from mekrr_scale.models import Model, kernel_text
from mekrr_scale.pipeline import FitReport
from mekrr_scale.regression import UNITS
from mekrr_scale.report.advising import advice
from mekrr_scale.report.chart import charted
from mekrr_scale.report.held import held_out
from mekrr_scale.report.results import About, Curve, Folds, Panel, Physics, Results, Table, Trace
from mekrr_scale.report.statistics import PowerLaw
from mekrr_scale.report.surveying import surveyed_data
from mekrr_scale.store import FeatureStore, survey

_CHOICES = ("Candidates, cross-validated", "Landmarks, grown, cross-validated")


def results_of(
    fit: FitReport,
    stores: Sequence[FeatureStore | Path | str],
    name: str = "model",
    checks: CheckReport | None = None,
) -> Results:
    """All that a fit, its stores and checks tell.

    Args:
        name: of the model's file.
    """
    opened = [store if isinstance(store, FeatureStore) else FeatureStore(Path(store)) for store in stores]
    seen = survey(opened)
    held = held_out(fit, opened, seen)
    found = replace(
        results_of_model(fit.model, name),
        data=surveyed_data(fit.model, opened, seen, fit.solution.weights),
        folds=_folds(fit),
        measured=[held] if held.quantities else [],
        candidates=[_table(table) for table in fit.tables() if table.title in _CHOICES and fit.plan.validation.folds],
        curves=_curves(fit),
        growth=[(step.landmarks, step.line.errors(shown=True)) for step in fit.growth],
        chart=charted(opened, _errors_by_id(fit)),
        physics=None if checks is None else _physics(checks),
        warnings=list(fit.warnings),
        remarks=list(fit.remarks),
    )
    return found.but(advice=advice(found))


def results_of_model(model: Model, name: str) -> Results:
    """What a model's file tells alone."""
    backbone = " ".join(str(model.backbone[key]) for key in ("name", "version") if model.backbone.get(key))
    about = About(
        name=name,
        backbone=backbone,
        kernel=kernel_text(model.kernel),
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


def _errors_by_id(fit: FitReport) -> dict[int, float]:
    rows = fit.rows.get(RowKind.ENERGY)
    if rows is None:
        return {}
    errors = UNITS["energy"].factor * (rows.predicted - rows.reference).abs()
    return dict(zip(rows.ids.tolist(), errors.tolist(), strict=True))


def _curves(fit: FitReport) -> list[Curve]:
    found = []
    for kind, info in KINDS.items():
        known = [point for point in fit.solution.curve if math.isfinite(point.rmse[kind])]
        if len(known) > 1 and info.judged:
            sizes = np.array([point.structures for point in known])
            errors = info.unit.factor * np.array([point.rmse[kind] for point in known])
            folds = zip(*(point.folds[kind] for point in known if point.folds), strict=True)
            law = PowerLaw.ahead(sizes, errors, [np.array(each) for each in folds])
            found.append(Curve(info.name, info.unit.text, sizes.tolist(), errors.tolist(), law))
    return found


def _physics(checks: CheckReport) -> Physics:
    panels = [
        Panel(each.title, each.x, each.y, [_trace(name, line) for name, line in each.lines.items()])
        for each in checks.panels()
    ]
    return Physics(_table(checks.tables()[0]), checks.failed, panels)


def _trace(name: str, line: Line) -> Trace:
    known = np.isfinite(line.y)  # JSON has no other numbers
    return Trace(name, line.x[known].tolist(), line.y[known].tolist(), line.colour, line.dashed, line.marked)


def _table(table: TextTable) -> Table:
    return Table(table.title, table.columns, table.rows, table.caption, table.left)

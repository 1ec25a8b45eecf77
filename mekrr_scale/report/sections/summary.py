"""The first lines: errors in short, and advice."""

from __future__ import annotations

from mekrr_scale.report.results import Measured, Quantity, Results, Table
from mekrr_scale.report.sections.base import Lines, Part, Section, span_text


def summary(found: Results) -> Section:
    """What the model is, how good, and what limits it."""
    about = found.about
    parts: list[Part] = [f"{about.landmarks} landmarks on {about.backbone}; {about.kernel}; solver {about.solver}."]
    rows = [_row(each, quantity) for each in found.measured for quantity in each.quantities]
    if rows:
        columns = ("set", "quantity", "unit", "structures", "rows", "MAE", "RMSE", "R²")
        caption = "in brackets: 95 % intervals, by bootstrap over structures"
        parts.append(Table("Errors", columns, rows, caption, (0, 1, 2)))
    if found.advice:
        parts += ["What to do next:", Lines(found.advice)]
    if found.warnings:
        parts += ["Warnings of the fit:", Lines(found.warnings)]
    return Section("summary", "In short", parts)


def _row(each: Measured, quantity: Quantity) -> tuple[str, ...]:
    at = quantity.total
    return (
        each.name, f"{quantity.name}, {quantity.what}", quantity.unit, str(at.structures), str(at.rows),
        span_text(at.mae, at.mae_95), span_text(at.rmse, at.rmse_95),
        "-" if at.r2 is None else span_text(at.r2, at.r2_95, 4),
    )  # fmt: skip

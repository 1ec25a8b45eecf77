"""Errors against the number of structures, and of landmarks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mekrr_scale.figures import power_axes
from mekrr_scale.report.results import Curve, Results, Table
from mekrr_scale.report.sections.base import Drawing, Part, Section, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def learning(found: Results) -> Section | None:
    """Learning curves with their exponents, and what twice the data would give."""
    if not found.curves:
        return None
    rows = []
    for curve in found.curves:
        law = curve.law
        told = ("-", "-", "-") if law is None else (
            f"{law.exponent:.2f}", shown(law.at(2 * max(curve.sizes))), f"{100 * (law.with_twice - 1):.0f} %"
        )  # fmt: skip
        last = curve.errors[max(range(len(curve.sizes)), key=curve.sizes.__getitem__)]
        rows.append((curve.quantity, curve.unit, f"{max(curve.sizes):.0f}", shown(last), *told))
    columns = ("quantity", "unit", "structures", "RMSE", "exponent", "RMSE with twice as many", "change")
    caption = (
        "power law N^-exponent from the last but one point to the last, exponents from 0 to 1, the median of the "
        "folds': take it as a hint"
    )
    parts: list[Part] = [
        "Models of all folds but one, of half as many and so on, at the weights that were chosen and the best of "
        "larger ridges, each on a fold that it did not see; from the sums of the folds, without a further pass.",
        Table("Learning curve", columns, rows, caption, (0, 1)),
    ]
    parts += [
        Drawing(f"learning-{curve.quantity}", f"{curve.quantity}: {len(curve.sizes)} sizes", partial(_drawn, curve))
        for curve in found.curves
    ]
    return Section("learning", "Learning curve", parts)


def _drawn(curve: Curve) -> Axes:
    law = None if curve.law is None else (curve.law.factor, curve.law.exponent)
    return power_axes(curve.sizes, curve.errors, law, f"{curve.quantity} RMSE ({curve.unit.replace('angstrom', 'Å')})")

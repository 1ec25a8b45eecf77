"""Whether intervals hold what they promise."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mekrr_scale.figures import reliability_axes
from mekrr_scale.report.advising import within
from mekrr_scale.report.results import Quantity, Results, Table
from mekrr_scale.report.sections.base import Drawing, Part, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def calibration(found: Results) -> Section | None:
    """Parts of the errors that intervals hold, and errors beside intervals."""
    rows, drawings = [], []
    for number, each in enumerate(found.measured):
        for quantity in (one for one in each.quantities if one.rows.interval):
            inside, wide = within(quantity), within(quantity, quantity.ratio_95 or float("nan"))
            assert inside is not None
            assert wide is not None
            count = str(len(quantity.rows.interval))
            shown = "-" if quantity.ratio_95 is None else f"{100 * wide:.1f} %"
            rows.append((each.name, quantity.name, count, f"{100 * inside:.1f} %", shown))
            drawings.append(
                Drawing(
                    f"calibration-{quantity.name}-{number}", f"{each.name}, {quantity.name}: {count} rows",
                    partial(_drawn, quantity),
                )
            )  # fmt: skip
    if not rows:
        return None
    columns = ("set", "quantity", "rows", "within 68 % intervals", "within 95 % intervals")
    parts: list[Part] = [
        "Part of the errors that lie within the model's intervals. Those of the cross-validation are scaled so that "
        "68 % of them hold: whether larger intervals go with larger errors is what they show; a test tells more.",
        Table("Calibration", columns, rows, "", (0, 1)),
        *drawings,
    ]
    return Section("calibration", "Calibration", parts)


def _drawn(quantity: Quantity) -> Axes:
    at = quantity.rows
    errors = np.array(at.predicted) - np.array(at.reference)
    return reliability_axes(np.array(at.interval), errors, quantity.unit.replace("angstrom", "Å"))

"""The structures with the largest errors."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mekrr_scale.figures import structure_axes
from mekrr_scale.report.results import Picture, Results, Table
from mekrr_scale.report.sections.base import Drawing, Part, Section, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def worst(found: Results) -> Section | None:
    """A table for each set, and pictures where the structures are at hand."""
    parts: list[Part] = []
    for number, each in enumerate(found.measured):
        rows = [(item.name, item.quantity, shown(item.error), item.unit, item.why) for item in each.worst]
        if rows:
            title = f"{each.name}: largest errors"
            caption = "errors are root mean squares over the rows of a structure"
            parts.append(Table(title, ("structure", "label", "error", "unit", "remark"), rows, caption, (0, 1, 3, 4)))
        parts += [
            Drawing(
                f"worst-{number}-{place + 1}", f"{item.name}: {item.quantity} off by {shown(item.error)} {item.unit}",
                partial(_drawn, item.picture),
            )
            for place, item in enumerate(each.worst)
            if item.picture is not None
        ]  # fmt: skip
    return Section("worst", "Worst structures", parts) if parts else None


def _drawn(picture: Picture) -> Axes:
    return structure_axes(
        np.array(picture.numbers), np.array(picture.positions), np.array(picture.cell, dtype=np.float64).reshape(-1, 3)
    )

"""Whether the potential is physical, as far as the checks went that a fit can afford."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mekrr_scale.figures import Line, line_axes
from mekrr_scale.report.results import Panel, Results
from mekrr_scale.report.sections.base import Drawing, Lines, Part, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def physics(found: Results) -> Section | None:
    """What failed, every number beside the bare network's, and curves."""
    if found.physics is None:
        return None
    parts: list[Part] = [
        "The quick ones of the checks that mekrr-scale check runs, on the structure of lowest energy per atom.",
        *([Lines(found.physics.failed)] if found.physics.failed else []),
        found.physics.table,
    ]
    parts += [Drawing(f"check-{n}", p.title, partial(_drawn, p)) for n, p in enumerate(found.physics.panels)]
    return Section("physics", "Is it physical", parts)


def _drawn(panel: Panel) -> Axes:
    lines = {
        each.name: Line(np.array(each.x), np.array(each.y), each.colour, each.dashed, each.marked)
        for each in panel.traces
    }
    return line_axes(lines, panel.x.replace("angstrom", "Å").replace("^3", "³"), panel.y)

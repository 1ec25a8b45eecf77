"""What was fitted."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mekrr_scale.figures import histogram_axes
from mekrr_scale.report.results import Histogram, Results, Table
from mekrr_scale.report.sections.base import Drawing, Lines, Part, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def data(found: Results) -> Section | None:
    """Counts, elements, configuration types, labels used and ignored, histograms."""
    at = found.data
    if at is None:
        return None
    sizes = f"{at.smallest}" if at.smallest == at.largest else f"{at.smallest} to {at.largest}"
    many = "" if at.looked_at >= at.structures else f" Tables and histograms are of {at.looked_at} of them."
    parts: list[Part] = [
        f"{at.structures} structures of {sizes} atoms, {at.atoms} atoms in all, from {', '.join(at.stores)}.{many}"
    ]
    elements = [(name, str(atoms), str(structures)) for name, (atoms, structures) in at.elements.items()]
    parts.append(Table("Elements", ("element", "atoms", "structures with it"), elements, "", (0,)))
    if at.configs:
        rows = [(name, str(count)) for name, count in at.configs.items()]
        parts.append(Table("Configuration types", ("type", "structures"), rows, "", (0,)))
    if at.used:
        parts.append(Table("Labels that were learned from", ("label", "what"), list(at.used.items()), "", (0, 1)))
    if at.ignored:
        parts += ["Not learned from:", Lines(at.ignored)]
    elif at.used:
        parts.append("All labels that are there were learned from.")
    parts += [
        Drawing(f"data-{place + 1}", f"{each.about}: {sum(each.counts)} values", partial(_drawn, each))
        for place, each in enumerate(at.histograms)
    ]
    return Section("data", "Data", parts)


def _drawn(each: Histogram) -> Axes:
    return histogram_axes(np.array(each.edges), np.array(each.counts, dtype=np.float64), each.about)

"""The map of environments."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mekrr_scale.figures import component_labels, error_map_axes, species_map_axes
from mekrr_scale.report.results import Chart, Results
from mekrr_scale.report.sections.base import Drawing, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def coverage(found: Results) -> Section | None:
    """Atoms by element and by error; those of tests stand out."""
    chart = found.chart
    if chart is None:
        return None
    tested = sum(1 for name in chart.test if name)
    counted = f"{len(chart.x) - tested} training atoms" + (f" and {tested} test atoms" if tested else "")
    why = "Test atoms away from all training atoms are environments that the data do not cover." if tested else (
        "A test beside it (mekrr-scale report MODEL --test FRAMES) shows which environments the data do not cover."
    )  # fmt: skip
    text = (
        f"{counted} in the plane of the two largest principal components of the training atoms' features, which hold "
        f"{100 * sum(chart.explained):.0f} % of their variance. {why}"
    )
    drawings = [
        Drawing("map-elements", "By element", partial(_elements, chart)),
        Drawing("map-errors", "By the error of the structure's energy", partial(_errors, chart)),
    ]
    return Section("map", "Map of environments", [text, *drawings])


def _places(chart: Chart) -> np.ndarray:
    return np.column_stack([chart.x, chart.y])


def _elements(chart: Chart) -> Axes:
    return species_map_axes(_places(chart), chart.species, chart.test, component_labels(chart.explained))


def _errors(chart: Chart) -> Axes:
    errors = np.array([np.nan if error is None else error for error in chart.error])
    tested = np.array([bool(name) for name in chart.test])
    return error_map_axes(_places(chart), errors, tested, component_labels(chart.explained), "meV/atom")

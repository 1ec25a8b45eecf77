"""Errors by element, configuration type and store, parity, and errors against forces and grades."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.figures import against_axes, density_axes
from mekrr_scale.report.results import Measured, Quantity, Results, Table
from mekrr_scale.report.sections.base import Drawing, Heading, Lines, Part, Section, span_text
from mekrr_scale.report.statistics import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PARITY = ("energy", "force")


def errors(found: Results) -> Section | None:
    """A table and figures for each set and quantity."""
    parts: list[Part] = []
    for number, each in enumerate(found.measured):
        parts.append(Heading(f"{each.name}, {each.structures} structures"))
        if each.remarks:
            parts.append(Lines(each.remarks))
        for quantity in each.quantities:
            parts += _tables(each, quantity)
            parts += _figures(number, each, quantity)
    return Section("errors", "Errors", parts) if parts else None


def _tables(each: Measured, quantity: Quantity) -> Iterator[Part]:
    forces = quantity.name == "force" and quantity.by_element
    unit = f"{quantity.what}, {quantity.unit}; 95 % intervals by bootstrap over structures"
    if any(score.structures < quantity.total.structures for score in quantity.by_element.values()) or forces:
        of = "structures that hold it" if quantity.name == "energy" else "its atoms"
        yield _scores(f"{each.name}: {quantity.name} by element ({of})", "element", quantity.by_element, unit)
    if quantity.by_store:
        yield _scores(f"{each.name}: {quantity.name} by store", "store", quantity.by_store, unit)
    if len(quantity.by_config) > 1:
        yield _scores(f"{each.name}: {quantity.name} by configuration type", "type", quantity.by_config, unit)


def _scores(title: str, first: str, scores: Mapping[str, Score], caption: str) -> Table:
    columns = (first, "structures", "rows", "MAE", "RMSE", "R²")
    rows = [
        (
            name, str(at.structures), str(at.rows), span_text(at.mae, at.mae_95), span_text(at.rmse, at.rmse_95),
            "-" if at.r2 is None else f"{at.r2:.4f}",
        )
        for name, at in scores.items()
    ]  # fmt: skip
    return Table(title, columns, rows, caption, (0,))


def _figures(number: int, each: Measured, quantity: Quantity) -> Iterator[Drawing]:
    at, unit = quantity.rows, quantity.unit.replace("angstrom", "Å").replace("^3", "³")
    listed = len(at.reference)
    some = "" if listed == quantity.total.rows else f", a random {listed} of {quantity.total.rows} rows"
    about = f"{each.name}, {quantity.name}{some}"
    yield Drawing(f"parity-{quantity.name}-{number}", f"Parity and errors: {about}", partial(_parity, quantity, unit))
    if quantity.name == "force":
        yield Drawing(
            f"force-size-{number}", f"Errors against the size of the force: {about}", partial(_size, quantity, unit)
        )
    if at.grade:
        yield Drawing(
            f"grade-{quantity.name}-{number}",
            f"Errors against the extrapolation grade (above 1: outside of the training data): {about}",
            partial(_grade, quantity, unit),
        )


def _parity(quantity: Quantity, unit: str) -> Axes:
    reference, predicted = np.array(quantity.rows.reference), np.array(quantity.rows.predicted)
    what = quantity.name
    if what == "energy":
        middle = np.median(reference)
        reference, predicted, what = reference - middle, predicted - middle, "energy less references and median"
    return density_axes(reference, predicted, what, unit)[0]


def _size(quantity: Quantity, unit: str) -> Axes:
    at = quantity.rows
    size = np.array(at.size) if at.size else np.abs(np.array(at.reference))
    what = "force on the atom" if at.size else "force along the direction"
    return against_axes(size, _differences(quantity), (f"{what} ({unit})", f"absolute error ({unit})"))


def _grade(quantity: Quantity, unit: str) -> Axes:
    labels = ("largest extrapolation grade of the structure", f"absolute error ({unit})")
    return against_axes(np.array(quantity.rows.grade), _differences(quantity), labels, logarithmic=True)


def _differences(quantity: Quantity) -> Float64[ndarray, " rows"]:
    return np.asarray(np.array(quantity.rows.predicted) - np.array(quantity.rows.reference))

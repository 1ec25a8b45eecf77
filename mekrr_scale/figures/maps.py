"""Atoms as points of a plane, and structures as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from mekrr_scale.figures.style import DOTS, GREY, ORANGE, new_axes, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "^sDvP"
_NUMBERED = 20  # structures that a map has room to number


def species_map_axes(
    places: Float[ndarray, "atoms 2"],
    species: Sequence[str],
    tests: Sequence[str],
    labels: tuple[str, str],
    axes: Axes | None = None,
) -> Axes:
    """Atoms coloured by element; those of tests have markers with a rim.

    Args:
        tests: name of the test that an atom is of; empty: training.
        labels: of both axes.
    """
    import matplotlib.pyplot as plt

    axes = axes or new_axes(5.6, 4.2)[0]
    colours, (x, y) = plt.get_cmap("tab10"), places.T
    elements, named, whose = sorted(set(species)), np.array(species), np.array(tests)
    for number, test in enumerate(["", *sorted(set(tests) - {""})]):
        for place, element in enumerate(elements):
            chosen = (named == element) & (whose == test)
            if not chosen.any():
                continue
            shape: Any = {"s": 12, "alpha": 0.6, "linewidths": 0} if not test else {
                "s": 15, "alpha": 0.9, "linewidths": 0.4, "edgecolors": "black", "marker": _MARKERS[number % 5],
            }  # fmt: skip
            name = f"{element}, {test}" if test else element
            axes.scatter(x[chosen], y[chosen], color=colours(place % 10), label=name, rasterized=True, **shape)
    return _framed(axes, labels)


def error_map_axes(
    places: Float[ndarray, "atoms 2"],
    errors: Float[ndarray, " atoms"],
    tested: ndarray,
    labels: tuple[str, str],
    unit: str,
    axes: Axes | None = None,
) -> Axes:
    """The same coloured by the error of the structure that an atom is of; grey: not known.

    Args:
        tested: whether an atom is of a test.
        unit: of the errors.
    """
    axes = axes or new_axes(5.6, 4.2)[0]
    known, (x, y) = np.isfinite(errors), places.T
    axes.scatter(x[~known], y[~known], s=6, color=GREY, alpha=0.4, linewidths=0, rasterized=True)
    if known.any():
        low, high = np.percentile(errors[known], [5, 95])
        for chosen, size, rim in ((known & ~tested, 12, 0.0), (known & tested, 15, 0.4)):
            points = axes.scatter(
                x[chosen], y[chosen], s=size, c=errors[chosen], cmap="viridis", vmin=low, vmax=max(high, low + 1e-9),
                linewidths=rim, edgecolors="black", rasterized=True,
            )  # fmt: skip
        figure = axes.get_figure()
        assert figure is not None
        figure.colorbar(points, ax=axes, fraction=0.045, label=f"error of its structure ({unit})")
    return _framed(axes, labels)


def kind_map_axes(
    places: Float[ndarray, "atoms 2"],
    kinds: Mapping[str, Bool[ndarray, " atoms"]],
    labels: tuple[str, str],
    axes: Axes | None = None,
) -> Axes:
    """Atoms of up to three kinds, the last on top.

    Args:
        kinds: by name, whose the atoms are.
        labels: of both axes.
    """
    axes = axes or new_axes(5.6, 4.2)[0]
    for (name, mine), colour, size in zip(kinds.items(), (GREY, DOTS, ORANGE), (10, 6, 9), strict=False):
        x, y = places[mine].T
        axes.scatter(x, y, s=size, alpha=0.6, linewidths=0, color=colour, label=name, rasterized=True)
    return _framed(axes, labels)


def choice_map_axes(
    places: Float[ndarray, "structures 2"],
    order: Sequence[int],
    labels: tuple[str, str],
    axes: Axes | None = None,
) -> Axes:
    """Structures as points; those that were chosen stand out, a few with their numbers.

    Args:
        order: places of the chosen ones, the first choice first.
        labels: of both axes.
    """
    axes = axes or new_axes(5.6, 4.2)[0]
    x, y = np.delete(places, list(order), axis=0).T
    axes.scatter(x, y, s=12, alpha=0.7, linewidths=0, color=DOTS, label="not chosen", rasterized=True)
    x, y = places[list(order)].T
    axes.scatter(x, y, s=26, linewidths=0, color=ORANGE, label="chosen, in order")
    for number, place in enumerate(order[:_NUMBERED], 1):
        axes.annotate(str(number), places[place], (4, 3), textcoords="offset points", fontsize=8)
    return _framed(axes, labels)


def component_labels(explained: tuple[float, float]) -> tuple[str, str]:
    """Of the axes of a map.

    Args:
        explained: parts of the variance.
    """
    first, second = (f"component {k + 1} ({100 * part:.0f} %)" for k, part in enumerate(explained))
    return first, second


def _framed(axes: Axes, labels: tuple[str, str]) -> Axes:
    axes.set(xlabel=labels[0], ylabel=labels[1])
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, markerscale=1.4, loc="best")
    tidy(axes)
    return axes


def structure_axes(
    numbers: Int[ndarray, " atoms"],
    positions: Float[ndarray, "atoms 3"],
    cell: Float[ndarray, "vectors 3"],
    axes: Axes | None = None,
) -> Axes:
    """A structure along the direction in which it is thinnest, atoms as discs in Jmol's colours.

    Args:
        positions: angstrom.
        cell: angstrom; its outline is drawn, nothing where it is empty.
    """
    from matplotlib.collections import LineCollection, PatchCollection
    from matplotlib.patches import Circle

    axes = axes or new_axes(2.9, 2.6)[0]
    centre = positions.mean(0)
    _, _, frame = np.linalg.svd(positions - centre, full_matrices=True)
    seen = (positions - centre) @ frame.T
    order = np.argsort(seen[:, 2], kind="stable")
    discs = [Circle((seen[i, 0], seen[i, 1]), 0.75 * covalent_radii[numbers[i]]) for i in order]
    faces = [jmol_colors[numbers[i]] for i in order]
    axes.add_collection(PatchCollection(discs, facecolors=faces, edgecolors="black", linewidths=0.5))
    if len(cell) == 3:
        corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        pairs = [(a, b) for a in range(8) for b in range(a) if np.abs(corners[a] - corners[b]).sum() == 1]
        flat = ((corners @ cell - centre) @ frame.T)[:, :2]
        axes.add_collection(LineCollection([flat[list(pair)] for pair in pairs], colors=GREY, linewidths=0.7))
        axes.update_datalim(flat)
    axes.update_datalim(seen[:, :2] - 1.2)
    axes.update_datalim(seen[:, :2] + 1.2)
    axes.autoscale_view()
    axes.set_aspect("equal")
    axes.set_axis_off()
    return axes

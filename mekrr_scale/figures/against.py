"""Errors against something else: the size of a force, an extrapolation grade, the interval that was foretold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from mekrr_scale.figures.style import DOTS, GREY, ORANGE, new_axes, spaced_ticks, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DOTS = 3000  # that are drawn
_LEAST = 5  # rows of a bin


def against_axes(
    x: Float[ndarray, " rows"],
    errors: Float[ndarray, " rows"],
    labels: tuple[str, str],
    axes: Axes | None = None,
    bins: int = 8,
    logarithmic: bool = False,
) -> Axes:
    """Absolute errors as dots, and their RMSE in bins of equally many rows.

    Args:
        labels: quantity and unit of both axes.
    """
    axes = axes or new_axes(4.6, 3.4)[0]
    size = np.abs(errors)
    step = max(1, len(x) // _DOTS)
    axes.scatter(x[::step], size[::step], s=6, alpha=0.5, linewidths=0, color=DOTS, rasterized=True)
    middles, roots = binned(x, errors, bins)
    axes.plot(middles, roots, color=ORANGE, marker="o", markersize=4, label="RMSE, equally many rows each")
    axes.set(xlabel=labels[0], ylabel=labels[1])
    if logarithmic and (x > 0).any():
        axes.set_xscale("log")
    shown = size[size > 0]
    if len(shown):
        axes.set_yscale("log")
        axes.set_ylim(bottom=float(np.percentile(shown, 2)))
        spaced_ticks(axes.yaxis)
    if axes.get_xscale() == "log":
        spaced_ticks(axes.xaxis)
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return axes


def binned(
    x: Float[ndarray, " rows"], errors: Float[ndarray, " rows"], bins: int
) -> tuple[Float[ndarray, " bins"], Float[ndarray, " bins"]]:
    """Medians of x and roots of the mean squared error, in bins of equally many rows.

    >>> places, errors = binned(np.arange(10.0), np.repeat([1.0, 2.0], 5), 2)
    >>> places.tolist(), errors.tolist()
    ([2.0, 7.0], [1.0, 2.0])
    """
    parts = np.array_split(np.argsort(x, kind="stable"), max(1, min(bins, len(x) // _LEAST)))
    return (
        np.array([np.median(x[part]) for part in parts]),
        np.array([np.sqrt((errors[part] ** 2).mean()) for part in parts]),
    )


def reliability_axes(
    interval: Float[ndarray, " rows"], errors: Float[ndarray, " rows"], unit: str, axes: Axes | None = None
) -> Axes:
    """The interval that holds 68 % of the errors, beside the one that was foretold; on the diagonal both agree."""
    axes = axes or new_axes(4.6, 3.4)[0]
    parts = np.array_split(np.argsort(interval, kind="stable"), max(1, min(8, len(interval) // _LEAST)))
    foretold = np.array([np.median(interval[part]) for part in parts])
    held = np.array([np.percentile(np.abs(errors[part]), 68.27) for part in parts])
    step = max(1, len(interval) // _DOTS)
    shown = np.abs(errors)[::step]
    axes.scatter(interval[::step], shown, s=6, alpha=0.5, linewidths=0, color=DOTS, rasterized=True)
    axes.plot(foretold, held, color=ORANGE, marker="o", markersize=4, label="holds 68 % of the errors")
    span = [float(interval.min()), float(interval.max())]
    axes.plot(span, span, color=GREY, linewidth=0.9, linestyle="--", label="as foretold")
    axes.set(xlabel=f"foretold 68 % interval ({unit})", ylabel=f"absolute error ({unit})")
    if (shown > 0).any() and span[0] > 0:
        axes.set(xscale="log", yscale="log")
        axes.set_ylim(bottom=float(np.percentile(shown[shown > 0], 2)))
        spaced_ticks(axes.yaxis)
        spaced_ticks(axes.xaxis)
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return axes

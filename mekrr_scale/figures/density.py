"""Parity as density, with the distribution of the errors beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from mekrr_scale.figures.style import BLUE, DOTS, GREY, ORANGE, is_wide, new_axes, spaced_ticks, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FEW = 1500  # points that are drawn one by one
_BINS = 90


def density_axes(
    reference: Float[ndarray, " points"], predicted: Float[ndarray, " points"], quantity: str, unit: str
) -> list[Axes]:
    """Predicted against reference, and a histogram of the errors: two panels.

    Args:
        quantity: of both axes.
        unit: of both axes and the errors.
    """
    parity, beside = new_axes(8.4, 3.9, 2)
    low, high = float(min(reference.min(), predicted.min())), float(max(reference.max(), predicted.max()))
    margin = 0.03 * max(high - low, 1e-9)
    span = (low - margin, high + margin)
    if len(reference) <= _FEW:
        parity.scatter(reference, predicted, s=12, alpha=0.7, linewidths=0, color=DOTS)
    else:
        _density(reference, predicted, span, parity)
    parity.plot(span, span, color=ORANGE, linewidth=0.9)
    parity.set(xlim=span, ylim=span, aspect="equal")
    parity.locator_params(nbins=5)
    parity.set_xlabel(f"reference {quantity} ({unit})")
    parity.set_ylabel(f"predicted ({unit})")
    tidy(parity)
    errors_axes(predicted - reference, f"error ({unit})", beside)
    return [parity, beside]


def _density(reference: ndarray, predicted: ndarray, span: tuple[float, float], axes: Axes) -> None:
    """Points by cell, with a logarithmic scale of colours."""
    from matplotlib.colors import LogNorm

    counts, x, y = np.histogram2d(reference, predicted, bins=_BINS, range=(span, span))
    shown = np.ma.masked_less(counts.T, 1)
    mesh = axes.pcolormesh(x, y, shown, norm=LogNorm(1, max(float(counts.max()), 2)), cmap="viridis", rasterized=True)
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(mesh, ax=axes, fraction=0.04, label="rows")


def errors_axes(errors: Float[ndarray, " points"], label: str, axes: Axes | None = None) -> Axes:
    """A histogram of errors, those beyond the 1st and 99th percentiles in its outermost bars; the median is marked.

    Args:
        label: quantity and unit.
    """
    axes = axes or new_axes(4.2, 3.4)[0]
    low, high = np.percentile(errors, [1, 99])
    reach = max(abs(float(low)), abs(float(high)), 1e-12)
    axes.hist(errors.clip(-reach, reach), bins=np.linspace(-reach, reach, 42).tolist(), color=BLUE)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.axvline(float(np.median(errors)), color=ORANGE, linewidth=1.2, linestyle="--", label="median")
    axes.set(xlabel=label, ylabel="rows")
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return axes


def histogram_axes(
    edges: Float[ndarray, " edges"], counts: Float[ndarray, " bins"], label: str, axes: Axes | None = None
) -> Axes:
    """Counts that were made before; logarithmic where they differ by more than a factor of 300.

    Args:
        label: quantity and unit.
    """
    axes = axes or new_axes(4.2, 3.0)[0]
    axes.stairs(counts, edges, fill=True, color=BLUE)
    axes.set(xlabel=label, ylabel="number")
    there = counts[counts > 0]
    if len(there) and there.max() > 300 * there.min():
        axes.set_yscale("log")
    tidy(axes)
    return axes


def spread_axes(
    values: Float[ndarray, " all"], chosen: Float[ndarray, " chosen"], label: str, axes: Axes | None = None
) -> Axes:
    """A histogram of a positive value of all structures, and of those among them that were chosen.

    Logarithmic where some are far beyond the others.

    Args:
        label: quantity and unit.
    """
    from matplotlib.ticker import MaxNLocator

    axes = axes or new_axes(4.4, 3.6)[0]
    far = is_wide(values)
    edges = np.geomspace(values.min(), values.max(), 31) if far else np.histogram_bin_edges(values, 30)
    axes.hist(values, bins=edges.tolist(), color=DOTS, label="all")
    axes.hist(chosen, bins=edges.tolist(), color=ORANGE, label="chosen")
    if far:
        axes.set_xscale("log")
        spaced_ticks(axes.xaxis)
    axes.set(xlabel=label, ylabel="structures")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return axes

"""Curves with their spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def values_of(runs: Sequence[Sequence[Mapping[str, float]]], key: str) -> np.ndarray:
    """[points, runs]."""
    return np.array([[run[key] for run in each] for each in runs])


def band(axis: Axes, x: Sequence[float], values: np.ndarray, color: str, marker: str = "o", **line: object) -> None:
    """Means of the runs [points, runs], shaded from the lowest to the highest."""
    axis.fill_between(x, values.min(1), values.max(1), color=color, alpha=0.15)
    axis.plot(x, values.mean(1), color=color, marker=marker, ms=3, **line)  # type: ignore[arg-type]


def logarithmic(axis: Axes, x: str, y: str, numbers: str = "y") -> None:
    """Both axes, with their labels; numbers stand at 1, 2 and 5, upwards or along both."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    axis.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    for ruler in (getattr(axis, f"{name}axis") for name in numbers):
        ruler.set_minor_locator(LogLocator(subs=(2, 5)))
        ruler.set_major_formatter(StrMethodFormatter("{x:g}"))
        ruler.set_minor_formatter(StrMethodFormatter("{x:g}"))
        ruler.set_tick_params(which="both", size=3, pad=3)
    axis.spines[["top", "right"]].set_visible(False)


def numbers_at(axis: Axes, values: Sequence[float]) -> None:
    """Along x, and none elsewhere."""
    from matplotlib.ticker import NullLocator

    axis.set_xticks(values, [f"{value:g}" for value in values])
    axis.xaxis.set_minor_locator(NullLocator())


def legend_below(figure: Figure, axis: Axes, columns: int) -> None:
    """Of one axis, for all."""
    handles, labels = axis.get_legend_handles_labels()
    lines = -(-len(labels) // columns)
    figure.legend(handles, labels, loc="lower center", ncol=columns, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, (0.1 + 0.18 * lines) / figure.get_figheight(), 1, 1))

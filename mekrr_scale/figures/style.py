"""Colours and axes that all figures share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

BLUE, ORANGE, GREY = "#2b6cb0", "#c05621", "#718096"


def new_axes(width: float, height: float, columns: int = 1) -> list[Axes]:
    """Axes side by side in a figure of their own (inches)."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, columns, figsize=(width, height), squeeze=False, layout="tight")
    return list(axes[0])


def tidy(axes: Axes) -> None:
    """No lines at the top and on the right."""
    axes.spines[["top", "right"]].set_visible(False)


def plain_ticks(axis: Axis) -> None:
    """Numbers such as 150 on a logarithmic axis, whose range may be less than a decade."""
    from matplotlib.ticker import LogFormatter

    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter())

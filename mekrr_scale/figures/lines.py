"""Plain lines, and panels in rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from numpy import ndarray

from mekrr_scale.figures.style import BLUE, new_axes, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Line:
    """Points that belong together."""

    x: Float[ndarray, " points"]
    y: Float[ndarray, " points"]
    colour: str = BLUE
    dashed: bool = False
    marked: bool = False  # points rather than a line


def line_axes(lines: Mapping[str, Line], x: str, y: str, axes: Axes | None = None) -> Axes:
    """Lines by name; the last lies on top.

    Args:
        x, y: quantity and unit.
    """
    axes = axes or new_axes(4.6, 3.6)[0]
    for name, line in lines.items():
        shape = {"marker": "o", "markersize": 3, "linestyle": ""} if line.marked else {
            "linestyle": "--" if line.dashed else "-", "linewidth": 1.0 if line.dashed else 1.4,
        }  # fmt: skip
        axes.plot(line.x, line.y, color=line.colour, label=name, **shape)
    axes.set(xlabel=x, ylabel=y)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=7)
    tidy(axes)
    return axes


def grid_axes(panels: int, columns: int, width: float = 4.2, height: float = 3.2) -> list[Axes]:
    """Panels in rows of a figure of their own (inches each)."""
    import matplotlib.pyplot as plt

    columns = min(panels, columns)
    rows = -(-panels // columns)
    _, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="tight")
    flat = list(axes.flat)
    for empty in flat[panels:]:
        empty.remove()
    return flat[:panels]

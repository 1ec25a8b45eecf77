"""A matrix of errors as colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from mekrr_scale.figures.style import new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def heat_axes(
    values: Float[ndarray, "rows columns"],
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    axes: Axes | None = None,
) -> Axes:
    """Positive values by their logarithm, each written into its cell; NaN is an empty one."""
    axes = axes or new_axes(1.6 + 1.1 * len(columns), 1.4 + 0.7 * len(rows))[0]
    logarithms = np.log10(np.maximum(values, 1e-3))
    axes.imshow(logarithms, cmap="Blues", aspect="auto")
    middle = np.nanmean(logarithms)
    for (i, j), value in np.ndenumerate(values):
        colour = "white" if np.log10(max(value, 1e-3)) > middle else "black"
        axes.text(j, i, "-" if np.isnan(value) else f"{value:.3g}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(columns)), list(columns), rotation=20, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axes.set_title(label, fontsize=9)
    return axes

"""Predicted against reference values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from mekrr_scale.figures.style import BLUE, new_axes, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Cloud:
    """Points of one colour."""

    reference: Float[ndarray, " points"]
    predicted: Float[ndarray, " points"]
    label: str
    colour: str = BLUE


def parity_axes(clouds: Sequence[Cloud], quantity: str, axes: Axes | None = None, shift: float | None = None) -> Axes:
    """Clouds around the diagonal; the first one lies at the bottom.

    Args:
        quantity: name and unit of both axes.
        axes: to draw on; default: those of a new figure.
        shift: that predictions share; a dashed line beside the diagonal.
    """
    axes = axes or new_axes(4.6, 4.4)[0]
    for cloud in clouds:
        size = 14 if len(cloud.reference) < 500 else 4
        axes.scatter(
            cloud.reference, cloud.predicted, s=size, alpha=0.6, linewidths=0, color=cloud.colour, label=cloud.label,
            rasterized=True,
        )  # fmt: skip
    low = min(axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], color="black", linewidth=0.8, zorder=0)
    if shift is not None:
        axes.plot([low, high], [low + shift, high + shift], color="black", linewidth=0.8, linestyle="--", zorder=0)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.locator_params(nbins=6)  # numbers of five characters stay apart
    axes.set_xlabel(f"reference {quantity}")
    axes.set_ylabel(f"predicted {quantity}")
    if clouds:
        axes.legend(frameon=False, loc="upper left", fontsize=8)
    tidy(axes)
    return axes


def centred(clouds: Sequence[Cloud]) -> list[Cloud]:
    """The same around the median of all reference values."""
    if not clouds:
        return []
    centre = float(np.median(np.concatenate([cloud.reference for cloud in clouds])))
    return [replace(cloud, reference=cloud.reference - centre, predicted=cloud.predicted - centre) for cloud in clouds]

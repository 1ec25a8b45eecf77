"""What differs from element to element, as bars and boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from mekrr_scale.figures.style import BLUE, ORANGE, new_axes, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def errors_by_element(rows: Mapping[str, tuple[int, float, float]], label: str, axes: Axes | None = None) -> Axes:
    """Two bars for each element.

    Args:
        rows: by symbol, the number of atoms, their MAE and RMSE.
        label: quantity and unit of the errors.
    """
    named = _named({symbol: count for symbol, (count, _, _) in rows.items()})
    return error_bars(
        {name: (mae, rmse) for name, (_, mae, rmse) in zip(named, rows.values(), strict=True)}, label, axes
    )


def error_bars(rows: Mapping[str, tuple[float, float]], label: str, axes: Axes | None = None) -> Axes:
    """Two bars, MAE and RMSE, for each name."""
    axes = axes or new_axes(1.6 + 0.9 * len(rows), 3.6)[0]
    place = np.arange(len(rows))
    axes.bar(place - 0.2, [mae for mae, _ in rows.values()], 0.4, label="MAE", color=BLUE)
    axes.bar(place + 0.2, [rmse for _, rmse in rows.values()], 0.4, label="RMSE", color=ORANGE)
    axes.set_xticks(place, list(rows))
    axes.set_ylabel(label)
    axes.legend(frameon=False)
    tidy(axes)
    return axes


def counts_by_element(counts: Mapping[str, int], axes: Axes | None = None) -> Axes:
    """A bar for the atoms of each element."""
    axes = axes or new_axes(1.6 + 0.7 * len(counts), 3.2)[0]
    axes.bar(np.arange(len(counts)), list(counts.values()), 0.6, color=BLUE)
    axes.set_xticks(np.arange(len(counts)), list(counts))
    axes.set_ylabel("atoms")
    tidy(axes)
    return axes


def boxes_by_element(values: Mapping[str, ndarray], label: str, axes: Axes | None = None) -> Axes:
    """A box for each element: median, quartiles and, for few atoms, outliers.

    Args:
        values: by symbol, one for each atom.
        label: quantity and unit.
    """
    axes = axes or new_axes(1.6 + 0.8 * len(values), 3.8)[0]
    few = sum(map(len, values.values())) < 5000
    axes.boxplot(list(values.values()), showfliers=few, widths=0.6)
    axes.set_xticks(np.arange(len(values)) + 1, _named({symbol: len(found) for symbol, found in values.items()}))
    axes.set_ylabel(label)
    tidy(axes)
    return axes


def _named(counts: Mapping[str, int]) -> Sequence[str]:
    return [f"{symbol}\n{count} atoms" for symbol, count in counts.items()]

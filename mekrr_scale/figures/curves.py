"""What changes along a training, with the size of a data set, or along a choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from numpy import ndarray

from mekrr_scale.figures.style import BLUE, GREY, ORANGE, is_wide, new_axes, spaced_ticks, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class TrainingCurve:
    """A training, validation by validation."""

    steps: Sequence[int]
    training: Sequence[float]  # mean loss since the validation before; the first is none
    validation: Sequence[float]  # loss
    rate: Sequence[float]  # of the fastest block
    errors: Mapping[str, Sequence[float]]  # by quantity and unit
    best: int  # step of the weights that were kept


def training_axes(curve: TrainingCurve, axes: Sequence[Axes] | None = None) -> list[Axes]:
    """Losses and rate, and a panel for each of the errors."""
    panels = 1 + len(curve.errors)
    found = list(axes or new_axes(4.4 * panels, 3.8, panels))
    _losses(curve, found[0])
    for panel, (label, values) in zip(found[1:], curve.errors.items(), strict=True):
        panel.plot(curve.steps, values, color=BLUE)
        panel.set_ylabel(label)
    for panel in found:
        panel.set_yscale("log")
        spaced_ticks(panel.yaxis)
        panel.set_xlabel("step")
        panel.axvline(curve.best, color="black", linewidth=0.8, linestyle="--")
        tidy(panel)
    return found


def _losses(curve: TrainingCurve, axes: Axes) -> None:
    axes.plot(curve.steps[1:], curve.training[1:], color=GREY, label="training")
    axes.plot(curve.steps, curve.validation, color=BLUE, label="validation (averaged weights)")
    axes.set_ylabel("loss")
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    rate = axes.twinx()
    rate.plot(curve.steps, curve.rate, color=ORANGE, linewidth=0.8, linestyle=":")
    rate.set_ylabel("learning rate", color=ORANGE)
    rate.spines["top"].set_visible(False)


def band_axes(
    curves: Mapping[str, Mapping[int, tuple[float, float, float]]], label: str, axes: Axes | None = None
) -> Axes:
    """A line for each name, in a band.

    Args:
        curves: by name and number of structures, the mean, lowest and highest value.
        label: quantity and unit.
    """
    import matplotlib.pyplot as plt

    axes = axes or new_axes(5.2, 4.2)[0]
    colours = plt.get_cmap("tab10")
    for place, (name, points) in enumerate(curves.items()):
        sizes = sorted(points)
        mean, low, high = ([points[size][i] for size in sizes] for i in range(3))
        axes.plot(sizes, mean, marker="o", markersize=3, color=colours(place % 10), label=name)
        axes.fill_between(sizes, low, high, color=colours(place % 10), alpha=0.15, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="training structures", ylabel=label)
    spaced_ticks(axes.yaxis)
    every = sorted({size for points in curves.values() for size in points})
    axes.set_xticks(every, [str(size) for size in every])
    axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    tidy(axes)
    return axes


def projection_axes(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    finals: Mapping[str, tuple[int, float]],
    winner: str,
    last: tuple[int, float],
    label: str,
    axes: Axes | None = None,
) -> Axes:
    """Errors of candidates on growing subsets, and in full; the winner in colour, and where it ended.

    Args:
        curves: by name, numbers of structures and errors.
        finals: the same of those that were tried in full, shown as open markers.
        last: number of structures and error of the model.
        label: quantity and unit.
    """
    axes = axes or new_axes(6.4, 4.2)[0]
    for place, (name, points) in enumerate(sorted(curves.items(), key=lambda item: item[0] == winner)):
        leads = name == winner
        colour, alpha, marker = BLUE if leads else GREY, 1.0 if leads else 0.75, "os^Dv<>P"[place % 8]
        axes.plot(
            *zip(*sorted(points), strict=True),
            marker=marker,
            markersize=4,
            color=colour,
            alpha=alpha,
            linewidth=1.6 if leads else 0.9,
            label=name,
        )
        if name in finals:
            axes.plot(*finals[name], marker=marker, markerfacecolor="white", color=colour, alpha=alpha, linestyle="")
    if finals:
        axes.plot([], [], marker="o", color=GREY, markerfacecolor="white", linestyle="", label="in full")
    axes.plot(*last, marker="*", markersize=12, color=ORANGE, linestyle="", label="the model")
    axes.set(xscale="log", yscale="log", xlabel="training structures", ylabel=label)
    spaced_ticks(axes.yaxis)
    sizes = sorted({last[0], *(size for points in (*curves.values(), finals.values()) for size, _ in points)})
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return axes


def choice_axes(
    before: Float[ndarray, " chosen"], remaining: Float[ndarray, " chosen"], label: str, axes: Axes | None = None
) -> Axes:
    """Of structures in the order of their choice, a value before anything was chosen and when their turn came."""
    axes = axes or new_axes(4.8, 3.6)[0]
    order = range(1, len(before) + 1)
    axes.plot(order, before, color=GREY, marker="o", markersize=3, linestyle="", label="before the first choice")
    axes.plot(order, remaining, color=BLUE, marker="o", markersize=3, label="when its turn came")
    axes.set(xlabel="structures chosen", ylabel=label)
    if is_wide(remaining):
        axes.set_yscale("log")
        spaced_ticks(axes.yaxis)
    else:
        axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return axes


def power_axes(
    sizes: Sequence[float],
    errors: Sequence[float],
    law: tuple[float, float] | None,
    label: str,
    axes: Axes | None = None,
) -> Axes:
    """Errors against the number of structures, the power law through them, and where it would be with twice as many.

    Args:
        law: factor and exponent of factor * size^-exponent.
        label: quantity and unit.
    """
    axes = axes or new_axes(4.6, 3.4)[0]
    axes.plot(sizes, errors, marker="o", markersize=4, color=BLUE, linestyle="", label="cross-validated")
    shown = sorted(sizes)
    if law is not None:
        factor, exponent = law
        ends = [shown[0], 2 * shown[-1]]
        values = [factor * size**-exponent for size in ends]
        told = f"~ N^-{exponent:.2f}" if exponent >= 0.005 else "no less with more data"
        axes.plot(ends, values, color=GREY, linewidth=1.0, linestyle="--", label=told)
        axes.plot(ends[1:], values[1:], marker="o", markersize=6, markerfacecolor="none", color=ORANGE, linestyle="",
                  label="twice the data")  # fmt: skip
        shown.append(ends[1])
    axes.set(xscale="log", yscale="log", xlabel="training structures", ylabel=label)
    spaced_ticks(axes.yaxis)
    axes.set_xticks(shown, [f"{size:.0f}" for size in shown])
    axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return axes

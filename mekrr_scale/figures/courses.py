"""Quantities along a run, a panel for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mekrr_scale.figures.lines import Line, grid_axes, line_axes
from mekrr_scale.figures.style import GREY, spaced_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = 9  # lines that a legend has room for


@dataclass(frozen=True)
class Track:
    """A quantity along a run.

    Args:
        label: quantity and unit.
        lines: by name.
        level: a value to compare with, a dashed line; None: none.
        level_name: what it is.
        title: of the panel.
        logarithmic: whether the axis is.
    """

    label: str
    lines: Mapping[str, Line]
    level: float | None = None
    level_name: str = ""
    title: str = ""
    logarithmic: bool = False


def course_axes(tracks: Sequence[Track], x: str) -> list[Axes]:
    """A panel for each track, in two rows where there are more than two.

    Args:
        x: quantity and unit that they run along.
    """
    axes = grid_axes(len(tracks), max(2, -(-len(tracks) // 2)), 4.6, 2.9)
    for track, panel in zip(tracks, axes, strict=True):
        _draw(track, x, panel)
    return axes


def _draw(track: Track, x: str, axes: Axes) -> None:
    line_axes(track.lines, x, track.label, axes)
    if track.level is not None:
        axes.axhline(track.level, color=GREY, linewidth=1.2, linestyle="--", label=track.level_name)
    if track.logarithmic:
        axes.set_yscale("log")
        spaced_ticks(axes.yaxis)
    else:
        axes.ticklabel_format(axis="y", useOffset=False)
    if track.title:
        axes.set_title(track.title, fontsize=9)
    handles, names = axes.get_legend_handles_labels()
    if len(names) > _NAMED:  # the level alone
        handles, names = handles[len(track.lines) :], names[len(track.lines) :]
    if len(axes.get_lines()) > 1:
        axes.legend(handles, names, fontsize=8, edgecolor="none", framealpha=0.85)  # the level may lie behind it

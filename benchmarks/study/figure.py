"""The study in one figure: what each setting changes, and how far cross-validation tells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean

from benchmarks.study.ranking import Group
from mekrr_scale.figures import BLUE, GREY, ORANGE

_NAMED = 3  # largest deviations that are written beside their points


def draw(found: Sequence[Group], path: Path) -> None:
    """Held-out errors of the settings against the base's, and the same against cross-validation's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    names = sorted({name for group in found for name in group.lines}, key=lambda name: _mean(found, name))
    height = max(4.0, 0.22 * len(names))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, height), layout="constrained")
    for place, name in enumerate(names):
        values = [group.relative(name, "test") for group in found if name in group.lines]
        left.plot(values, [place] * len(values), ".", color=GREY, zorder=1)
        left.plot(geometric_mean(values), place, "o", color=BLUE, zorder=2)
    left.axvline(1, color=ORANGE, linewidth=1)
    left.set_yticks(range(len(names)), names, fontsize=7)
    left.invert_yaxis()
    left.set_xscale("log")
    left.set_xlabel("held-out error against the base's (energy and forces; a point a set, their mean)")
    for group in found:
        pairs = {name: (group.relative(name, "cv"), group.relative(name, "test")) for name in group.lines}
        right.plot(*zip(*pairs.values(), strict=True), ".", label=f"{group.name}, {group.size} frames")
        _name_outliers(right, group, pairs)
    ends = [group.relative(name, side) for group in found for name in group.lines for side in ("cv", "test")]
    right.plot([min(ends), max(ends)], [min(ends), max(ends)], color=GREY, linewidth=1)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("cross-validated error against the base's")
    right.set_ylabel("held-out error against the base's")
    right.legend(fontsize=7)
    for axis in (left.xaxis, right.xaxis, right.yaxis):
        axis.set_major_formatter(ticker.FormatStrFormatter("%.2g"))
        axis.set_minor_formatter(ticker.FormatStrFormatter("%.2g"))
        axis.set_tick_params(which="both", labelsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


def _mean(found: Sequence[Group], name: str) -> float:
    return geometric_mean([group.relative(name, "test") for group in found if name in group.lines])


def _name_outliers(axes, group: Group, pairs: dict[str, tuple[float, float]]) -> None:  # type: ignore[no-untyped-def]
    flattered = sorted(group.misled().items(), key=lambda item: -item[1])
    for name, ratio in flattered[:_NAMED]:
        if ratio > 1.1:
            axes.annotate(name, pairs[name], fontsize=6)

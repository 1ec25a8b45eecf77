"""Error against CPU time: a panel for each set and number of frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.against_finetuning.tables import FAMILIES, by_panel, chosen, family
from benchmarks.records import Record

_COLOURS = {"kernel": "C0", "all learns": "C1", "frozen": "C8", "on tuned": "C4", "franken": "C7"}


def draw(records: Sequence[Record], path: Path) -> None:
    """Every point, those of fine-tuning joined in the order of their time, and what each method takes in a ring."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = by_panel(records)
    sets, counts = (sorted({name[i] for name in panels}) for i in (0, 1))
    size = (3.2 * len(counts), 2.8 * len(sets) + 0.5)
    figure, grid = pyplot.subplots(len(sets), len(counts), figsize=size, squeeze=False, layout="constrained")
    for i, name in enumerate(sets):
        for j, count in enumerate(counts):
            axes, panel = grid[i][j], panels.get((name, count), [])
            _panel(axes, panel)
            axes.set_title(f"{name}, {count} frames", fontsize=9)
            if not panel:
                axes.set_axis_off()
        grid[i][0].set_ylabel("force MAE, meV/angstrom")
    for axes in grid[-1]:
        axes.set_xlabel("CPU seconds")
    handles = [pyplot.Line2D([], [], color=_COLOURS[one], marker="o", label=shown) for one, shown in FAMILIES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


def _panel(axes, panel: Sequence[Record]) -> None:  # type: ignore[no-untyped-def]
    for one in FAMILIES:
        points = sorted((r["cpu_seconds"], r["errors"]["force_mae"]) for r in panel if family(r) == one)
        if not points:
            continue
        line = "-" if one == "all learns" else ""
        axes.plot(*zip(*points, strict=True), "o" + line, color=_COLOURS[one], markersize=4)
        taken = chosen(panel, one)
        assert taken is not None
        ring = {"marker": "o", "facecolors": "none", "edgecolors": _COLOURS[one], "s": 80}
        axes.scatter(taken["cpu_seconds"], taken["errors"]["force_mae"], **ring)
    axes.set_xscale("log")
    axes.set_yscale("log")

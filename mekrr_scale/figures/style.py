"""Colours and axes that all figures share."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2b6cb0", "#c05621", "#718096"
SERIES = (BLUE, ORANGE, "#2f855a", "#b83280", "#6b46c1", "#b7791f", "#0987a0", "#c53030")  # of lines side by side
DOTS = "#3d8bd4"  # single points, on white and on black
_INK = "#010203"  # becomes the colour of the text around an inline figure
_LINED = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")


def new_axes(width: float, height: float, columns: int = 1) -> list[Axes]:
    """Axes side by side in a figure of their own (inches)."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, columns, figsize=(width, height), squeeze=False, layout="tight")
    return list(axes[0])


def tidy(axes: Axes) -> None:
    """No lines at the top and on the right."""
    axes.spines[["top", "right"]].set_visible(False)


def spaced_ticks(axis: Axis) -> None:
    """A few numbers on a logarithmic axis on which everything has been drawn, whatever its range."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = sorted(float(end) for end in axis.get_view_interval())
    ratio = high / low
    dense = (1.0, 2.0, 5.0) if ratio < 100 else (1.0,)
    axis.set_major_locator(MaxNLocator(4) if ratio < 8 else LogLocator(subs=dense))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def is_wide(values: Float[ndarray, " values"]) -> bool:
    """Whether values need a logarithmic axis, and can have one.

    >>> is_wide(np.array([1.0, 1.0, 30.0])), is_wide(np.array([0.0, 1.0, 30.0])), is_wide(np.array([1.0, 2.0, 3.0]))
    (True, False, False)
    """
    return bool(values.min() > 0 and values.max() > 10 * np.median(values))


@contextmanager
def drawn_plainly(name: str) -> Iterator[None]:
    """Within, figures are drawn for a page: without a background, text as text, in the page's colour.

    Args:
        name: of the figure; what it defines inside has names of its own, whatever else is on the page.
    """
    import matplotlib as mpl

    style: Any = {**dict.fromkeys(_LINED, _INK), "svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9.5}
    with mpl.rc_context({**style, "axes.facecolor": "none", "figure.facecolor": "none"}):
        yield


def inline_svg(figure: Figure) -> str:
    """A figure as an element of a page, without anything that is loaded from elsewhere."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, dpi=110, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'(<svg[^>]*?) width="([\d.]+)pt" height="[\d.]+pt"', r'\1 style="width:\2pt"', text, count=1)
    return text.replace(_INK, "currentColor").strip()

"""What sections are made of: text, lists, tables and figures, which the page sets and escapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from mekrr_scale.report.results import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Drawing:
    """A figure, drawn when it is asked for."""

    name: str  # of its file
    caption: str
    draw: Callable[[], Axes]


@dataclass(frozen=True)
class Lines:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Heading:
    """A title within a section."""

    text: str


Part: TypeAlias = str | Heading | Lines | Table | Drawing


@dataclass(frozen=True)
class Section:
    """A part of the page under a title."""

    anchor: str
    title: str
    parts: Sequence[Part]


def span_text(value: float, span: tuple[float, float] | None, digits: int = 3) -> str:
    """A number with its 95 % interval.

    >>> span_text(1.234, (1.1, 1.4))
    '1.23 (1.10 to 1.40)'
    """
    if span is None:
        return shown(value, digits)
    low, high = (shown(each, digits) for each in span)
    return f"{shown(value, digits)} ({low} to {high})"


def shown(value: float, digits: int = 3) -> str:
    """A number with so many digits, never as a power of ten where it is of a size that one reads.

    >>> shown(123.4), shown(1.2), shown(0.00123)
    ('123', '1.20', '0.00123')
    """
    text = f"{value:#.{digits}g}"
    return text.removesuffix(".") if "e" not in text else f"{value:.0f}"

"""What commands print: results, tables, remarks, warnings and progress, as loud as the user wants them."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.text import Text

from mekrr_scale.progress import LOGGER, Bar, Logged, Progress, error_console

if TYPE_CHECKING:
    from rich.table import Table

    from mekrr_scale.distributed import Group

# a log file has no width of its own; brackets in names are no markup
out = Console(width=None if sys.stdout.isatty() else 110, markup=False)
errors = error_console()

_TELL_SECONDS = 0.5
_PACKAGE = Path(__file__).parent.parent


def say(text: str) -> None:
    """What a command was asked for, in a line of its own."""
    out.print(text, highlight=False, soft_wrap=True)


def show(more: Table | str) -> None:
    """What belongs to it: a table, or further lines; nothing with ``--quiet``."""
    if talkative():
        out.print(more, highlight=False)


def warn(text: str) -> None:
    """A line on standard error."""
    LOGGER.warning("%s", text)


def draw(path: Path | None, plot: Callable[[Path], None]) -> None:
    """A figure, where one is asked for; the results are there: one that cannot be drawn is no reason to fail."""
    if path is None:
        return
    try:
        plot(path)
    except Exception as error:
        warn(f"the figure {path} could not be drawn: {type(error).__name__}: {error}; the results are whole")


def fail(text: str, place: str = "") -> None:
    """The line that a command ends with."""
    errors.print(Text.assemble(("error", "bold red"), f"{place}: {one_line(text)}"), highlight=False, soft_wrap=True)


def one_line(text: str) -> str:
    """A text without line breaks and without what moves a terminal's cursor."""
    joined = " ".join(text.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in joined)


def talkative() -> bool:
    """Whether more than results and errors is wanted."""
    return LOGGER.isEnabledFor(logging.INFO)


@contextmanager
def speaking(level: int) -> Iterator[None]:
    """The package's remarks and warnings on standard error, from a level on."""
    handler, before = _Lines(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _shown
            yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)


@contextmanager
def progress_bar(unit: str = "structures", shown: bool = True) -> Iterator[Progress]:
    """A bar for steps; stages and remarks go to the logger, too."""
    if not (shown and talkative()):
        yield Logged()
        return
    with Bar(unit) as bar:
        yield Logged(bar)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            errors.print(Text.assemble(("warning:", "yellow"), f" {text}"), highlight=False, soft_wrap=True)
        else:
            errors.print(text, highlight=False, markup=False)


def _shown(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """The package's own warnings as lines, those of others as Python shows them."""
    if file is None and Path(filename).is_relative_to(_PACKAGE):
        warn(str(message))
    else:
        (file or sys.stderr).write(warnings.formatwarning(message, category, filename, lineno, line))


class JobBar:
    """The progress of all ranks, drawn by the first; the others tell it what they have done."""

    def __init__(self, bar: Progress, group: Group) -> None:
        self.bar, self.group = bar, group
        self._stage, self._waiting, self._shown, self._told = 0, 0, 0, time.monotonic()

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        if self._waiting:
            self._tell()
        self._stage, self._waiting, self._shown = self._stage + 1, 0, 0
        if self.group.rank == 0:
            self.bar.stage(name, total, unit)

    def advance(self, steps: int = 1) -> None:
        self._waiting += steps
        if time.monotonic() - self._told >= _TELL_SECONDS:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        done = self.group.count(f"progress{self._stage}", self._waiting)
        self._waiting = 0
        if self.group.rank == 0:
            self.bar.advance(done - self._shown)
            self._shown = done

    def note(self, text: str) -> None:
        if self.group.rank == 0:
            self.bar.note(text)

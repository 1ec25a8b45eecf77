"""How long work says where it is: a protocol that the pipeline calls, silence, and a bar."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rich.console import Console
    from tqdm import tqdm

LOGGER = logging.getLogger("mekrr_scale")  # remarks for those who import the package

_LINE_SECONDS = 10.0


@runtime_checkable
class Progress(Protocol):
    """Told about stages, steps and remarks."""

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        """A new stage begins; ``total`` steps if that is known, of a unit of its own if that is given."""

    def advance(self, steps: int = 1) -> None:
        """So many steps of the stage are done."""

    def note(self, text: str) -> None:
        """Something worth telling."""


class Silent:
    """Says nothing."""

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        pass

    def advance(self, steps: int = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass


@cache
def error_console() -> Console:
    """Standard error, drawn by one console alone, or messages would tear a bar apart."""
    from rich.console import Console

    return Console(stderr=True, width=None if sys.stderr.isatty() else 110)  # a log file has no width of its own


class Bar:
    """A progress bar with rate and time left; where there is no terminal, now and then a line of JSON."""

    def __init__(self, unit: str = "structures", shown: bool = True) -> None:
        from rich import progress

        self.unit = unit
        self.shown = shown
        self.console = error_console()
        self._live = shown and self.console.is_terminal
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}", style="bold", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=self.console,
            transient=False,
        )
        self._task: progress.TaskID | None = None
        self._name, self._done, self._unit = "", 0, unit
        self._total: int | None = None
        self._start = self._printed = time.monotonic()

    def __enter__(self) -> Bar:
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._progress.stop()
        elif self.shown and self._name and kind is None:
            self._line()

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        if not self._live and self._done:
            self._line()
        self._name, self._done, self._total = name, 0, total
        self._unit = unit or self.unit
        self._start = self._printed = time.monotonic()
        if self._live:
            self._task = self._progress.add_task(name, total=total, rate="")

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        now = time.monotonic()
        if self._live and self._task is not None:
            self._progress.update(self._task, advance=steps, rate=self._rate(now))
        elif now - self._printed > _LINE_SECONDS:
            self._printed = now
            self._line()

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def _rate(self, now: float) -> str:
        return f"{self._done / max(now - self._start, 1e-9):.1f} {self._unit}/s"

    def _line(self) -> None:
        now = time.monotonic()
        seconds = max(now - self._start, 1e-9)
        line: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "stage": self._name,
            "done": self._done,
            "total": self._total,
            "unit": self._unit,
            "per_second": round(self._done / seconds, 1),
        }
        if self._total and self._done:
            line["seconds_left"] = round(seconds * max(self._total - self._done, 0) / self._done)
        sys.stderr.write(f"{json.dumps(line)}\n")
        sys.stderr.flush()


class NotebookBar:
    """A progress bar of text, which a notebook shows without widgets."""

    def __init__(self, unit: str = "structures") -> None:
        self.unit = unit
        self._bar: tqdm[None] | None = None

    def __enter__(self) -> NotebookBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        from tqdm import tqdm

        self._close()
        self._bar = tqdm(desc=name, total=total, unit=f" {unit or self.unit}", mininterval=0.5, dynamic_ncols=True)

    def advance(self, steps: int = 1) -> None:
        if self._bar is not None:
            self._bar.update(steps)

    def note(self, text: str) -> None:
        LOGGER.info(text)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Logged:
    """Stages and remarks to the logger ``mekrr_scale``, steps to a bar where there is one."""

    def __init__(self, bar: Progress | None = None) -> None:
        self.bar = bar or Silent()

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        LOGGER.debug("%s%s", name, "" if total is None else f": {total} {unit}".rstrip())
        self.bar.stage(name, total, unit)

    def advance(self, steps: int = 1) -> None:
        self.bar.advance(steps)

    def note(self, text: str) -> None:
        LOGGER.info(text)


@contextmanager
def shown_progress(given: Progress | None, unit: str = "structures") -> Iterator[Progress]:
    """The progress that a caller gives; without one a bar in terminals and notebooks, and remarks to the logger.

    ``logging.getLogger("mekrr_scale").setLevel("INFO")`` (with a handler) shows the remarks.
    """
    if given is not None:
        yield given
    elif in_notebook():
        with NotebookBar(unit) as bar:
            yield Logged(bar)
    elif sys.stderr.isatty():
        with Bar(unit) as line:
            yield Logged(line)
    else:
        yield Logged()


def in_notebook() -> bool:
    """Whether a notebook runs this."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"

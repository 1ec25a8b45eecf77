"""Progress bars and messages."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_WIDTH = None if sys.stdout.isatty() else 110  # a log file has no width of its own

out = Console(width=_WIDTH)
errors = Console(stderr=True, width=None if sys.stderr.isatty() else 110)

_LINE_SECONDS = 10.0

EXIT_CODES = (
    "Exit codes: 0 done, 1 refused by the system, 2 options, 3 structures, 4 store, 5 backbone, 6 model, 7 solver, "
    "8 simulation stopped, 130 interrupted (the same command goes on)."
)


class Bar:
    """A progress bar with rate and time left; lines now and then where there is no terminal."""

    def __init__(self, unit: str = "structures") -> None:
        self.unit = unit
        self.console = errors
        self._live = self.console.is_terminal
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=False,
        )
        self._task: TaskID | None = None
        self._name, self._done = "", 0
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
        elif self._name and kind is None:
            self._line()

    def stage(self, name: str, total: int | None = None) -> None:
        self._name, self._done, self._total = name, 0, total
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
        return f"{self._done / max(now - self._start, 1e-9):.1f} {self.unit}/s"

    def _line(self) -> None:
        now = time.monotonic()
        total = "" if self._total is None else f" of {self._total}"
        left = ""
        if self._total and self._done:
            seconds = (now - self._start) * max(self._total - self._done, 0) / self._done
            left = f", {seconds:.0f} s left"
        print(f"{self._name}: {self._done}{total} {self.unit}, {self._rate(now)}{left}", file=sys.stderr, flush=True)

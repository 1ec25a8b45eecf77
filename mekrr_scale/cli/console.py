"""Progress bars and messages."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
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

from mekrr_scale.distributed import Group

_WIDTH = None if sys.stdout.isatty() else 110  # a log file has no width of its own

out = Console(width=_WIDTH)
errors = Console(stderr=True, width=None if sys.stderr.isatty() else 110)

_LINE_SECONDS = 10.0
_TELL_SECONDS = 0.5

EXIT_CODES = (
    "Exit codes: 0 done, 1 refused by the system, 2 options, 3 structures, 4 store, 5 backbone, 6 model, 7 solver, "
    "8 simulation stopped, 9 another rank failed, 75 stopped by a signal (requeue: the same command goes on), "
    "130 interrupted."
)


class Bar:
    """A progress bar with rate and time left; where there is no terminal, now and then a line of JSON."""

    def __init__(self, unit: str = "structures", shown: bool = True) -> None:
        self.unit = unit
        self.shown = shown
        self.console = errors
        self._live = shown and self.console.is_terminal
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
        told: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "stage": self._name,
            "done": self._done,
            "total": self._total,
            "unit": self._unit,
            "per_second": round(self._done / seconds, 1),
        }
        if self._total and self._done:
            told["seconds_left"] = round(seconds * max(self._total - self._done, 0) / self._done)
        print(json.dumps(told), file=sys.stderr, flush=True)


class JobBar:
    """The progress of all ranks, drawn by the first; the others tell it what they have done."""

    def __init__(self, bar: Bar, group: Group) -> None:
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

"""What a tuning has found so far: a file for each step, so that a kill costs no more than the step at hand."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from mekrr_scale.distributed import Steps, read_sealed
from mekrr_scale.files import Document, publish_text, sealed
from mekrr_scale.progress import LOGGER, Progress


class Clock:
    """Time that the finished steps of a tuning have taken, over all its processes, beside its budget.

    What a kill cuts short is made anew and counts once, so that a tuning that was killed decides as one that was not.
    """

    def __init__(self, path: Path, budget: float, now: Callable[[], float] = time.monotonic) -> None:
        self.path, self.budget, self._now = path, budget, now
        found = read_sealed(path) if path.exists() else None
        before = (found or {}).get("seconds")
        self._before = float(before) if isinstance(before, int | float) else 0.0
        self._start = now()

    @property
    def used(self) -> float:
        """Seconds."""
        return self._before + self._now() - self._start

    @property
    def left(self) -> float:
        """Seconds; negative when the budget is spent."""
        return self.budget - self.used

    def beat(self) -> None:
        """Note the time for a process that comes after."""
        publish_text(self.path, json.dumps(sealed({"seconds": self.used})))


@dataclass(frozen=True)
class Journal(Steps):
    """A folder of sealed JSON files, one for each thing that was measured, scored or decided, with its time."""

    clock: Clock

    def step(self, name: str, make: Callable[[], Document], output: Path | None = None) -> Document:
        """The same; what is made is timed."""
        made = False

        def timed() -> Document:
            nonlocal made
            made, begin = True, self.clock.used
            return {**make(), "seconds": self.clock.used - begin}

        found = super().step(name, timed, output)
        if made:
            self.clock.beat()
        return found

    def decision(self, name: str, make: Callable[[Document | None], Document]) -> Document:
        """A step that is made again where time ``limited`` it and the budget has been raised since.

        Args:
            make: is given what was decided before, if anything was.
        """
        before = self.found(name)
        if before is not None and before.get("limited") and number(before, "budget") < self.clock.budget:
            self.place(name).unlink()
        return self.step(name, lambda: {**make(before), "budget": self.clock.budget})


def number(found: Document, key: str) -> float:
    """A number of a step."""
    return float(cast(float, found[key]))


@dataclass
class Timed:
    """A progress that says in every stage how much time is left."""

    inner: Progress
    clock: Clock
    before: str = ""  # what is at work, said before the name of a stage

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        place = f"{self.before}: " if self.before else ""
        self.inner.stage(f"{place}{name} ({shown_time(self.clock.left)} left)", total, unit)

    def advance(self, steps: int = 1) -> None:
        self.inner.advance(steps)

    def note(self, text: str) -> None:
        LOGGER.debug("%s", text)  # of single fits and extractions, of which there are many

    def tell(self, text: str) -> None:
        """Something of the tuning itself."""
        self.inner.note(text)


def shown_time(seconds: float) -> str:
    """A time for people.

    >>> shown_time(754), shown_time(59), shown_time(4000), shown_time(-3)
    ('13 min', '59 s', '1 h 7 min', '0 s')
    """
    seconds = max(seconds, 0.0)
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"

"""What a tuning has found so far: a file for each step, so that a kill costs no more than the step at hand."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from mekrr_scale.errors import ConfigError
from mekrr_scale.files import JSON, Document, is_whole, publish_text, sealed, unsealed
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


@dataclass
class Journal:
    """A folder of sealed JSON files, one for each thing that was measured, scored or decided."""

    folder: Path
    clock: Clock

    def step(self, name: str, make: Callable[[], Document]) -> Document:
        """What a step found; it is made unless it was made before."""
        found = self._found(name)
        if found is not None:
            return found
        begin = self.clock.used
        made = dict(make())
        made["seconds"] = self.clock.used - begin
        publish_text(self.folder / f"{name}.json", json.dumps(sealed(made)))
        self.clock.beat()
        return self._found(name) or made  # as one that comes after reads it

    def _found(self, name: str) -> Document | None:
        path = self.folder / f"{name}.json"
        return read_sealed(path) if path.exists() else None

    def decision(self, name: str, make: Callable[[Document | None], Document]) -> Document:
        """A step that is made again where time ``limited`` it and the budget has been raised since.

        Args:
            make: is given what was decided before, if anything was.
        """
        before = self._found(name)
        if before is not None and before.get("limited") and number(before, "budget") < self.clock.budget:
            (self.folder / f"{name}.json").unlink()
        return self.step(name, lambda: {**make(before), "budget": self.clock.budget})

    def has(self, name: str) -> bool:
        """Whether a step was made."""
        return (self.folder / f"{name}.json").exists()


def number(found: Document, key: str) -> float:
    """A number of a step."""
    return float(cast(float, found[key]))


def claim(path: Path, document: Document, free: frozenset[str]) -> None:
    """The folder is of this tuning, or new.

    Args:
        free: keys that may differ from call to call.

    Raises:
        ConfigError: it is another one's; says in what.
    """
    if not path.exists():
        publish_text(path, json.dumps(sealed(document), indent=2))
        return
    found = read_sealed(path)
    if found is None:
        raise ConfigError(f"{path} is damaged; delete the folder {path.parent}, or name another")
    plain: dict[str, JSON] = json.loads(json.dumps(document))
    differing = sorted(key for key in plain if key not in free and found.get(key) != plain[key])
    if differing:
        raise ConfigError(
            f"{path.parent} holds a tuning with other {', '.join(differing)}; name another folder, or delete this one"
        )


def read_sealed(path: Path) -> Document | None:
    """What a file of the folder holds; None where it is damaged, which is said."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not is_whole(found):
        LOGGER.warning("%s is damaged; the step is made again", path)
        return None
    return unsealed(found)


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

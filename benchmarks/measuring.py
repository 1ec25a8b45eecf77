"""Seconds, peaks of memory, exponents, and tables."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

import numpy as np

from mekrr_scale.arrays import anonymous_bytes

_EVERY = 0.005  # seconds between two looks at the memory


def seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """The best of several runs: the one that the machine disturbed least."""
    return min(_timed(function) for _ in range(repeats))


def alike(functions: Sequence[Callable[[], object]], repeats: int = 3) -> list[tuple[float, float]]:
    """Of each: the seconds of its first run, and the best of ``repeats`` more.

    The first is the cold one of each; the others take turns, so that a busy machine disturbs all of them.
    """
    cold = [_timed(function) for function in functions]
    warm = [[_timed(function) for function in functions] for _ in range(repeats)]
    return [(first, min(times)) for first, times in zip(cold, zip(*warm, strict=True), strict=True)]


def _timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def cpu_seconds() -> float:
    """Of this process and of its children that have ended, all threads, user and system: differences are costs."""
    own = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in own)


class Peak:
    """The largest memory of this process, apart from pages mapped from files, while the block runs.

    MB of 10^6 bytes. ``before`` is what libraries and data held already, ``added`` what came on top.
    """

    def __init__(self) -> None:
        self.most = self.before = anonymous_mb()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    @property
    def added(self) -> float:
        return self.most - self.before

    def __enter__(self) -> Peak:
        self.most = self.before = anonymous_mb()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.most = max(self.most, anonymous_mb())

    def _look(self) -> None:
        while not self._over.wait(_EVERY):
            self.most = max(self.most, anonymous_mb())


def anonymous_mb() -> float:
    """Resident memory that is not mapped from files, now; NaN where the system does not tell."""
    found = anonymous_bytes()
    return float("nan") if found is None else found / 1e6


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of a fit in log-log through what was measured; NaN where something is too small to have been."""
    if len(values) < 2 or min(values) <= 0:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def table(header: list[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row) + " |")
    print(flush=True)

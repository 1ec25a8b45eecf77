"""Processes that compute features side by side: on a CPU they gain more than threads within one network's small steps.

They are forks, so that a network of the user's own needs no pickling, and each computes with one thread
(``mekrr_scale.backbones.surroundings``).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Generic, TypeAlias, TypeVar

import torch

from mekrr_scale.errors import MekrrError
from mekrr_scale.pipeline.extraction.plan import ExtractPlan

_AHEAD = 2  # pieces for each process, of which it works on one
_EACH = 4  # structures for each process at least: a fork takes as long as some of them
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG

P = TypeVar("P")
R = TypeVar("R")
_Begun: TypeAlias = tuple[Sequence[P], list[Future[R]]]


def processes(plan: ExtractPlan, structures: int) -> int:
    """How many are of use: as many as this process may have threads, where it computes on the CPU and can fork.

    However much of it is there already, so that what is made anew has the same bits.
    """
    if plan.workers is not None:
        return plan.workers
    able = sys.platform == "linux" and not multiprocessing.current_process().daemon
    if not able or not plan.on_cpu or torch.cuda.is_available():  # a driver does not survive a fork
        return 1
    return max(1, min(torch.get_num_threads(), structures // _EACH))


class Workers(Generic[P, R]):
    """Make results of pieces, in as many processes; with one, in this process.

    Args:
        make: what a piece becomes; forks have it as it is now.
    """

    def __init__(self, make: Callable[[P], R], count: int) -> None:
        self.make = make
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers[P, R]:
        if self.count > 1:
            context = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(self.count, context, _begin, (self.make,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def of(self, groups: Iterable[Sequence[P]]) -> Iterator[tuple[Sequence[P], Iterator[R]]]:
        """Each group with the results of its pieces, in order; those of later groups are begun in the meantime.

        Raises:
            MekrrError: a process was killed.
        """
        if self._pool is None:
            for group in groups:
                yield group, map(self.make, group)
            return
        source: Iterator[Sequence[P]] = iter(groups)
        waiting: deque[_Begun[P, R]] = deque()
        self._begin_more(source, waiting, ())
        while waiting:
            group, begun = waiting.popleft()
            yield group, self._results(begun, source, waiting)
            self._begin_more(source, waiting, ())

    def _results(
        self, begun: Sequence[Future[R]], source: Iterator[Sequence[P]], waiting: deque[_Begun[P, R]]
    ) -> Iterator[R]:
        for k, made in enumerate(begun):
            self._begin_more(source, waiting, begun[k:])
            try:
                yield made.result()
            except BrokenProcessPool as error:
                raise _killed() from error

    def _begin_more(
        self, source: Iterator[Sequence[P]], waiting: deque[_Begun[P, R]], current: Sequence[Future[R]]
    ) -> None:
        """Begin groups until no process will be idle soon."""
        left = sum(not made.done() for made in current) + sum(not made.done() for _, begun in waiting for made in begun)
        while left < _AHEAD * self.count and (group := next(source, None)) is not None:
            waiting.append((group, [self._begun(piece) for piece in group]))
            left += len(group)

    def _begun(self, piece: P) -> Future[R]:
        assert self._pool is not None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: see surroundings
                return self._pool.submit(_made, piece)
        except BrokenProcessPool as error:
            raise _killed() from error


def _killed() -> MekrrError:
    return MekrrError(
        "a process that computes features was killed, perhaps since memory ran out. Run the same command again with "
        "fewer of them (--workers 1, or ExtractPlan(workers=1)); it goes on where it stopped"
    )


_MAKE: ContextVar[Callable[[Any], Any]] = ContextVar("make")  # in a fork: what it has to do


def _begin(make: Callable[[Any], Any]) -> None:
    """A fork leaves signals to its parent, and ends with it, whatever ends that."""
    _MAKE.set(make)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _made(piece: Any) -> Any:
    return _MAKE.get()(piece)

"""Processes that compute side by side: on a CPU they gain more than threads within one network's small steps.

They are forks, so that a network of the user's own needs no pickling, and each computes with one thread
(``mekrr_scale.backbones.surroundings``).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from contextvars import ContextVar
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, TypeAlias, TypeVar

import torch

from mekrr_scale.arrays import keep_memory
from mekrr_scale.errors import ConfigError, MekrrError

_AHEAD = 2  # pieces for each process, of which it works on one
_EACH = 4  # structures for each process at least: a fork takes as long as some of them
_MEMORY = 2 * 1024**3  # bytes of the machine for each process, of which 7net-l3i5 takes half
_IN_CACHE, _ELSEWHERE = 64, 1024  # atoms; what a GPU needs to be busy, 3 GB for eight directions of SevenNet
_UNFORKED = frozenset(("jax", "tensorflow", "mpi4py.MPI"))  # modules whose threads no fork survives
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG

P = TypeVar("P")
R = TypeVar("R")
_Begun: TypeAlias = tuple[Sequence[P], list[Future[bytes]]]


def processes(asked: int | None, device: str, structures: int) -> int:
    """How many are of use: as many as this process may have threads and the machine has memory for, where it computes
    on the CPU and can fork.

    However much of it is there already, so that what is made anew has the same bits.

    Raises:
        ConfigError: as many as are asked for cannot be.
    """
    able = sys.platform == "linux" and _on_cpu(device)
    if asked is not None:
        if asked < 1:
            raise ConfigError(f"{asked} processes cannot compute anything; give 1 or more")
        if asked > 1 and not able:
            raise ConfigError(f"{asked} processes on {device}: they share a CPU, of Linux; leave their number out")
        return asked
    able = able and not multiprocessing.current_process().daemon and not _UNFORKED & sys.modules.keys()
    if not able or torch.accelerator.is_available():  # neither its driver nor autograd's threads survive a fork
        return 1
    return max(1, min(torch.get_num_threads(), structures // _EACH, memory() // _MEMORY))


def memory() -> int:
    """Bytes that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def atoms_at_once(device: str) -> int:
    """That a network sees: on a CPU as many as stay in its cache."""
    return _IN_CACHE if _on_cpu(device) else _ELSEWHERE


def _on_cpu(device: str) -> bool:
    return device.partition(":")[0] == "cpu"


class Workers(Generic[P, R]):
    """Make results of pieces, in as many processes; with one, in this process.

    Args:
        make: what a piece becomes; forks have it as it is now.
    """

    def __init__(self, make: Callable[[P], R], count: int) -> None:
        self.make = make
        self.count = count
        self._pool: ProcessPoolExecutor | None = None
        self._children: list[BaseProcess] = []

    def __enter__(self) -> Workers[P, R]:
        if self.count > 1:
            context = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(self.count, context, _begin, (self.make,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        if kind is not None:  # what they work on is of no use
            for child in self._children:
                child.terminate()
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
        waiting: deque[_Begun[P]] = deque()
        self._begin_more(source, waiting, ())
        while waiting:
            group, begun = waiting.popleft()
            yield group, self._results(begun, source, waiting)
            self._begin_more(source, waiting, ())

    def each(self, pieces: Iterable[P]) -> Iterator[tuple[P, R]]:
        """Each piece with its result, in order.

        Raises:
            MekrrError: a process was killed.
        """
        for (piece,), made in self.of([piece] for piece in pieces):
            yield piece, next(made)

    def _results(
        self, begun: Sequence[Future[bytes]], source: Iterator[Sequence[P]], waiting: deque[_Begun[P]]
    ) -> Iterator[R]:
        for k, made in enumerate(begun):
            self._begin_more(source, waiting, begun[k:])
            try:
                yield pickle.loads(made.result())
            except BrokenProcessPool as error:
                raise _killed() from error

    def _begin_more(
        self, source: Iterator[Sequence[P]], waiting: deque[_Begun[P]], current: Sequence[Future[bytes]]
    ) -> None:
        """Begin groups until no process will be idle soon."""
        left = sum(not made.done() for made in current) + sum(not made.done() for _, begun in waiting for made in begun)
        while left < _AHEAD * self.count and (group := next(source, None)) is not None:
            waiting.append((group, [self._begun(piece) for piece in group]))
            left += len(group)

    def _begun(self, piece: P) -> Future[bytes]:
        assert self._pool is not None
        others = [] if self._children else multiprocessing.active_children()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: see surroundings
                begun = self._pool.submit(_made, piece)
        except BrokenProcessPool as error:
            raise _killed() from error
        if not self._children:  # the first piece begins them all
            self._children = [child for child in multiprocessing.active_children() if child not in others]
        return begun


def _killed() -> MekrrError:
    return MekrrError(
        "a process that computes was killed, perhaps since memory ran out. Run the same again with fewer of them "
        "(--workers 1; in Python workers=1); an extraction goes on where it stopped"
    )


_MAKE: ContextVar[Callable[[Any], Any]] = ContextVar("make")  # in a fork: what it has to do


def _begin(make: Callable[[Any], Any]) -> None:
    """A fork leaves signals to its parent, and ends with it, whatever ends that."""
    _MAKE.set(make)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    keep_memory()


def _made(piece: Any) -> bytes:
    return pickle.dumps(_MAKE.get()(piece), protocol=5)  # tensors too by value: a pool would open a file for each

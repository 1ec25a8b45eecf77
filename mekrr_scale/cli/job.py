"""The ranks of a command: the first one talks, and the first error is the one that is shown."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mekrr_scale.cli.console import JobBar, out, progress_bar
from mekrr_scale.cli.ending import code_of, told
from mekrr_scale.errors import RankError
from mekrr_scale.progress import Progress

if TYPE_CHECKING:
    from mekrr_scale.distributed import Group

_LINGER = 3.0  # seconds


@contextmanager
def job(timeout: float) -> Iterator[Group]:
    """Meet the other ranks, if a launcher started some, and part from them in the end."""
    from mekrr_scale.distributed import join

    group = join(timeout)
    if group.size == 1:
        yield group
        return
    out.quiet = group.rank > 0
    try:
        yield group
        group.barrier()
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        code = told(error, f" on rank {group.rank} of {group.size}") if _first(group) else code_of(error)
        sys.stderr.flush()
        _linger(group)
        os._exit(code)  # the others wait in a collective: a clean farewell would too
    group.leave()


@contextmanager
def job_bar(group: Group, unit: str = "structures") -> Iterator[Progress]:
    """A bar that shows what all ranks have done."""
    with progress_bar(unit, shown=group.rank == 0) as bar:
        yield JobBar(bar, group) if group.size > 1 else bar


def _linger(group: Group) -> None:
    """The first rank may be where the others look whether the error has been told: it waits a little for them."""
    until = time.monotonic() + _LINGER
    while group.rank == 0 and time.monotonic() < until and group.count("failed", 0, _LINGER) < group.size:
        time.sleep(0.05)


def _first(group: Group) -> bool:
    """Whether no other rank has failed before."""
    try:
        return group.count("failed", limit=_LINGER) == 1
    except RankError:
        return True

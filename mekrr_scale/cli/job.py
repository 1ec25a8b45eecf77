"""The ranks of a command: the first one talks, and the first error is the one that is shown."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.markup import escape

from mekrr_scale.cli.console import errors, out
from mekrr_scale.distributed import Group, join
from mekrr_scale.errors import MekrrError, RankError

_LINGER = 3.0  # seconds


@contextmanager
def job(timeout: float) -> Iterator[Group]:
    """Meet the other ranks, if a launcher started some, and part from them in the end."""
    group = join(timeout)
    if group.size == 1:
        yield group
        return
    out.quiet = group.rank > 0
    try:
        yield group
        group.barrier()
    except (MekrrError, OSError, MemoryError) as error:
        if "--debug" in sys.argv:
            raise
        if _first(group):
            text = escape(str(error) or type(error).__name__)
            errors.print(f"[bold red]error[/] on rank {group.rank} of {group.size}: {text}", highlight=False)
        sys.stderr.flush()
        _linger(group)
        os._exit(getattr(error, "exit_code", 1))  # the others wait in a collective: a clean farewell would too
    group.leave()


def _linger(group: Group) -> None:
    """The first rank may be where the others look whether the error has been told: it waits a little for them."""
    until = time.monotonic() + _LINGER
    while group.rank == 0 and time.monotonic() < until and group.count("failed", 0) < group.size:
        time.sleep(0.05)


def _first(group: Group) -> bool:
    """Whether no other rank has failed before."""
    try:
        return group.count("failed") == 1
    except RankError:
        return True

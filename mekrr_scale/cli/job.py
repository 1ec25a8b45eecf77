"""The ranks of a command: the first one talks, and the first error is the one that is shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.markup import escape

from mekrr_scale.cli.console import errors, out
from mekrr_scale.distributed import Group, join
from mekrr_scale.errors import MekrrError, RankError


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
        os._exit(getattr(error, "exit_code", 1))  # the others wait in a collective: a clean farewell would too
    group.leave()


def _first(group: Group) -> bool:
    """Whether no other rank has failed before."""
    try:
        return group.count("failed") == 1
    except RankError:
        return True

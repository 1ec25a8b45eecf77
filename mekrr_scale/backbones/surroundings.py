"""What callers have set of torch's global state, kept away from networks, and networks away from it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_GRAIN = 2**15  # numbers from which on torch gives work to one more thread


@contextmanager
def evaluating(gradients: bool = True) -> Iterator[None]:
    """Gradients on or off, also within the caller's ``torch.no_grad`` or ``torch.inference_mode``; ``flushing``."""
    with torch.inference_mode(False), torch.set_grad_enabled(gradients), flushing():
        yield


@contextmanager
def flushing(wanted: bool = True) -> Iterator[None]:
    """Take numbers below the smallest normal one (1.2e-38 in float32) for zero, in this thread; or do not.

    A processor takes a hundred times as long for such a number, and closed gates and Gaussians far from their centres
    are full of them: they took two thirds of the time of SchNet's training, a third of CHGNet's (docs/benchmarks.md).
    """
    before = _flushes()
    torch.set_flush_denormal(wanted)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextmanager
def building() -> Iterator[None]:
    """While a network is made: weights in float32 that gradients can flow through.

    What the random weights that are overwritten then take from torch's generator is given back.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]), evaluating():
            yield
    finally:
        torch.set_default_dtype(before)


def _flushes() -> bool:
    """Whether this thread does, which torch does not tell."""
    return sys.float_info.min / 2 == 0.0


def _start_threads() -> None:
    """Threads keep the mode in which they are started, and nothing changes it later: torch's are started flushing."""
    with flushing():
        torch.zeros(_GRAIN * torch.get_num_threads()).abs_()


_start_threads()
# A fork takes none of OpenMP's threads along, and the child would wait for them for ever: it computes with its own one.
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

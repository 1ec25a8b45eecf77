"""What callers have set of torch's global state, kept away from networks, and networks away from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# A fork takes none of OpenMP's threads along, and the child would wait for them for ever: it computes with its own one.
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@contextmanager
def differentiating(wanted: bool = True) -> Iterator[None]:
    """Gradients on or off, also within the caller's ``torch.no_grad`` or ``torch.inference_mode``."""
    with torch.inference_mode(False), torch.set_grad_enabled(wanted):
        yield


@contextmanager
def building() -> Iterator[None]:
    """While a network is made: weights in float32 that gradients can flow through.

    What the random weights that are overwritten then take from torch's generator is given back.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]), differentiating():
            yield
    finally:
        torch.set_default_dtype(before)

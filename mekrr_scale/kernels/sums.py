"""Kernel elements and their sums over sets, tile by tile.

A tile of kernel elements is made by a matrix product, passed through the kernel's profile in
place and summed by a second, small matrix product while it is still in the cache. On CPUs
several threads work on different tiles, each with single-threaded operations: that keeps a
tile in its core's cache and spares a barrier per operation. Every tile has its own place in
the result and its boundaries depend on the data alone, so the result does not depend on the
number of threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

TILE_ROWS = 200  # kernel rows made at once: with 1536 columns of float64 a tile is 2.4 MB
TILE_COLUMNS = 1536

Tile = Callable[[int, int, int, int], Float[Tensor, "rows columns"]]

_buffers = threading.local()


def segment_sums(
    owner: Int64[Tensor, " rows"], n_owners: int, n_columns: int, tile: Tile
) -> Float64[Tensor, "owners columns"]:
    """Sums of the rows of a large matrix by owner, without ever holding the matrix.

    Args:
        owner: of each row, ascending.
        tile: makes the elements of rows [r0, r1) and columns [c0, c1).
    """
    total = torch.zeros(n_owners, n_columns, dtype=torch.float64, device=owner.device)

    def work(r0: int, r1: int) -> None:
        for a in range(r0, r1, TILE_ROWS):
            b = min(a + TILE_ROWS, r1)
            first = int(owner[a])
            last = int(owner[b - 1]) + 1
            indicator = torch.zeros(last - first, b - a, dtype=torch.float64, device=owner.device)
            indicator[owner[a:b] - first, torch.arange(b - a, device=owner.device)] = 1.0
            for c in range(0, n_columns, TILE_COLUMNS):
                d = min(c + TILE_COLUMNS, n_columns)
                total[first:last, c:d].addmm_(indicator, tile(a, b, c, d).double())

    _run(list(_tasks(owner)), work)
    return total


def product(left: Float[Tensor, "rows inner"], right: Float[Tensor, "inner columns"]) -> Float[Tensor, "rows columns"]:
    """Matrix product into a buffer of the calling thread, valid until its next call.

    A fresh tile for every product would cost as much as the exponentials, in page faults.
    """
    size = left.shape[0] * right.shape[1]
    buffer = getattr(_buffers, "tile", None)
    if buffer is None or buffer.dtype != left.dtype or buffer.device != left.device or len(buffer) < size:
        buffer = torch.empty(max(size, TILE_ROWS * TILE_COLUMNS), dtype=left.dtype, device=left.device)
        _buffers.tile = buffer
    return torch.mm(left, right, out=buffer[:size].view(left.shape[0], right.shape[1]))


def map_tiles(n_rows: int, work: Callable[[int, int], None]) -> None:
    """Call ``work`` on consecutive tiles of rows, several at a time; it must write disjoint rows."""
    _run([(a, min(a + TILE_ROWS, n_rows)) for a in range(0, n_rows, TILE_ROWS)], work)


def _tasks(owner: Int64[Tensor, " rows"]) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of rows of at least a tile (but the last) that do not split an owner."""
    if len(owner) == 0:
        return
    ends = torch.cat([(owner[1:] != owner[:-1]).nonzero()[:, 0] + 1, torch.tensor([len(owner)], device=owner.device)])
    start = 0
    previous = 0
    for end in ends.tolist():
        if end - start > TILE_ROWS and previous > start:
            yield start, previous
            start = previous
        previous = end
    yield start, len(owner)


def _run(tasks: list[tuple[int, int]], work: Callable[[int, int], None]) -> None:
    threads = torch.get_num_threads()
    if threads == 1 or len(tasks) < 2:
        for task in tasks:
            work(*task)
        return
    for _ in _pool(threads).map(lambda task: work(*task), tasks):
        pass


# threads do not survive a fork: a child makes its own
@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "mekrr-tile", initializer=lambda: torch.set_num_threads(1))


os.register_at_fork(after_in_child=_pool.cache_clear)

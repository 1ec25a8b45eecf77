"""Kernel elements and their sums over sets, tile by tile.

A tile of kernel elements is made by a matrix product, passed through the kernel's profile in
place and added row by row to its owners while it is still in the cache. On CPUs
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
DEVICE_ELEMENTS = 2**26  # of a tile on a GPU: half a gigabyte of float64

Tile = Callable[[int, int, int, int], Float[Tensor, "rows columns"]]
# sums of rows [r0, r1) over owners with these bounds, of which the first is 0
Fused = Callable[[int, int, Int64[Tensor, " bounds"]], Float64[Tensor, "owners columns"]]

_buffers = threading.local()


def segment_sums(
    owner: Int64[Tensor, " rows"],
    n_owners: int,
    n_columns: int,
    tile: Tile,
    device: torch.device | str = "cpu",
    fused: Fused | None = None,
) -> Float64[Tensor, "owners columns"]:
    """Sums of the rows of a large matrix by owner, without ever holding the matrix.

    Args:
        owner: of each row, ascending; in the memory of the host.
        tile: makes the elements of rows [r0, r1) and columns [c0, c1), on ``device``; a thread asks for all columns
            of some rows, the first ones first, before it asks for other rows.
        fused: on a GPU, makes and sums the rows of a tile in its own way.
    """
    if torch.device(device).type != "cpu":
        return segment_sums_on_device(owner, n_owners, n_columns, tile, device, fused)
    total = torch.zeros(n_owners, n_columns, dtype=torch.float64)

    def work(r0: int, r1: int) -> None:
        for a in range(r0, r1, TILE_ROWS):
            b = min(a + TILE_ROWS, r1)
            first, last = int(owner[a]), int(owner[b - 1]) + 1
            place = owner[a:b] - first
            for c in range(0, n_columns, TILE_COLUMNS):
                d = min(c + TILE_COLUMNS, n_columns)
                _add_rows(total[first:last, c:d], place, _double(tile(a, b, c, d)))

    _run(list(_tasks(owner)), work, torch.get_num_threads())
    return total


def _add_rows(
    total: Float64[Tensor, "owners columns"],
    owner: Int64[Tensor, " rows"],
    rows: Float64[Tensor, "rows columns"],
) -> None:
    """Add each row to that of its owner, in place, one after the other.

    A product with ones is as fast for one owner; for many it has as many operations as owners for every element.
    """
    if 1 not in total.shape:
        total.index_add_(0, owner, rows)
        return
    indicator = torch.zeros(len(total), len(rows), dtype=torch.float64)
    indicator[owner, torch.arange(len(rows))] = 1.0
    total.addmm_(indicator, rows)


def segment_sums_on_device(
    owner: Int64[Tensor, " rows"],
    n_owners: int,
    n_columns: int,
    tile: Tile,
    device: torch.device | str,
    fused: Fused | None = None,
) -> Float64[Tensor, "owners columns"]:
    """The same on a GPU: tiles as large as fit a buffer, summed by runs of rows.

    Elements are written and read once each beside the matrix product that makes them; nothing is
    summed by atomic operations, so the result is the same in every run. Rows of one owner that are
    more than fit the buffer are summed part by part.
    """
    total = torch.zeros(n_owners, n_columns, dtype=torch.float64, device=device)
    most = _device_rows(n_columns)
    ends = torch.searchsorted(owner, torch.arange(n_owners + 1)).to(device)  # once: a copy waits for all work before it
    for first, last in _tasks(owner, most):
        for a in range(first, last, most):
            b = min(a + most, last)
            low, high = int(owner[a]), int(owner[b - 1]) + 1
            parts = ends[low : high + 1].clamp(a, b) - a
            if fused is None:
                total[low:high] += segments(tile(a, b, 0, n_columns).double(), parts.diff())
            else:
                total[low:high] += fused(a, b, parts)
    return total


def segments(
    rows: Float64[Tensor, "rows columns"], lengths: Int64[Tensor, " parts"]
) -> Float64[Tensor, "parts columns"]:
    """Sums over consecutive rows, always in the same order."""
    found: Tensor = torch.segment_reduce(rows, "sum", lengths=lengths.to(rows.device), axis=0, unsafe=True)
    return found


def add_columns(
    total: Float64[Tensor, "rows owners"],
    owner: Int64[Tensor, " columns"],
    columns: Float64[Tensor, "rows columns"],
) -> None:
    """Add each column to that of its owner, in place.

    On a GPU by runs of columns: ``index_add_`` is atomic there, and the last bits differ from run to run.

    Args:
        owner: of each column; in the memory of the host.
    """
    if total.device.type == "cpu":
        total.index_add_(1, owner, columns)
        return
    order = owner.argsort(stable=True)
    present, lengths = owner[order].unique_consecutive(return_counts=True)
    total[:, present.to(total.device)] += segments(columns.T[order.to(total.device)].contiguous(), lengths).T


def product(left: Float[Tensor, "rows inner"], right: Float[Tensor, "inner columns"]) -> Float[Tensor, "rows columns"]:
    """Matrix product into a buffer of the calling thread, valid until its next call."""
    return torch.mm(left, right, out=buffer("product", left.shape[0], right.shape[1], left))


def _double(tile: Float[Tensor, "rows columns"]) -> Float64[Tensor, "rows columns"]:
    """In float64; in another buffer of the thread if it is not."""
    if tile.dtype == torch.float64:
        return tile
    return buffer("double", len(tile), tile.shape[1], torch.empty(0, dtype=torch.float64)).copy_(tile)


def buffer(name: str, rows: int, columns: int, like: Tensor) -> Float[Tensor, "rows columns"]:
    """A matrix of the calling thread's with the dtype and device of ``like``, valid until the next call for its name.

    What is made anew for every tile is too large for the allocator to keep, and costs a page fault every 4 KB.
    """
    size = rows * columns
    found = getattr(_buffers, name, None)
    if found is None or found.dtype != like.dtype or found.device != like.device or len(found) < size:
        found = like.new_empty(max(size, TILE_ROWS * TILE_COLUMNS))
        setattr(_buffers, name, found)
    return found[:size].view(rows, columns)


def map_tiles(n_rows: int, work: Callable[[int, int], None], right: Float[Tensor, "inner columns"]) -> None:
    """Call ``work`` on consecutive tiles of rows; it must write disjoint rows.

    Args:
        right: what the rows are multiplied with. On a CPU several tiles are worked on at a time, on a GPU they
            are as large as fit a buffer.
    """
    here = right.device.type == "cpu"
    rows = TILE_ROWS if here else _device_rows(right.shape[1])
    tiles = [(a, min(a + rows, n_rows)) for a in range(0, n_rows, rows)]
    _run(tiles, work, torch.get_num_threads() if here else 1)


def _device_rows(n_columns: int) -> int:
    """How many rows of a tile fit the buffer on a GPU."""
    return max(1, DEVICE_ELEMENTS // max(n_columns, 1))


def _tasks(owner: Int64[Tensor, " rows"], least: int = TILE_ROWS) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of rows, a tile or a little more, that do not split an owner."""
    if len(owner) == 0:
        return
    ends = torch.cat([(owner[1:] != owner[:-1]).nonzero()[:, 0] + 1, torch.tensor([len(owner)])])
    start = 0
    previous = 0
    for end in ends.tolist():
        if end - start > least and previous > start:
            yield start, previous
            start = previous
        previous = end
    yield start, len(owner)


def _run(tasks: list[tuple[int, int]], work: Callable[[int, int], None], threads: int) -> None:
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

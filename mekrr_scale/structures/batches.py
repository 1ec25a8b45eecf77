"""Structures for a network to see at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def in_batches(items: Iterable[T], largest: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Items in order, in lists of at most so many atoms, or of one item.

    Args:
        size: atoms of an item.

    >>> list(in_batches("three of four letters".split(), 6, len))
    [['three'], ['of', 'four'], ['letters']]
    """
    batch: list[T] = []
    atoms = 0
    for item in items:
        if batch and atoms + size(item) > largest:
            yield batch
            batch, atoms = [], 0
        batch.append(item)
        atoms += size(item)
    if batch:
        yield batch

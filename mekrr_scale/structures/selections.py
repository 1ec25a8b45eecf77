"""Frames that a file's name chooses, as ASE has it (``a.xyz@12``, ``a.xyz@::10``), out of a stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def chosen(frames: Callable[[], Iterator[T]], choice: int | slice, count: Callable[[], int | None]) -> Iterator[T]:
    """The frames that are chosen, in the order of the choice; nothing where there are none.

    What counts from the end needs the number of all; a negative step keeps the chosen ones in memory.

    Args:
        frames: begins to read them.
        count: how many there are; None: that is not known before they are read.

    >>> list(chosen(lambda: iter("abcdef"), slice(-2, None, -2), lambda: None))
    ['e', 'c', 'a']
    """
    if isinstance(choice, int):
        if choice >= 0:
            yield from islice(frames(), choice, choice + 1)
        else:
            last = deque(frames(), maxlen=-choice)
            yield from islice(last, 1 if len(last) == -choice else 0)
        return
    if min(choice.start or 0, choice.stop or 0, choice.step or 1) >= 0:
        yield from islice(frames(), choice.start, choice.stop, choice.step)
        return
    known = count()
    places = range(sum(1 for _ in frames()) if known is None else known)[choice]
    if places.step > 0:
        yield from islice(frames(), places.start, places.stop, places.step)
    elif places:
        yield from list(islice(frames(), places[-1], places[0] + 1, -places.step))[::-1]


def chosen_count(choice: int | slice | None, number: int | None) -> int | None:
    """How many frames are chosen of so many.

    >>> chosen_count(slice(None, None, 10), 25), chosen_count(-1, 25), chosen_count(30, 25)
    (3, 1, 0)
    """
    if number is None or choice is None:
        return number
    if isinstance(choice, int):
        return int(-number <= choice < number)
    return len(range(number)[choice])

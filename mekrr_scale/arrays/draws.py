"""Pseudo-random numbers from content: the same for any order, split or number of ranks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def draw(values: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A pseudo-random number for each value: splitmix64 (Steele, Lea, Flood 2014).

    >>> draw(np.array([1234567], dtype=np.uint64), 0)  # the first number of a generator with this state
    array([6457827717110365317], dtype=uint64)
    """
    with np.errstate(over="ignore"):
        z = values + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)))


def uniform(values: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """The same as numbers in [0, 1)."""
    return np.asarray((draw(values, seed) >> np.uint64(11)).astype(np.float64) / 2.0**53)

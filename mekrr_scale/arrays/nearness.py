"""Which vectors are near to one another."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from numpy.typing import NDArray
from scipy.spatial import cKDTree


def leaders(values: Float64[ndarray, "members numbers"], order: NDArray[np.uint64], radius: float) -> NDArray[np.int64]:
    """For each the place of the member that it is near to: the first by ``order`` that is near to no other, and so on.

    >>> leaders(np.array([[0.0], [0.1], [5.0]]), np.array([2, 1, 0], dtype=np.uint64), 0.2).tolist()
    [1, 1, 2]
    """
    found = np.arange(len(values))
    if not radius > 0:
        return found
    tree = cKDTree(values)
    nearest = tree.query(values, k=2, distance_upper_bound=radius)[0][:, 1]
    near = np.flatnonzero(np.isfinite(nearest))
    free = np.zeros(len(values), dtype=bool)
    free[near] = True
    for leader in near[np.argsort(order[near], kind="stable")].tolist():
        if free[leader]:
            around = np.array(tree.query_ball_point(values[leader], radius))
            around = around[free[around]]
            found[around], free[around] = leader, False
    return found

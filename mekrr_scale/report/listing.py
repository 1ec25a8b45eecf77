"""Rows by group, and those that a page lists."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from mekrr_scale.report.statistics import Score, scored

LISTED = {"energy": 4000, "force": 12_000}  # rows that a page holds; of others as many as of forces


def scores_by(
    reference: ndarray, predicted: ndarray, structure: ndarray, groups: Mapping[str, ndarray]
) -> dict[str, Score]:
    """Errors of each group of rows; a row may be of several."""
    found = {}
    for name, chosen in groups.items():
        score = scored(reference[chosen], predicted[chosen], structure[chosen])
        if score is not None:
            found[name] = score
    return found


def listed(name: str, rows: int, seed: int = 1) -> Int64[ndarray, " listed"]:
    """Places of the rows that a page holds: all, or a random part."""
    most = LISTED.get(name, LISTED["force"])
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def numbered(ids: Int64[ndarray, " rows"]) -> Int64[ndarray, " rows"]:
    """Places among the distinct ones."""
    return np.unique(ids, return_inverse=True)[1].astype(np.int64)


def short(values: ndarray) -> list[float]:
    """With the digits that a figure shows."""
    return [float(f"{value:.6g}") for value in values.tolist()]

"""Rows by group, and those that a page lists."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ase import Atoms
from jaxtyping import Int64
from numpy import ndarray

from mekrr_scale.report.results import Picture
from mekrr_scale.report.statistics import Score, scored

LISTED = {"energy": 4000, "force": 12_000}  # rows that a page holds; of others as many as of forces
_DRAWN = 400  # atoms of a picture at most


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


def picture(atoms: Atoms) -> Picture | None:
    """What a picture takes; None of a structure that is too large for one."""
    if len(atoms) > _DRAWN:
        return None
    cell = np.round(atoms.cell.array, 3).tolist() if atoms.cell.rank == 3 else []
    positions = [(x, y, z) for x, y, z in np.round(atoms.positions, 3).tolist()]
    return Picture(atoms.numbers.tolist(), positions, [(x, y, z) for x, y, z in cell])

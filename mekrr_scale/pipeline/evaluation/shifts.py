"""Errors of a set's energies with and without a shift that all of its structures share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from mekrr_scale.regression import UNITS, Errors

FEWEST = 5  # structures for each number that is fitted: fewer would hide errors in it
_RANK = 1e-8  # of the largest singular value of the fractions


@dataclass(frozen=True)
class Shift:
    """What the errors of a set's energies have in common, and what is left of them without it.

    With e the errors per atom and F the fractions of the elements, one line a structure, least squares take F d
    off e: an energy for each element, which is a constant per atom where all structures have one composition.
    Where the set has too few structures for the rank r of F, a constant alone is taken off (r = 1). The RMSE that is
    left has r degrees of freedom less, sqrt(sum of squares / (n - r)), and the MAE is enlarged by the same factor
    sqrt(n / (n - r)): a shift of nothing but noise lowers neither on average.
    """

    mean: float  # eV/atom: mean of the errors per atom, predictions less labels
    parameters: int  # r
    errors: Errors  # eV/atom, without the shift

    @classmethod
    def of(
        cls, error: Float64[ndarray, " structures"], counts: Int64[ndarray, "structures species"] | None = None
    ) -> Shift | None:
        """Of errors per atom (eV); None of fewer than five structures for each number of the shift.

        Args:
            counts: atoms of each element; without them the shift is a constant.
        """
        n = len(error)
        if n < FEWEST:
            return None
        left, rank = error - error.mean(), 1
        if counts is not None and counts.any():
            basis = _basis(counts / counts.sum(1, keepdims=True))
            if 1 < basis.shape[1] <= n // FEWEST:
                left, rank = error - basis @ (basis.T @ error), basis.shape[1]
        widened = math.sqrt(n / (n - rank))
        return cls(float(error.mean()), rank, Errors.of(left).scaled(widened))

    def to_dict(self) -> dict[str, float]:
        """As JSON holds it, in meV/atom."""
        factor = UNITS["energy"].factor
        left = self.errors.scaled(factor)
        return {
            "energy": factor * self.mean,
            "parameters": self.parameters,
            "energy_mae": left.mae,
            "energy_rmse": left.rmse,
        }


def _basis(fractions: Float64[ndarray, "structures species"]) -> Float64[ndarray, "structures rank"]:
    """Orthonormal columns that span those of the fractions."""
    u, s, _ = np.linalg.svd(fractions, full_matrices=False)
    found: ndarray = u[:, s > _RANK * s[0]]
    return found

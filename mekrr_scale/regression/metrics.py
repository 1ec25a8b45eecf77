"""Errors between predictions and labels: in eV and angstrom inside, converted once where they are shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from mekrr_scale.arrays import KINDS, RowKind, Unit


@dataclass(frozen=True)
class Errors:
    """Mean absolute and root mean square error; NaN of nothing.

    >>> Errors.of(np.array([0.003, -0.004])).scaled(1e3)
    Errors(count=2, mae=3.5, rmse=3.5355339059327378)
    """

    count: int
    mae: float  # eV, eV/angstrom or eV/angstrom^3
    rmse: float

    @classmethod
    def of(cls, errors: Float[ndarray, "..."]) -> Errors:
        """Of differences, whatever the shape of their array."""
        if not errors.size:
            return cls(0, math.nan, math.nan)
        return cls(errors.size, float(np.abs(errors).mean()), float(np.sqrt((errors**2).mean())))

    @classmethod
    def of_sums(cls, count: float, absolute: float, square: float, factor: float = 1.0) -> Errors:
        """Of the number of differences and the sums of their absolute values and squares.

        Args:
            factor: of the unit that the result is in. It comes before the division, so that the metrics of
                stores keep the last bits that version 0.1.0 wrote.
        """
        if not count:
            return cls(0, math.nan, math.nan)
        return cls(int(count), factor * absolute / count, factor * math.sqrt(square / count))

    def scaled(self, factor: float) -> Errors:
        """In another unit."""
        return Errors(self.count, factor * self.mae, factor * self.rmse)


UNITS: Mapping[str, Unit] = {
    **{info.name: info.unit for info in KINDS.values()},  # errors of energies are per atom
    "stress": Unit("meV/angstrom^3", 1e3),
    "virial": KINDS[RowKind.STRESS].unit,  # what a fit's stress rows compare: V sigma:eps of a structure, per atom
}

"""Errors with intervals: N, MAE, RMSE and R2, by bootstrap over structures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

DRAWS = 1000
_MANY = 4000  # structures; of more than these fewer samples tell as much
_CHUNK = 50  # samples at a time


@dataclass(frozen=True)
class Score:
    """Errors of rows of one unit, with the 95 % interval of each number; None where it has none."""

    rows: int
    structures: int
    mae: float
    rmse: float
    r2: float | None  # 1 - sum of squared errors / sum of squares around the mean reference
    mae_95: tuple[float, float] | None
    rmse_95: tuple[float, float] | None
    r2_95: tuple[float, float] | None


def scored(
    reference: Float64[ndarray, " rows"],
    predicted: Float64[ndarray, " rows"],
    structure: Int64[ndarray, " rows"],
    seed: int = 0,
) -> Score | None:
    """Errors of rows; None of nothing.

    Samples are drawn of structures, whose rows stay together, since errors within one are alike (Efron and Tibshirani,
    An Introduction to the Bootstrap, 1993, sections 8.3 and 13.3: percentile intervals).

    Args:
        structure: that each row belongs to.
        seed: of the samples.
    """
    if not len(reference):
        return None
    _, owner = np.unique(structure, return_inverse=True)
    error = predicted - reference
    centred = reference - reference.mean()
    columns = (np.ones_like(error), np.abs(error), error**2, centred, centred**2)
    sums = np.stack([np.bincount(owner, weights=column) for column in columns])
    mae, rmse, r2 = (float(each) for each in _statistics(sums.sum(1)))
    number = sums.shape[1]
    if number < 2:
        return Score(len(error), number, mae, rmse, _or_none(r2), None, None, None)
    drawn = np.concatenate(list(_samples(sums, seed)), axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=1)
    spans = [(float(a), float(b)) if math.isfinite(a + b) else None for a, b in zip(low, high, strict=True)]
    return Score(len(error), number, mae, rmse, _or_none(r2), *spans)


def _statistics(sums: Float64[ndarray, "5 *samples"]) -> Float64[ndarray, "3 *samples"]:  # noqa: F821 - jaxtyping
    """MAE, RMSE and R2 from number, absolute and squared errors, references and their squares."""
    number, absolute, square, total, squares = sums
    spread = squares - total**2 / number
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(spread > 0, 1.0 - square / spread, np.nan)
    return np.stack([absolute / number, np.sqrt(square / number), r2])


def _samples(sums: Float64[ndarray, "5 structures"], seed: int) -> Iterator[Float64[ndarray, "3 samples"]]:
    rng = np.random.default_rng(seed)
    number = sums.shape[1]
    draws = DRAWS if number <= _MANY else DRAWS // 5
    for _ in range(draws // _CHUNK):
        times = rng.multinomial(number, np.full(number, 1.0 / number), size=_CHUNK)
        yield _statistics(sums @ times.T)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class PowerLaw:
    """An error that falls like factor * size^-exponent."""

    factor: float
    exponent: float

    @classmethod
    def fitted(cls, sizes: Float64[ndarray, " points"], errors: Float64[ndarray, " points"]) -> PowerLaw | None:
        """By least squares of the logarithms; None of fewer than two sizes."""
        known = (sizes > 0) & (errors > 0) & np.isfinite(errors)
        if len(np.unique(sizes[known])) < 2:
            return None
        slope, start = np.polyfit(np.log(sizes[known]), np.log(errors[known]), 1)
        return cls(float(np.exp(start)), float(-slope))

    @classmethod
    def ahead(
        cls,
        sizes: Float64[ndarray, " points"],
        errors: Float64[ndarray, " points"],
        by_fold: Sequence[Float64[ndarray, " points"]] = (),
    ) -> PowerLaw | None:
        """Through the last point, as steep as between the last two but no steeper than 1/size, and never rising.

        Errors that fall faster tell of small parts that lack whole regions, not of what more data will give. One
        structure far outside, which the smaller models of its fold had no neighbour of, can be most of an error, so
        that the steepness is the median of the folds'.

        Args:
            sizes: ascending.
            by_fold: the errors of every fold; of none the pooled ones tell.
        """
        laws = [cls.fitted(sizes[-2:], each[-2:]) for each in by_fold or [errors]]
        exponents = [law.exponent for law in laws if law is not None]
        if not exponents:
            return None
        exponent = min(max(float(np.median(exponents)), 0.0), 1.0)
        return cls(float(errors[-1] * sizes[-1] ** exponent), exponent)

    def at(self, size: float) -> float:
        """The error at a size."""
        return float(self.factor * size**-self.exponent)

    @property
    def with_twice(self) -> float:
        """What twice the data would leave of the error; 1 where it does not fall."""
        return float(2.0 ** -max(self.exponent, 0.0))

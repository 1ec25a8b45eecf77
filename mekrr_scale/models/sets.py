"""How sure a model is of a whole set: the interval of its mean error, and whether it is like what was fitted.

Errors of the structures of a set are not independent: on another surface or at another composition they share a sign.
The mean error per atom of N structures has the raw variance

    (1 - 1/N) (w s^2 + |r A|^2) + v / N

with r the mean of the structures' rows per atom and A the posterior's factor, so that |r A|^2 holds all covariances
that the rows leave open; s the mean of the structures' deviations outside of the landmarks and w their weight, as if
these were the same in all of them, which they are at most; and v the mean of the structures' own variances. For one
structure this is its own. What multiplies the deviation is calibrated on folds: each is a set that its model has
not seen (a trajectory or a block, where folds are).

A set is unlike the training data where its typical structure is less sure than 95 % of the structures that
cross-validation left out, and than the typical structure of every fold; or where half of its structures have more than
1 % of their atoms beyond grade 1, which one in a thousand is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

_PART = 0.95  # of the left-out structures that are surer than the limit
BEYOND = 0.01  # part of a structure's atoms that may be beyond grade 1


@dataclass(frozen=True)
class PerAtom:
    """Rows and variances of structures, as of energies per atom."""

    rows: Float64[Tensor, "structures columns"]
    outside: Float64[Tensor, " structures"]  # raw variances in two parts, see ``RawVariance``
    open: Float64[Tensor, " structures"]

    def __len__(self) -> int:
        return len(self.outside)

    def take(self, chosen: Tensor) -> PerAtom:
        """Some of them."""
        return PerAtom(self.rows[chosen], self.outside[chosen], self.open[chosen])


@dataclass(frozen=True)
class SetSums:
    """What the interval of a set's mean error needs, summed over its structures; the same sums over several sets."""

    count: Float64[Tensor, " sets"]
    rows: Float64[Tensor, "sets columns"]
    outside: Float64[Tensor, " sets"]
    open: Float64[Tensor, " sets"]
    deviations: Float64[Tensor, " sets"]  # outside

    @classmethod
    def none(cls, sets: int, columns: int) -> SetSums:
        """Of no structure."""
        zeros = [torch.zeros(sets, dtype=torch.float64) for _ in range(4)]
        return cls(zeros[0], torch.zeros(sets, columns, dtype=torch.float64), *zeros[1:])

    def add(self, found: PerAtom, place: Int64[Tensor, " structures"]) -> None:
        """Count structures in.

        Args:
            place: of the set that each belongs to.
        """
        self.count.index_add_(0, place, torch.ones(len(found), dtype=torch.float64))
        self.rows.index_add_(0, place, found.rows.cpu())
        self.outside.index_add_(0, place, found.outside)
        self.open.index_add_(0, place, found.open)
        self.deviations.index_add_(0, place, found.outside.sqrt())

    @property
    def table(self) -> Float64[Tensor, "sets numbers"]:
        """All in one, to be summed over the ranks of a job."""
        return torch.cat([torch.stack([self.count, self.outside, self.open, self.deviations], 1), self.rows], 1)

    @classmethod
    def of_table(cls, table: Float64[Tensor, "sets numbers"]) -> SetSums:
        """From ``table``."""
        return cls(table[:, 0], table[:, 4:], table[:, 1], table[:, 2], table[:, 3])

    def raw_deviations(
        self, factors: Sequence[Float64[Tensor, "columns _"]], outside_weight: float
    ) -> Float64[Tensor, " sets"]:
        """Of the mean error per atom of each set; NaN of a set without structures.

        Args:
            factors: of the posterior for each set, or one for all.
        """
        n = self.count
        each = factors if len(factors) > 1 else [factors[0]] * len(n)
        mean = self.rows / n[:, None]
        pairs = zip(mean, each, strict=True)
        opened = torch.stack([(row.to(factor) @ factor).square().sum().cpu() for row, factor in pairs])
        shared = outside_weight * (self.deviations / n).square() + opened
        own = (outside_weight * self.outside + self.open) / n
        found: Tensor = ((1 - 1 / n) * shared + own / n).sqrt()
        return found


@dataclass(frozen=True)
class SetCalibration:
    """What the sets were like that cross-validation left out; raw deviations are of energies per atom."""

    within_95: float  # what the raw deviation of a set's mean error is multiplied with, for 95 %
    typical: float  # raw deviation of half of the left-out structures
    limit: float  # raw deviation that the typical structure of a set like the training data stays below
    sets: int  # folds that this stands on

    @classmethod
    def of(
        cls,
        deviations: Float64[Tensor, " structures"],
        fold: Int64[Tensor, " structures"],
        ratios: Float64[Tensor, " folds"],
        within_95: float,
    ) -> SetCalibration:
        """From held-out structures.

        Args:
            deviations: raw, of energies per atom.
            fold: that each structure was left out with.
            ratios: mean errors of the folds over their raw deviations, of which the largest counts.
            within_95: the same of single structures, the least that is taken.
        """
        medians = [float(deviations[fold == f].median()) for f in fold.unique().tolist()]
        return cls(
            within_95=max([within_95, *ratios.abs().tolist()]),
            typical=float(deviations.median()),
            limit=max([float(deviations.quantile(_PART)), *medians]),
            sets=len(ratios),
        )

"""What candidates are compared by: one number from the cross-validated errors of the kinds of rows."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass
from typing import final

from mekrr_scale.arrays import KINDS, ByKind, RowKind


@final
@dataclass(frozen=True)
class Balanced:
    """The geometric mean of the squared errors, (prod_k RMSE_k^2)^(1/n) over n kinds of rows.

    A change of units multiplies every candidate's score by the same number, so that no weight has to say how many
    meV/atom are worth one meV/angstrom: to be one per cent better in forces pays for one per cent in energies,
    whatever the size of either. ln(score)/2 is the mean of the logarithms of the errors, to first order the mean of
    their relative distances from any one candidate's.

    Args:
        kinds: those whose errors count, as far as there are rows of them.
    """

    kinds: frozenset[RowKind]


Criterion = ByKind[float] | Balanced  # the weights of a sum of mean squared errors, or their geometric mean


def score(criterion: Criterion, rmse: ByKind[float], known: Container[RowKind] = ()) -> float:
    """What is minimised. Infinite where an error that counts is not finite, or none is known.

    Args:
        rmse: errors by kind; NaN without rows.
        known: kinds that there are rows of: an error of these that is not a number is no error of zero.
    """
    if isinstance(criterion, Balanced):
        parts = {kind: rmse[kind] ** 2 for kind in RowKind if kind in criterion.kinds}
    else:
        parts = {kind: weight * rmse[kind] ** 2 for kind, weight in criterion.items() if weight > 0}
    found = [value for kind, value in parts.items() if kind in known or not math.isnan(value)]
    if not found or not all(map(math.isfinite, found)):
        return math.inf
    return math.prod(found) ** (1 / len(found)) if isinstance(criterion, Balanced) else sum(found)


def criterion_text(criterion: Criterion) -> str:
    """For captions: what is ordered by."""
    if isinstance(criterion, Balanced):
        names = ", ".join(KINDS[kind].name for kind in RowKind if kind in criterion.kinds)
        return f"the geometric mean of errors: {names}; of large folds, too"
    return "squared errors: " + " + ".join(f"{w:g} {KINDS[kind].name}" for kind, w in criterion.items() if w)

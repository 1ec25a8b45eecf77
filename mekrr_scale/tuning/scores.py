"""How candidates are compared: one error, and what it will be with more data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mekrr_scale.arrays import KINDS, kind_named
from mekrr_scale.tuning.arms import Arm

_SLOPES = (0.05, 1.0)  # of learning curves, in their logarithms: no errors that grow, none that fall faster
_USUAL = 0.35


@dataclass(frozen=True)
class Score:
    """A candidate on a subset."""

    arm: Arm
    frames: int
    directions: str
    errors: Mapping[str, float]  # cross-validated, eV/atom and eV/angstrom
    value: float  # what it is compared by: their geometric mean, folds told apart
    failed: str = ""  # why there are none
    seconds: float = 0.0  # that its fit took


def slope(scores: Iterable[Score]) -> float:
    """How fast errors fall with the number of frames: error ~ frames^-slope, over all candidates with two points.

    Single curves are noisy: the median is taken, within bounds.
    """
    curves: dict[Arm, list[Score]] = {}
    for one in scores:
        if not one.failed and one.value > 0:
            curves.setdefault(one.arm, []).append(one)
    found = [fitted(points) for points in curves.values() if len({point.frames for point in points}) > 1]
    return float(np.clip(np.median(found), *_SLOPES)) if found else _USUAL


def fitted(points: Sequence[Score]) -> float:
    """The slope of one learning curve, by least squares of the logarithms."""
    x = np.log([point.frames for point in points])
    y = np.log([point.value for point in points])
    return float(-np.polyfit(x, y, 1)[0])


def projected(one: Score, frames: float, slope: float) -> float:
    """The error of a candidate with more frames, along its learning curve."""
    return float(one.value * (max(frames, one.frames) / one.frames) ** -slope)


def shown_errors(errors: Mapping[str, float]) -> str:
    """In the units of reports.

    >>> shown_errors({"energy_rmse": 0.00123, "force_rmse": 0.0456})
    'energy 1.23 meV/atom, force 45.6 meV/A'
    """
    pieces = []
    for name, value in errors.items():
        kind = name.removesuffix("_rmse")
        unit = KINDS[kind_named(kind)].unit
        pieces.append(f"{kind} {unit.factor * value:.3g} {unit.short}")
    return ", ".join(pieces)

"""What limits the errors, in words, each with the number that it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.report.results import Measured, Quantity, Results
from mekrr_scale.report.statistics import PowerLaw

_FLAT = 0.97  # what twice of something leaves of the error where it does not pay
_TIMES = 1.5  # error of a test over that of the cross-validation that is too much
_FEW = 100  # structures


def advice(found: Results) -> list[str]:
    """Sentences, the most important first."""
    return [*_limits(found), *_tests(found), *_outliers(found.measured), *_intervals(found.measured)]


def _limits(found: Results) -> Iterator[str]:
    data = [(curve.quantity, curve.law.with_twice) for curve in found.curves if curve.law is not None]
    landmarks = list(_by_landmarks(found))
    for quantity, left in sorted(data, key=lambda item: item[1]):
        if left < _FLAT:
            yield (
                f"The {quantity} error is limited by data: by the learning curve twice the structures would give "
                f"{_percent(left)}. mekrr-scale select chooses those that the model would learn most from."
            )
        else:
            yield f"More data of the same kind hardly help the {quantity} error: twice as many give {_percent(left)}."
    for quantity, left in landmarks:
        if left < _FLAT:
            yield f"The {quantity} error is limited by landmarks: 2x gives {_percent(left)} (--landmarks)."
        else:
            yield f"More landmarks hardly help the {quantity} error: 2x gives {_percent(left)}."
    if not landmarks and found.about.landmarks:
        yield (
            f"Whether more landmarks than {found.about.landmarks} would help was not tried: fit --grow-landmarks "
            f"{2 * found.about.landmarks} tells."
        )
    if data and all(left >= _FLAT for _, left in [*data, *landmarks]):
        yield (
            "What is left is limited by the features, or by the labels' own scatter: try another backbone or layer, "
            "invariants (extract --invariants products), or mekrr-scale tune, which races them."
        )


def _by_landmarks(found: Results) -> Iterator[tuple[str, float]]:
    """Quantity, and what twice the landmarks would leave of its error, by the numbers that were tried."""
    if len(found.growth) < 2:
        return
    steps = sorted(found.growth, key=lambda step: step[0])
    for name in steps[0][1]:
        (before, low), (after, high) = ((count, errors.get(name)) for count, errors in steps[-2:])
        if low and high and after > before:
            law = PowerLaw.fitted(_pair(before, after), _pair(low, high))
            if law is not None:
                yield name.removesuffix("_rmse"), law.with_twice


def _pair(first: float, second: float) -> Float64[ndarray, "2"]:
    return np.array([first, second], dtype=np.float64)


def _tests(found: Results) -> Iterator[str]:
    held = next((each for each in found.measured if not each.test), None)
    for test in (each for each in found.measured if each.test):
        before, after = None if held is None else held.quantity("energy"), test.quantity("energy")
        if before is None or after is None:
            continue
        span = after.total.rmse_95
        times = after.total.rmse / before.total.rmse if before.total.rmse else 1.0
        if times > _TIMES and span is not None and span[0] > before.total.rmse:
            yield (
                f"{test.name} is harder than what cross-validation left out: its energy RMSE is {times:.1f} times as "
                "large. Look at the map for environments that the training data lack, and add some of them."
            )


def _outliers(measured: Sequence[Measured]) -> Iterator[str]:
    number = sum(item.doubtful for each in measured for item in each.worst)
    if number:
        yield (
            f"{'Some labels' if number > 1 else 'A label'} may be wrong: see the worst structures; fit --drop-outliers "
            "leaves them out."
        )


def _intervals(measured: Sequence[Measured]) -> Iterator[str]:
    for each in (one for one in measured if one.test):
        for quantity in each.quantities:
            inside = within(quantity)
            if inside is not None and quantity.total.structures >= _FEW and abs(inside - 0.68) > 0.1:
                word = "narrow" if inside < 0.68 else "wide"
                yield (
                    f"68 % intervals of the {quantity.name} hold {100 * inside:.0f} % of the errors on {each.name}: "
                    f"they are too {word}."
                )


def within(quantity: Quantity, times: float = 1.0) -> float | None:
    """Part of the errors that lie within so many times their 68 % interval; None where there are no intervals."""
    rows = quantity.rows
    if not rows.interval:
        return None
    inside = [
        abs(p - r) <= times * half for p, r, half in zip(rows.predicted, rows.reference, rows.interval, strict=True)
    ]
    return sum(inside) / len(inside)


def _percent(left: float) -> str:
    change = round(100 * (left - 1))
    return f"{change:+d} %" if change else "no change"

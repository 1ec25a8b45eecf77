"""Errors with intervals, and power laws, against obvious twins."""

import numpy as np
import pytest

from mekrr_scale.report import PowerLaw, scored


def test_a_score():
    reference, predicted = np.array([0.0, 1.0, 3.0]), np.array([0.0, 2.0, 1.0])
    found = scored(reference, predicted, np.array([0, 1, 1]))
    assert (found.rows, found.structures) == (3, 2)
    assert found.mae == pytest.approx(1.0)
    assert found.rmse == pytest.approx(np.sqrt(5 / 3))
    assert found.r2 == pytest.approx(1 - 5 / ((reference - 4 / 3) ** 2).sum())
    assert scored(np.empty(0), np.empty(0), np.empty(0, np.int64)) is None
    assert scored(np.ones(2), np.ones(2), np.zeros(2, np.int64)).mae_95 is None
    assert scored(np.ones(4), np.zeros(4), np.arange(4)).r2 is None


def test_intervals_are_those_of_samples_of_structures():
    """Against a loop over samples that draws structures with all of their rows."""
    rng = np.random.default_rng(1)
    structure = np.repeat(np.arange(40), 3)
    error = rng.normal(size=40)[structure] + 0.1 * rng.normal(size=120)
    found = scored(np.zeros(120), error, structure)
    drawn = []
    for _ in range(4000):
        chosen = rng.integers(0, 40, 40)
        rows = np.concatenate([error[structure == each] for each in chosen])
        drawn.append(np.sqrt((rows**2).mean()))
    assert found.rmse_95 == pytest.approx(np.percentile(drawn, [2.5, 97.5]), rel=0.03)
    apart = scored(np.zeros(120), error, np.arange(120))
    assert np.diff(apart.rmse_95) < 0.75 * np.diff(found.rmse_95)  # as if the rows knew nothing of one another


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(200):
        low, high = scored(np.zeros(80), rng.normal(size=80), np.arange(80)).rmse_95
        inside += low <= 1.0 <= high
    assert 0.88 <= inside / 200 <= 0.98


@pytest.mark.parametrize(
    ("errors", "exponent"), [((8, 4, 2), 1.0), ((9, 8, 1), 1.0), ((1, 2, 3), 0.0), ((4, 4, 2**1.5), 0.5)]
)
def test_what_more_data_give_is_told_by_the_last_doubling(errors, exponent):
    law = PowerLaw.ahead(np.array([10.0, 20.0, 40.0]), np.array(errors, float))
    assert law.exponent == pytest.approx(exponent)
    assert law.at(40) == pytest.approx(errors[-1])
    assert law.at(80) == pytest.approx(errors[-1] * law.with_twice)
    assert PowerLaw.ahead(np.array([10.0]), np.array([1.0])) is None


def test_one_fold_does_not_say_what_more_data_give():
    """One fold of three held a structure that the model of half of the data had no neighbour of."""
    sizes, folds = np.array([20.0, 40.0]), [np.array([4.0, 2.0**1.5]), np.array([60.0, 3.0]), np.array([4.0, 3.5])]
    pooled = np.sqrt(np.mean(np.square(folds), axis=0))
    assert PowerLaw.ahead(sizes, pooled).exponent == 1.0
    law = PowerLaw.ahead(sizes, pooled, folds)
    assert law.exponent == pytest.approx(0.5)
    assert law.at(40) == pytest.approx(pooled[-1])
    assert PowerLaw.ahead(sizes, pooled, [np.array([np.nan, 1.0])]) is None


def test_a_power_law():
    sizes = np.array([10.0, 20.0, 40.0])
    law = PowerLaw.fitted(sizes, 3 * sizes**-0.5)
    assert (law.factor, law.exponent) == pytest.approx((3.0, 0.5))
    assert law.at(80) == pytest.approx(3 / np.sqrt(80))
    assert law.with_twice == pytest.approx(np.sqrt(0.5))
    assert PowerLaw(1.0, -0.3).with_twice == 1.0
    assert PowerLaw.fitted(sizes[:1], sizes[:1]) is None

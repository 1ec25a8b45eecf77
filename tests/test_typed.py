"""Plans take what tests/typed.py writes, which mypy finds right."""

import pytest

import mekrr_scale as ms
from mekrr_scale.errors import ConfigError
from tests import typed


def test_what_is_written_is_taken():
    first, second, third, fourth, *_ = plans = typed.written()
    assert len(plans) > 10
    assert first.landmarks == ms.LandmarkPlan(count=100)
    assert second.kernel.length_scales == (ms.LengthScale(2.0),)
    assert (second.solver, second.validation.folds) == (ms.Falkon(), 3)
    assert third.rows.weights["force"] == (0.01,)
    assert third.solver == ms.Exact()
    assert fourth.solver.ridges == (1e-6,)
    assert typed.kept() == ((0.5, 1.0), ms.LengthScale(4.0), "gaussian", None, 9)


@pytest.mark.parametrize("wrong", typed.WRONG)
def test_what_is_wrong_is_refused(wrong):
    with pytest.raises(ConfigError):
        wrong()


@pytest.mark.parametrize("weights", [{"force": -1.0}, {"force": "1,nan"}, {"energy": float("inf")}])
def test_weights_of_rows_are_not_negative(weights):
    with pytest.raises(ConfigError, match=r"weight (-1\.0|nan|inf) of (force|energy) rows: give a number from 0"):
        ms.FitPlan(rows={"weights": weights})
    with pytest.raises(ConfigError, match="weight -0.0001 of force rows"):
        ms.Validation(criterion=(1.0, -1e-4))

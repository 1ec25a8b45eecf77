"""Wrong labels stand out among those that the models of the other folds give."""

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.pipeline import ExtractPlan, FitPlan, RowPlan, Validation, extract, fit
from mekrr_scale.structures import LabelKeys
from tests.crystals import crystals

COUNT = 60
WRONG = {"energy": 11, "force": 29, "stress": 47}


@pytest.fixture(scope="module")
def planted(spec, tmp_path_factory):
    """Copper by EMT with an energy 1 eV off, forces of the other sign, and a stress in GPa."""
    frames = crystals(COUNT, seed=5)
    for atoms in frames:
        atoms.rattle(0.05, seed=int(1e4 * atoms.get_volume()) % 1000)
    from ase.calculators.emt import EMT

    for place, atoms in enumerate(frames):
        atoms.calc = EMT()
        found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        if place == WRONG["energy"]:
            found["energy"] += 1.0
        if place == WRONG["force"]:
            found["forces"] = -found["forces"]
        if place == WRONG["stress"]:
            found["stress"] = found["stress"] * 160.2
        atoms.calc = SinglePointCalculator(atoms, free_energy=found["energy"], **found)
    plan = ExtractPlan(derivatives=6, strain=True)
    return extract(frames, tmp_path_factory.mktemp("planted") / "s", plan).store


def test_planted_labels_are_the_first_that_are_listed(planted):
    report = fit(planted, FitPlan(landmarks=100, validation=Validation(folds=5)))
    first = {item.name.split()[1]: item.kind.name.lower() for item in report.outliers[:5]}
    assert {str(place): kind for kind, place in WRONG.items()}.items() <= first.items()
    assert "off by" in str(report.outliers[0])
    assert report.to_dict()["outliers"][0]["ratio"] == report.outliers[0].ratio > 3


def test_they_are_left_out_where_that_is_asked_for(planted):
    kept = fit(planted, FitPlan(landmarks=100))
    dropped = fit(planted, FitPlan(landmarks=100, rows=RowPlan(drop_outliers=True)))
    assert dropped.metrics()["energy_rmse"] < 0.5 * kept.metrics()["energy_rmse"]
    assert any("were left out" in remark for remark in dropped.remarks)


def test_right_labels_are_mostly_silent(toy_structures, spec, tmp_path):
    store = extract(toy_structures, tmp_path / "s", ExtractPlan(spec, derivatives=4, keys=LabelKeys())).store
    report = fit(store, FitPlan(landmarks=40))
    assert len(report.outliers) <= 2
    assert np.isfinite([item.ratio for item in report.outliers]).all()

"""Wrong labels stand out among those that the models of the other folds give."""

from dataclasses import replace

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.arrays import RowKind
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, RowPlan, Validation, extract, fit
from mekrr_scale.report import results_of
from mekrr_scale.solvers import Direct, Exact
from mekrr_scale.store import FeatureStore, FeatureWriter
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


@pytest.mark.parametrize("solver", [Direct(), Exact()])
def test_sizes_differ_without_a_posterior(tmp_path, solver):
    """Structures of 100 atoms among those of two, with the same noise per atom: energies are compared per atom."""
    rng = np.random.default_rng(0)
    with FeatureWriter(tmp_path / "s", "own 1.0", dim=3, dtype="float64") as writer:
        for place in range(120):
            count = 100 if place % 30 == 0 else 2
            features = rng.normal(size=(count, 3))
            energy = np.sin(features).sum() + count * (0.005 * rng.normal() + 0.5 * (place == 41))
            writer.add(np.full(count, 6), features, energy=float(energy))
    plan = FitPlan(KernelPlan(length_scales="4x"), solver=solver, validation=Validation(uncertainty=False))
    if not solver.whole_structures:
        plan = replace(plan, landmarks=LandmarkPlan(count=200))
    listed = [int(item.name.split()[1]) for item in fit(FeatureStore(tmp_path / "s"), plan).outliers]
    assert listed[0] == 41
    assert not {0, 30, 60, 90} & set(listed)


SMALL = FitPlan(KernelPlan(length_scales="2x"), LandmarkPlan(count=40), "composition", validation=Validation(folds=3))


def two_stores(frames, spec, folder, names=("few", "many")):
    """The first third of some structures, and the others."""
    plan = ExtractPlan(spec, derivatives=3, strain=True)
    parts = frames[: len(frames) // 3], frames[len(frames) // 3 :]
    return [extract(part, folder / name, plan).store for name, part in zip(names, parts, strict=True)]


def test_each_of_several_stores_has_its_errors(toy_structures, spec, tmp_path):
    stores = two_stores(toy_structures, spec, tmp_path)
    report = fit(stores, replace(SMALL, rows=RowPlan(store_weights=(1.0, 0.1))))
    assert list(report.stores) == ["few", "many"]
    for store, found in zip(stores, report.stores.values(), strict=True):
        own = {int(number) for batch in store for number in batch.ids}
        assert found[RowKind.ENERGY].count == store.n_structures
        for kind, rows in report.rows.items():
            squares = {number: [] for number in own}
            errors = (rows.predicted - rows.reference).square().tolist()
            for number, square in zip(rows.ids.tolist(), errors, strict=True):
                if number in own:
                    squares[number].append(square)
            means = [np.mean(each) for each in squares.values() if each]
            assert found[kind].rmse == pytest.approx(np.sqrt(np.mean(means)), rel=1e-9)
    told = report.to_dict()["stores"]["few"]
    assert told["energy_rmse"] == 1e3 * report.stores["few"][RowKind.ENERGY].rmse
    table = next(each for each in report.tables() if each.title == "Cross-validated errors by store")
    assert [row[:2] for row in table.rows] == [("few", "8"), ("many", "16")]
    page = next(each for each in results_of(report, stores).measured if not each.test)
    assert page.quantity("energy").by_store["many"].structures == 16
    assert page.quantity("energy").by_store["few"].rmse == pytest.approx(told["energy_rmse"])


def test_stores_in_folders_of_one_name_are_told_by_their_paths(toy_structures, spec, tmp_path):
    stores = two_stores(toy_structures, spec, tmp_path, ("a/features", "b/features"))
    report = fit(stores, SMALL)
    assert list(report.stores) == [str(store.path) for store in stores]


def test_a_store_whose_structures_weigh_nothing_is_listed_without_errors(toy_structures, spec, tmp_path):
    """Errors of the other do not come to stand in its place."""
    frames = [atoms.copy() for atoms in toy_structures]
    for place, (atoms, labelled) in enumerate(zip(frames, toy_structures, strict=True)):
        atoms.calc = labelled.calc
        atoms.info["config_weight"] = float(place >= 8)
    report = fit(two_stores(frames, spec, tmp_path), SMALL)
    assert report.stores["few"] == {}
    assert report.stores["many"][RowKind.ENERGY].count == 16
    table = next(each for each in report.tables() if each.title == "Cross-validated errors by store")
    assert table.rows[0] == ("few", "0", "-", "-", "-")


def test_one_store_has_no_errors_of_its_own(planted):
    assert not fit(planted, SMALL).stores

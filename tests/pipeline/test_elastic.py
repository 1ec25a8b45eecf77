"""The backbone's stiffness of a crystal as rows of a fit, where labels say nothing of strain."""

from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.arrays import RowKind
from mekrr_scale.backbones import BackboneEnergies, load_backbone
from mekrr_scale.models import Potential
from mekrr_scale.pipeline import ExtractPlan, FitPlan, LandmarkPlan, RowPlan, Validation, compare, extract, fit
from mekrr_scale.pipeline.fitting.data import FitData
from mekrr_scale.solvers import Direct
from tests.crystals import coppers, crystals, without_stress


@pytest.fixture(scope="module")
def frames():
    return coppers(24)


@pytest.fixture(scope="module")
def store(frames, tmp_path_factory):
    return extract(frames, tmp_path_factory.mktemp("elastic") / "s", ExtractPlan(derivatives=6)).store


def plan(**rows):
    return FitPlan(
        kernel={"length_scales": "16x"}, landmarks=60, baseline="backbone", rows=RowPlan(**rows),
        validation=Validation(folds=4, uncertainty=False),
    )  # fmt: skip


def stiffness(potential, length=3.6126, strain=0.01):
    """The virial of a cell that is larger by a strain less that of one that is smaller, eV/atom, by stresses."""
    found = []
    for side in (1, -1):
        atoms = bulk("Cu", cubic=True, a=length * (1 + side * strain))
        stress = potential.predict(atoms, forces=False, stress=True).stress[0]
        found.append(side * float(stress.trace()) * atoms.get_volume() / len(atoms))
    return sum(found)


def test_rows_are_the_networks_own_stiffness(store):
    rows = list(FitData.open(store, plan()).elastic)
    assert len(rows) == 4
    network = BackboneEnergies(load_backbone("sevennet"))
    length = 3.6126  # its own at rest
    for batch, strain in zip(rows, (0.005, 0.01, 0.02, 0.04), strict=True):
        assert batch.directions.kind.tolist() == [int(RowKind.ELASTIC)]
        assert int(batch.n_atoms[0]) == 2  # of the primitive cell, twice
        expected = 0.0
        for side in (1, -1):
            atoms = bulk("Cu", cubic=True, a=length * (1 + side * strain))
            stress = network.predict(atoms, forces=False, stress=True).stress[0]
            expected += side * float(stress.trace()) * atoms.get_volume() / len(atoms)
        assert float(batch.directions.label) == pytest.approx(expected * 0.01 / strain, rel=0.01)


def test_they_hold_the_stiffness_that_the_data_do_not_tell(store):
    network = BackboneEnergies(load_backbone("sevennet"))
    own = stiffness(network)
    errors = {}
    for weight in (0.0, 100.0):
        report = fit(store, plan(weights={"elastic": weight}))
        assert report.solution.weights[RowKind.ELASTIC] == weight
        errors[weight] = abs(stiffness(Potential(report.model)) - own)
    assert errors[100.0] < 0.3 * errors[0.0]


def test_by_default_they_are_there_and_choose_nothing(store):
    """They weigh as rows that are wrong by 0.11 eV/atom, energies as wrong as cross-validation says."""
    report = fit(store, plan())
    first = fit(store, plan(weights={"elastic": 3e-3}))
    right = (first.chosen.rmse[RowKind.ENERGY] / 0.11) ** 2
    assert right < 1e-5  # EMT without noise
    assert report.solution.weights[RowKind.ELASTIC] == pytest.approx(right, rel=1e-12)
    assert any(f"bulk modulus weigh {right:.1e}" in remark for remark in report.remarks)
    assert sum(line is report.chosen for line in report.tried) == 1
    assert len(report.tried) == len(first.tried)
    assert [line.header() for line in compare(store, plan()).tried] == [line.header() for line in report.tried]
    assert set(report.metrics()) == {"energy_mae", "energy_rmse", "force_rmse"}
    assert not any("elastic" in name for table in report.tables() for name in table.columns)
    own = stiffness(BackboneEnergies(load_backbone("sevennet")))
    # landmarks enough for the data, too: nothing but the ridge is against it
    small = fit(store, replace(plan(), landmarks=LandmarkPlan(count=200), solver=Direct((1e-10,)))).model
    assert stiffness(Potential(small)) == pytest.approx(own, rel=0.01)


def noisy(frames, size):
    """Labels that are wrong by so much, eV/atom; the perfect crystal stays the lowest."""
    found = []
    for k, atoms in enumerate(frames):
        copy = atoms.copy()
        wrong = size * len(atoms) * (np.random.default_rng(k).standard_normal() if k else -2.5)
        copy.calc = SinglePointCalculator(
            copy, **{**atoms.calc.results, "energy": atoms.calc.results["energy"] + wrong}
        )
        found.append(copy)
    return found


def test_the_weight_follows_the_noise(frames, tmp_path):
    """One that is right within a factor of two stays."""
    for size, solver in ((0.006, "direct"), (0.06, "direct"), (0.06, "falkon")):
        found = extract(noisy(frames, size), tmp_path / f"{size}", ExtractPlan(derivatives=2)).store
        weights = {"force": 1e-3}
        report = fit(found, replace(plan(weights=weights), solver=solver))
        expected = 3e-3 if size == 0.006 else pytest.approx((0.06 / 0.11) ** 2, rel=0.5)
        assert report.solution.weights[RowKind.ELASTIC] == expected, (size, solver)
        assert report.plan.rows.weights["elastic"] == (3e-3,)


def test_without_folds_nothing_is_known_of_the_noise(store):
    one = FitPlan(
        kernel={"length_scales": "4x"}, landmarks=30, baseline="composition", solver=Direct(ridges=1e-6),
        rows=RowPlan(weights={"force": 1e-2}), validation=Validation(folds=0, uncertainty=False),
    )  # fmt: skip
    assert fit(store, one).solution.weights[RowKind.ELASTIC] == 3e-3


def test_a_weight_that_is_given_stays(store):
    """Also one that expected errors of the labels give."""
    for rows, weight in (
        ({"weights": {"elastic": 3e-3}}, 3e-3),
        ({"sigmas": "default=0.002:0.1:0.05"}, (0.002 / 0.11) ** 2),
        ({"sigmas": "default=0.002:0.1:0.05", "weights": {"elastic": 0.0}}, 0.0),
    ):
        report = fit(store, plan(**rows))
        assert report.solution.weights[RowKind.ELASTIC] == pytest.approx(weight), rows


def test_where_labels_tell_of_strain_or_there_is_no_crystal(store, frames, spec, tmp_path):
    """Of every other store the weight is zero by default."""
    molecules = [molecule("H2O") for _ in range(6)]
    for seed, atoms in enumerate(molecules):
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        without_stress(atoms)
    others = {
        "stressed": (crystals(6, seed=1), ExtractPlan(derivatives=4, strain=True)),
        "energies": (frames[:6], ExtractPlan()),
        "molecules": (molecules, ExtractPlan(derivatives=4)),
        "untrained": (frames[:6], ExtractPlan(spec, derivatives=4)),  # whose stress nobody trained
    }
    few = FitPlan(landmarks=10, validation=Validation(folds=2, uncertainty=False))
    for name, (structures, how) in others.items():
        report = fit(extract(structures, tmp_path / name, how).store, few)
        assert report.solution.weights[RowKind.ELASTIC] == 0.0, name


def test_a_crystal_whose_labels_are_dropped_or_corrected(frames, tmp_path):
    """The lowest structure may be the one with a wrong energy, or count no longer: rows are no part of any fold."""
    wrong = [atoms.copy() for atoms in frames]
    for atoms, right in zip(wrong, frames, strict=True):
        atoms.calc = SinglePointCalculator(atoms, **right.calc.results)
    wrong[0].calc.results["energy"] -= 2.0
    path, folder = tmp_path / "cu.xyz", tmp_path / "s"
    ase.io.write(path, wrong)
    how = ExtractPlan(derivatives=6)
    first = fit(extract(path, folder, how).store, plan(drop_outliers=True))
    assert any("were left out" in remark for remark in first.remarks)
    assert first.model.structure is None  # the only shard's sample was the one with the wrong energy
    ase.io.write(path, frames)
    again = fit(extract(path, folder, how).store, plan())
    assert again.model.structure is not None


def test_the_same_fit_to_the_bit(store):
    first, second = (fit(store, plan()).model for _ in range(2))
    assert torch.equal(first.coefficients, second.coefficients)


def test_kept_sums_are_without_them(store, tmp_path):
    one = FitPlan(
        kernel={"length_scales": "4x"}, landmarks=30, baseline="composition", solver=Direct(ridges=1e-6),
        rows=RowPlan(weights={"energy": 1.0, "force": 1e-2}), validation=Validation(folds=0, uncertainty=False),
    )  # fmt: skip
    kept = fit(store, one, sums=tmp_path / "sums").model
    plain = fit(store, FitPlan(**{**vars(one), "rows": RowPlan(weights={"energy": 1.0, "force": 1e-2, "elastic": 0})}))
    torch.testing.assert_close(kept.coefficients, plain.model.coefficients, rtol=1e-6, atol=1e-9)

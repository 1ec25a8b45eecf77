"""Calculators, potentials, models and backbones are copied and pickled, and stay what they are."""

import copy
import pickle
import subprocess
import sys
from dataclasses import fields, replace

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk

from mekrr_scale.backbones import BackboneSpec, load_backbone, new_backbone, save_backbone
from mekrr_scale.models import MekrrCalculator, Model, Potential, PriorSpec
from mekrr_scale.pipeline import ExtractPlan, RowPlan, Validation, extract, fit
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import Entry


def rattled(atoms):
    moved = atoms.copy()
    moved.rattle(0.1, seed=5)
    return moved


COPIED = """
import pickle, sys
import numpy as np
import torch

torch.set_num_threads(1)
with open(sys.argv[1], "rb") as stream:
    calculator, atoms = pickle.load(stream)
atoms.calc = calculator
np.savez(sys.argv[2], energy=atoms.get_potential_energy(), forces=atoms.get_forces(), stress=atoms.get_stress())
"""


def test_calculators_can_be_copied_and_pickled(model_file, tmp_path):
    """Before and after use, here and in a process of its own: as joblib and multiprocessing's spawn do it."""
    atoms = rattled(bulk("C", "diamond", 3.6))
    original = MekrrCalculator(model_file, dtype="float64", uncertainty=True)
    fresh = pickle.dumps(original)
    atoms.calc = original
    expected = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    grades = original.results["extrapolation"]
    used = pickle.dumps(original)
    assert len(used) < 3 * len(fresh)  # what is made once stays behind
    for copied in (copy.deepcopy(original), pickle.loads(fresh), pickle.loads(used)):
        other = rattled(bulk("C", "diamond", 3.6))
        other.calc = copied
        assert other.get_potential_energy() == expected[0]
        assert np.array_equal(other.get_forces(), expected[1])
        assert np.array_equal(copied.results["extrapolation"], grades)
        assert copied.potential.backbone is not original.potential.backbone
        other.positions[0, 0] += 0.3  # the original's lists and results are its own
        other.get_forces()
        assert atoms.get_potential_energy() == expected[0]
    with (tmp_path / "calculator.pickle").open("wb") as stream:
        pickle.dump((original, rattled(bulk("C", "diamond", 3.6))), stream)
    command = [sys.executable, "-c", COPIED, str(tmp_path / "calculator.pickle"), str(tmp_path / "found.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    for name, value in zip(("energy", "forces", "stress"), expected, strict=True):
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-13)


def test_models_and_potentials_can_be_copied_and_pickled(fitted, toy_structures, store):
    model = fitted.model
    batch = next(iter(FeatureStore(store)))
    energies = model.energies(batch)
    lean = len(pickle.dumps(Model(**{f.name: getattr(model, f.name) for f in fields(model)})))
    assert len(pickle.dumps(model)) < 1.05 * lean
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied.energies(batch), energies)
        assert (copied.kernel.atom, copied.kernel.mixing) == (model.kernel.atom, model.kernel.mixing)
        assert copied.validation == model.validation
    potential = Potential(model, dtype=torch.float64)
    expected = potential.predict(toy_structures[:4])
    inside = potential.uncertainty(toy_structures[:4])
    for copied in (copy.deepcopy(potential), pickle.loads(pickle.dumps(potential))):
        found = copied.predict(toy_structures[:4])
        assert torch.equal(found.energy, expected.energy)
        assert torch.equal(found.forces, expected.forces)
        assert torch.equal(copied.uncertainty(toy_structures[:4]).grade, inside.grade)
        assert copied.backbone.identity() == potential.backbone.identity()


def test_potentials_of_other_models_can_be_copied(store, small_plan, model_file, toy_structures, spec, tmp_path):
    """A model that corrects another one brings it along."""
    ase.io.write(tmp_path / "toy.xyz", toy_structures, format="extxyz")
    prior = PriorSpec.parse(str(model_file), Entry())
    extract(tmp_path / "toy.xyz", tmp_path / "store", ExtractPlan(spec, dtype="float64", prior=prior))
    plan = replace(
        small_plan,
        baseline="prior",
        rows=RowPlan(derivatives=False),
        validation=Validation(folds=3, uncertainty=False),
    )
    potential = Potential(fit(tmp_path / "store", plan).model, dtype=torch.float64)
    expected = potential.predict(toy_structures[:3])
    found = pickle.loads(pickle.dumps(potential)).predict(toy_structures[:3])
    assert torch.equal(found.energy, expected.energy)
    assert torch.equal(found.forces, expected.forces)


@pytest.mark.parametrize("name", ["chgnet", "sevennet", "schnet", "dimenet++"])
def test_copies_of_backbones_are_the_same(name, tmp_path):
    """Identity, features, and what a checkpoint of the copy gives."""
    backbone = new_backbone(BackboneSpec(name))
    atoms = rattled(bulk("Si"))
    expected = backbone.features(atoms)
    copied = pickle.loads(pickle.dumps(backbone))
    assert copied.identity() == backbone.identity()
    assert torch.equal(copied.features(atoms), expected)
    save_backbone(copied, tmp_path / "copy.pt")
    again = load_backbone(name, checkpoint=str(tmp_path / "copy.pt"))
    assert again.identity().weight_hash == backbone.identity().weight_hash
    assert torch.equal(again.features(atoms), expected)

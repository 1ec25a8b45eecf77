"""Charge and spin, which features do not know: one of each in a training set, and the same where the model is used."""

import json
from dataclasses import replace
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from mekrr_scale.checks import CHECKS, check
from mekrr_scale.engines.lammps import External, Settings
from mekrr_scale.errors import ModelError, StoreError, StructureError
from mekrr_scale.models import MekrrCalculator, Model, Potential
from mekrr_scale.pipeline import ExtractPlan, evaluate, evaluate_store, extract, fit, predict
from mekrr_scale.store import FeatureStore, merge
from mekrr_scale.structures import (
    Calculated,
    Electrons,
    Entering,
    Entry,
    Labels,
    bare,
    conventional_cell,
    require_electrons,
)
from mekrr_scale.transfer import Example
from mekrr_scale.tuning import TunePlan
from mekrr_scale.tuning.frames import gathered


def charged(structures, name="charge", values=(1,)):
    """Copies that say it, some after another."""
    found = []
    for k, atoms in enumerate(structures):
        copy = atoms.copy()
        copy.calc = atoms.calc
        if values[k % len(values)] is not None:
            copy.info[name] = values[k % len(values)]
        found.append(copy)
    return found


@pytest.fixture(scope="module")
def plan(spec):
    return ExtractPlan(spec, dtype="float64", group_key="trajectory")


@pytest.fixture(scope="module")
def cation(toy_structures, plan, small_plan, tmp_path_factory):
    """A store of charge 1, and a model of it."""
    folder = tmp_path_factory.mktemp("charged") / "store"
    extract(charged(toy_structures, "total_charge"), folder, plan)
    return folder, fit(folder, replace(small_plan, baseline="composition")).model


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("charge", (0, 1), r"frames have charges \(frames of each\): 0 \(12\), 1 \(12\)"),
        ("total_charge", (None, "-1"), r"-1 \(12\), 0 \(12\)"),
        ("multiplicity", (1, 1, 1, 1, 3), r"frames of \w+ have spins 1, 3"),
        ("total_spin", (2, 2, 2, 2, 4), r"have spins 2, 4"),
    ],
)
def test_mixed_states_are_refused(name, values, message, toy_structures, plan, tmp_path):
    frames = charged(toy_structures, name, values)
    with pytest.raises(StructureError, match=message) as refused:
        extract(frames, tmp_path / "s", plan)
    assert "--ignore-charge" in str(refused.value)
    assert not (tmp_path / "s" / "manifest.json").exists()
    extract(frames, tmp_path / "s", replace(plan, ignore_charge=True))
    assert FeatureStore(tmp_path / "s").header.electrons == {"ignored": True}


def test_one_charge_is_kept_in_store_and_model(cation, toy_structures, plan, tmp_path):
    folder, model = cation
    assert FeatureStore(folder).header.electrons == {"charge": 1.0}
    model.save(tmp_path / "m.mekrr")
    assert Model.load(tmp_path / "m.mekrr").electrons == {"charge": 1.0}
    with pytest.raises(StoreError, match=r"electrons: \{'charge': 1.0\} instead of \{'charge': 0.0\}"):
        extract(toy_structures, folder, plan)  # neutral ones among them


def test_stores_of_other_charges_are_not_fitted_together(cation, store, small_plan):
    with pytest.raises(StoreError, match="electrons"):
        fit([cation[0], store], small_plan)


@pytest.mark.parametrize(("said", "kept"), [((1, None), {}), ((1, 1), {"spin": 1.0})])
def test_stores_that_say_a_spin_and_others(said, kept, toy_structures, plan, small_plan, tmp_path):
    """Where not all say one, or not the same, the model has none."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, spin, frames in zip(folders, said, (toy_structures[:12], toy_structures[12:]), strict=True):
        extract(charged(frames, "spin", (spin,)), folder, plan)
    assert fit(folders, replace(small_plan, baseline="composition")).model.electrons == kept
    merge([FeatureStore(folder).path for folder in folders], tmp_path / "both")
    assert FeatureStore(tmp_path / "both").header.electrons == kept
    extract(charged(toy_structures[12:], "spin", (2,)), tmp_path / "c", plan)
    with pytest.raises(StoreError, match=r"electrons: \{'spin': 2.0\} instead of \{'spin': 1.0\}"):
        fit([folders[0], tmp_path / "c"], small_plan)


def test_tuning_refuses_mixed_charges_at_once(toy_structures, tmp_path):
    frames = charged(toy_structures, values=(0, 1))
    for training, test in ((frames, None), (toy_structures, charged(toy_structures[:4]))):
        with pytest.raises(StructureError, match="frames have charges .* --ignore-charge"):
            gathered(training, test, TunePlan())
        assert gathered(training, test, TunePlan(ignore_charge=True)).training


def test_predictions_are_of_the_charge_that_was_learned(cation, toy_structures):
    potential = Potential(cation[1])
    (ion,), neutral = charged([molecule("H2O")]), molecule("H2O")
    assert potential.predict(ion).energy.isfinite().all()
    for use in (potential.predict, potential.uncertainty, MekrrCalculator(cation[1]).get_potential_energy):
        with pytest.raises(ModelError, match="the structure has charge 0, the model was fitted to charge 1"):
            use(neutral)
    failed = []
    found = list(predict(potential, [ion, neutral], failed=failed))
    assert found[0].calc is not None
    assert found[1].calc is None
    assert "set info charge=1 of the structure" in str(failed[0])
    told = evaluate(potential, [*charged(toy_structures), toy_structures[0]])
    assert len(told.n_atoms) == len(toy_structures)
    assert "charge 0" in told.rejected[0]


def test_a_model_takes_what_it_brings_along(cation, tmp_path):
    """Of crystals the conventional cell is checked, of molecules copies; all say the charge that the sample says."""
    cation[1].save(tmp_path / "m.mekrr")
    model = Model.load(tmp_path / "m.mekrr")
    assert model.structure.info == {"charge": 1.0}
    assert Potential(model).predict(model.structure).energy.isfinite().all()
    ion = charged([molecule("H2O")], "total_charge")[0]
    every = ["motion", "extensivity", "dimers"]
    found = check(model, {"sample": model.structure, "ion": ion}, every, backbone=False).findings
    assert [finding.model is not None for finding in found] == [True] * 6
    assert conventional_cell(charged([bulk("C")])[0]).info == {"charge": 1}
    assert all(each.effort(ion)[0].info == {"total_charge": 1} for each in (CHECKS["dimers"], CHECKS["vibrations"]))


def test_engines_that_say_no_charge_are_of_the_models(cation):
    """LAMMPS' atoms have none (``lammps run``); the compiled pair style and exports do not look at it."""
    potential, water = Potential(cation[1], dtype="float64"), molecule("H2O")
    box = [0, 0, 0], [20, 20, 20], 0, 0, 0, [0, 0, 0], 0
    types = SimpleNamespace(extract_atom=lambda name: np.array([1, 2, 2]))
    external = External(SimpleNamespace(extract_box=lambda: box, numpy=types), potential, ["O", "H"], Settings())
    atoms, _ = external.structure(np.array([1, 2, 3]), water.positions + 10.0)
    ion = charged([water])[0]
    assert float(potential.predict(atoms).energy) == pytest.approx(float(potential.predict(ion).energy), abs=1e-12)


def test_priors_and_starts_keep_the_charge(cation):
    """Of a structure that enters another model, or that sampling begins from, nothing else of info is kept."""
    ion = charged([molecule("H2O")])[0]
    ion.info |= {"energy": 3.0, "name": "water", "multiplicity": 2}
    assert bare(ion).info == {"charge": 1, "multiplicity": 2}
    direct = Potential(cation[1]).predict(ion).energy
    entered = Entering(Potential(cation[1]), Entry(species={8: 8})).predict(ion).energy
    assert (
        float(entered)
        == float(direct)
        == pytest.approx(float(Calculated(MekrrCalculator(cation[1])).predict(ion).energy))
    )
    assert Example(ion, Labels(1.0, None, None), 0).frame().info == {"charge": 1, "multiplicity": 2}


def test_a_store_of_another_charge_is_not_compared(cation, store):
    with pytest.raises(ModelError, match="holds structures of charge 0, the model was fitted to charge 1"):
        evaluate_store(cation[1], FeatureStore(store))


def test_a_neutral_model_takes_no_ions(model_file):
    potential = Potential(model_file)
    assert potential.model.electrons == {}
    with pytest.raises(ModelError, match="has charge -1, the model was fitted to charge 0 .* take the key off"):
        potential.predict(charged([molecule("H2O")], values=(-1,)))
    assert potential.predict(charged([molecule("H2O")], "multiplicity", (3,))).energy.isfinite().all()  # nobody said


def test_models_of_earlier_versions_do_not_tell(model_file):
    old = Potential(replace(Model.load(model_file), electrons=None))
    assert old.predict(charged([molecule("H2O")])[0]).energy.isfinite().all()


@pytest.mark.parametrize(
    ("info", "expected"),
    [({"charge": True}, 0.0), ({"charge": "left"}, 0.0), ({"charge": [0.1, 0.2]}, 0.0),
     ({"charge": np.array([2])}, 2.0), ({"charge": "left", "total_charge": "+1"}, 1.0), ({"spin": "up"}, 0.0),
     ({}, 0.0)],
)  # fmt: skip
def test_what_says_a_charge(info, expected):
    found = Electrons()
    found.look(Atoms("H", info=info))
    assert found.charges == {expected: 1}
    assert not found.spins


def test_spins_of_other_compositions_may_differ():
    """A radical beside closed shells: the composition tells."""
    found = Electrons()
    for formula, spin in (("CH4", 1), ("CH3", 2), ("CH4", 1)):
        found.look(Atoms(formula, info={"spin": spin}))
    assert found.document(frozenset()) == {}
    one = Electrons()
    one.look(Atoms("CH3", info={"spin": 2}))
    assert one.document(frozenset()) == {"spin": 2.0}
    with pytest.raises(ModelError, match="spin 1, the model was fitted to spin 2"):
        require_electrons({"spin": 2.0}, Atoms("CH3", info={"spin": 1}), frozenset())
    require_electrons({"spin": 2.0}, Atoms("CH3"), frozenset())


def test_a_backbone_that_sees_them_takes_all():
    found = Electrons()
    for charge, spin in ((0, 1), (1, 2)):
        found.look(Atoms("H2O", info={"charge": charge, "spin": spin}))
    assert found.document(frozenset({"charge", "spin"})) == {}
    with pytest.raises(StructureError, match="have spins"):
        found.document(frozenset({"charge"}))
    require_electrons({}, Atoms("H2O", info={"charge": 2}), frozenset({"charge"}))


def test_the_command_takes_them_where_it_is_told_to(call, toy_structures, checkpoint, tmp_path):
    ase.io.write(tmp_path / "a.xyz", charged(toy_structures, values=(0, 1)))
    arguments = ["extract", "a.xyz", "-o", "s", "--backbone", "schnet", "--checkpoint", checkpoint]
    code, _, error = call(*arguments)
    assert code == 3
    assert "frames have charges" in error
    assert call(*arguments, "--ignore-charge")[0] == 0
    assert json.loads((tmp_path / "s" / "manifest.json").read_text())["header"]["electrons"] == {"ignored": True}

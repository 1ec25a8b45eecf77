"""The fitted potential: derivatives, symmetries, ASE's habits, and the model file."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError

from mekrr_scale.backbones import BackboneSpec, load_backbone
from mekrr_scale.errors import ConfigError, ModelError
from mekrr_scale.models import MekrrCalculator, Model, Potential
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan, RowPlan, Validation, evaluate, fit
from mekrr_scale.solvers import Direct
from mekrr_scale.store import FeatureStore, FeatureWriter
from tests.backbones.derivatives import ROUGH_STEP, slope

VARIANTS = [
    {"kernel": KernelPlan(length_scales="2x", alphas=0.4)},
    {"kernel": KernelPlan(length_scales="2x", alphas=1.0), "baseline": "backbone"},
    {"kernel": KernelPlan(length_scales="2x", alphas=0.4, reduce="mean")},
    {
        "kernel": KernelPlan(length_scales="2x", alphas=0.0, reduce="mean"),
        "landmarks": LandmarkPlan(method="structures", count=10),
    },
    {"kernel": KernelPlan(name="matern52", length_scales="2x", standardize="none")},
    {"kernel": KernelPlan(name="polynomial", length_scales="4x", standardize="scale")},
]


@pytest.fixture(scope="module", params=range(len(VARIANTS)))
def potential(request, store, small_plan):
    from dataclasses import replace

    plan = replace(small_plan, **VARIANTS[request.param])
    return Potential(fit(store, plan).model, dtype=torch.float64)


def rattled(atoms, seed=5, amplitude=0.1):
    moved = atoms.copy()
    moved.rattle(amplitude, seed=seed)
    return moved


def test_forces_and_stress_are_derivatives_of_the_energy(potential):
    generator = np.random.default_rng(0)
    for atoms in (rattled(molecule("CH4")), rattled(bulk("C", "diamond", 3.6).repeat((2, 1, 1)))):
        periodic = bool(atoms.pbc.any())
        found = potential.predict(atoms, stress=periodic)
        direction = generator.normal(size=(len(atoms), 3))
        skew = generator.normal(size=(3, 3))
        strain = (skew + skew.T) / 2

        def energy(move, turn, atoms=atoms, direction=direction, strain=strain):
            moved = atoms.copy()
            moved.positions += move * direction
            if turn:
                moved.set_cell(atoms.cell.array @ (np.eye(3) + turn * strain), scale_atoms=True)
            return float(potential.predict(moved, forces=False).energy[0])

        expected = -slope(lambda t, energy=energy: energy(t, 0.0), ROUGH_STEP)
        assert float((found.forces.numpy() * direction).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert np.abs(found.forces.numpy().sum(0)).max() < 1e-8
        if periodic:
            expected = slope(lambda t, energy=energy: energy(0.0, t)) / atoms.get_volume()
            assert float((found.stress[0].numpy() * strain).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-10)


def test_symmetries(potential):
    atoms = rattled(molecule("CH4"))
    found = potential.predict(atoms)
    rotated = atoms.copy()
    rotated.rotate(50, (1, 1, 0))
    order = np.array([2, 0, 1, 4, 3])
    for moved in (rotated, atoms[order]):
        assert float(potential.predict(moved).energy[0]) == pytest.approx(float(found.energy[0]), rel=1e-9)
    torch.testing.assert_close(potential.predict(atoms[order]).forces, found.forces[order], rtol=1e-7, atol=1e-9)
    assert float(found.energies.sum()) == pytest.approx(float(found.energy[0]), rel=1e-12)


def test_far_apart_structures_add(potential):
    if potential.model.kernel.reduce == "mean":
        return  # intensive: nothing adds
    a, b = rattled(molecule("CH4")), rattled(molecule("H2O"), 6)
    b.positions += 50.0
    energies = [float(potential.predict(x).energy[0]) for x in (a, b, a + b)]
    assert energies[2] == pytest.approx(energies[0] + energies[1], rel=1e-10)
    batch = potential.predict([a, b])
    assert batch.energy.tolist() == pytest.approx(energies[:2], rel=1e-10)


def test_store_and_structures_give_the_same_energies(potential, store, toy_structures):
    stored = torch.cat([potential.model.energies(batch) for batch in FeatureStore(store)])
    direct = potential.predict(toy_structures, forces=False).energy
    torch.testing.assert_close(stored, direct, rtol=1e-8, atol=1e-8)


def test_predictions_equal_dense_ridge_regression_forces_too(store, toy_structures, small_plan):
    """Exactness through the whole path: dense kernel, dense solve, forces by differences."""
    from dataclasses import replace

    from tests import reference

    plan = replace(
        small_plan, landmarks=LandmarkPlan(method="structures", count=0), validation=Validation(folds=0),
        solver=Direct((1e-3,)), kernel=KernelPlan(length_scales="2x", alphas=0.4),
        rows=RowPlan(cut=1e-12, derivatives=False),
    )  # fmt: skip
    model = fit(store, plan).model
    potential = Potential(model, dtype=torch.float64)
    batches = list(FeatureStore(store))
    structures = [s for batch in batches for s in reference.structures_of(batch)]
    gram = reference.dense_gram(model.kernel, structures, structures)
    size = torch.cat([batch.n_atoms for batch in batches]).double()
    residual = torch.cat([model.baseline.residual(batch) for batch in batches])
    c = reference.kernel_ridge(gram, residual, size**-2, 1e-3)
    backbone = potential.backbone
    atoms = rattled(toy_structures[0], 9, 0.05)

    def energy(moved):
        z, h = moved.numbers.tolist(), backbone.features(moved)
        row = reference.dense_gram(model.kernel, [(z, h)], structures)[0]
        places = [model.baseline.species.index(s) for s in z]
        return float(row @ c + model.baseline.energies[places].sum())

    found = potential.predict(atoms)
    assert float(found.energy[0]) == pytest.approx(energy(atoms), rel=1e-8)
    scale = float(found.forces.abs().max())
    for axis in range(3):
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[1, axis] += sign * 1e-4
            ends.append(energy(moved))
        assert -(ends[0] - ends[1]) / 2e-4 == pytest.approx(float(found.forces[1, axis]), abs=1e-6 * scale)


def test_training_on_forces_helps(store, small_plan, toy_structures):
    from dataclasses import replace

    without = fit(store, replace(small_plan, rows=RowPlan(derivatives=False))).model
    with_forces = fit(store, small_plan).model
    errors = [evaluate(Potential(m), toy_structures).metrics()["force_rmse"] for m in (without, with_forces)]
    assert errors[1] < 0.8 * errors[0]


def test_ase_calculator(model_file):
    atoms = rattled(bulk("C", "diamond", 3.6))
    atoms.calc = MekrrCalculator(model_file, dtype=torch.float64)
    energy = atoms.get_potential_energy()
    assert atoms.calc.results["free_energy"] == energy == atoms.get_potential_energy(force_consistent=True)
    forces, stress = atoms.get_forces(), atoms.get_stress()
    assert forces.shape == (2, 3)
    assert stress.shape == (6,)
    assert atoms.get_potential_energies().sum() == pytest.approx(energy)
    calls = []
    original = atoms.calc.calculate
    atoms.calc.calculate = lambda *a, **k: (calls.append(1), original(*a, **k))
    atoms.get_potential_energy()
    atoms.get_forces()
    assert not calls  # cached
    atoms.positions[0, 0] += 0.01
    atoms.get_forces()
    assert len(calls) == 1
    free = molecule("H2O")
    free.calc = MekrrCalculator(model_file)
    free.get_forces()
    with pytest.raises((PropertyNotImplementedError, NotImplementedError)):
        free.get_stress()
    alone = Atoms("C", positions=[(0, 0, 0)])
    alone.calc = MekrrCalculator(model_file)
    assert np.abs(alone.get_forces()).max() == 0.0


_MANY_STEPS = """
import gc, sys, tracemalloc
import torch
from ase.build import molecule
from ase.md.verlet import VelocityVerlet
from ase.units import fs
from mekrr_scale.models import MekrrCalculator

torch.set_num_threads(1)
atoms = molecule("CH4")
atoms.calc = MekrrCalculator(sys.argv[1])

def held():
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("RssAnon"))

def grown(dynamics, look):
    sizes = []
    for _ in range(2):
        dynamics.run(60)
        gc.collect()  # autograd leaves cycles until then
        sizes.append(look())
    return sizes[1] - sizes[0]

with VelocityVerlet(atoms, 0.2 * fs) as dynamics:
    dynamics.run(60)
    tensors = grown(dynamics, held)
    tracemalloc.start()
    dynamics.run(60)
    print(tensors, grown(dynamics, lambda: tracemalloc.get_traced_memory()[0]))
"""


def test_memory_does_not_grow_with_md_steps(model_file):
    """In a process of its own: what other tests allocate meanwhile is not this one's.

    Python's objects are traced; tensors, which are not among these, are seen in what the process holds.
    """
    command = [sys.executable, "-c", _MANY_STEPS, str(model_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tensors, objects = map(int, done.stdout.split())
    assert tensors < 1_000_000  # 17 kB a step; one graph has more
    assert objects < 30_000


def test_refusals(model_file, tmp_path, spec, checkpoint):
    with pytest.raises(ModelError, match="there is no model file"):
        Model.load(tmp_path / "none.mekrr")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="not a mekrr-scale model"):
        Model.load(tmp_path / "other.safetensors")
    model = Model.load(model_file)
    with pytest.raises(ModelError, match="another backbone"):
        Potential(model, load_backbone(BackboneSpec("schnet", "interaction1", checkpoint=str(checkpoint))))
    with pytest.raises(ModelError, match="Fe"):
        Potential(model).predict(Atoms("Fe", positions=[(0, 0, 0)]))
    with pytest.raises(ModelError, match="cannot write"):
        model.save(tmp_path / "no" / "folder" / "m.mekrr")
    header, rest = _header(model_file.read_bytes())
    document = json.loads(header["__metadata__"]["mekrr_scale"])
    document["schema"] = "9.0"
    header["__metadata__"]["mekrr_scale"] = json.dumps(document)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (tmp_path / "new.mekrr").write_bytes(struct.pack("<Q", len(text)) + text + rest)
    with pytest.raises(ModelError, match="this version reads"):
        Model.load(tmp_path / "new.mekrr")


def _header(data):
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def test_precisions_by_name(model_file):
    assert MekrrCalculator(model_file, dtype="float64").potential.backbone.dtype == torch.float64
    assert Potential(str(model_file)).backbone.dtype == torch.float32
    with pytest.raises(ConfigError, match="Do you mean 'float64'"):
        MekrrCalculator(model_file, dtype="flaot64")


def test_features_of_ones_own(tmp_path):
    """Numpy arrays through the public classes to a model, and predictions from another store."""
    generator = np.random.default_rng(0)
    for name, count in (("train", 60), ("test", 10)):
        with FeatureWriter(tmp_path / name, "descriptors 2", 3) as writer:
            for _ in range(count):
                n = int(generator.integers(1, 6))
                h = generator.normal(size=(n, 3)).astype(np.float32)
                writer.add(generator.choice([6, 8], n), h, energy=float(np.cos(h).sum()))
    plan = FitPlan(
        kernel=KernelPlan(alphas=0.0, length_scales="1x", standardize="none"), landmarks=LandmarkPlan(count=80)
    )
    report = fit(tmp_path / "train", plan)
    assert report.model.validation["energy_rmse"] < 0.2
    batch = next(iter(FeatureStore(tmp_path / "test")))
    error = report.model.energies(batch) - batch.energy
    assert float(error.square().mean().sqrt()) < 0.3
    with pytest.raises(ModelError, match="features of the user's own"):
        Potential(report.model)

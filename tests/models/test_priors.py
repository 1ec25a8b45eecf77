"""Prior means that are not the backbone's own: models, other backbones, lower levels of theory, other systems."""

from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.backbones import BackboneEnergies, BackboneSpec, load_backbone
from mekrr_scale.errors import ConfigError, ModelError, StructureError
from mekrr_scale.models import MekrrCalculator, Model, Potential, PriorSpec, load_prior
from mekrr_scale.models.stresses import atomic_stresses
from mekrr_scale.pipeline import (
    ExtractPlan,
    FitPlan,
    KernelPlan,
    LandmarkPlan,
    RowPlan,
    evaluate,
    evaluate_store,
    extract,
    fit,
)
from mekrr_scale.solvers import Direct
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import Calculated, Entering, Entry, LabelKeys, Labelled
from tests.backbones.derivatives import check_derivatives, structure

PLAN = FitPlan(
    kernel=KernelPlan(length_scales="2x"),
    landmarks=LandmarkPlan(count=60),
    solver=Direct((1e-8, 1e-6, 1e-4)),
    validation=3,
)


def low_level(atoms):
    """A pair potential of another strength than the labels': what a cheaper theory would say."""
    d = atoms.get_all_distances(mic=bool(atoms.pbc.any()), vector=True)
    r = np.linalg.norm(d, axis=-1) + 1e9 * np.eye(len(atoms))
    value = 0.8 * np.exp(-1.1 * r)
    forces = (1.1 * value[..., None] * -d / r[..., None]).sum(1)
    return float(0.5 * value.sum() - 3.0 * len(atoms)), forces


@pytest.fixture(scope="module")
def two_levels(toy_structures, tmp_path_factory):
    """The toy structures with the results of two levels of theory."""
    frames = []
    for atoms in toy_structures:
        frame = atoms.copy()
        results = {key: value for key, value in atoms.calc.results.items() if key in ("energy", "forces")}
        frame.calc = SinglePointCalculator(frame, **results)
        energy, forces = low_level(atoms)
        frame.info["low_energy"] = energy
        frame.arrays["low_forces"] = forces
        frames.append(frame)
    path = tmp_path_factory.mktemp("levels") / "two.xyz"
    ase.io.write(path, frames, format="extxyz")
    return path


LOW = LabelKeys("low_energy", "low_forces")


@pytest.fixture(scope="module")
def corrected(two_levels, spec, tmp_path_factory):
    """A store with the lower level as its prior, and a model of the difference."""
    folder = tmp_path_factory.mktemp("stores") / "delta"
    plan = ExtractPlan(spec, derivatives=4, dtype="float64", prior=PriorSpec.parse("labels", Entry(), LOW))
    report = extract(two_levels, folder, plan)
    assert not report.warnings
    return folder, fit(folder, PLAN).model


def test_levels_are_told_apart(two_levels):
    """The fixture's own forces are derivatives of its energies."""
    atoms = ase.io.read(two_levels, 0)
    moved = atoms.copy()
    moved.positions[1, 2] += 1e-5
    slope = (low_level(moved)[0] - low_level(atoms)[0]) / 1e-5
    assert atoms.arrays["low_forces"][1, 2] == pytest.approx(-slope, rel=1e-3)


def test_correction_is_a_fit_of_the_difference(two_levels, corrected, spec, tmp_path):
    """Against a fit to labels from which the lower level was taken by hand."""
    _, model = corrected
    frames = ase.io.read(two_levels, ":")
    differences = []
    for atoms in frames:
        frame = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        energy = atoms.get_potential_energy() - atoms.info["low_energy"]
        frame.calc = SinglePointCalculator(frame, energy=energy, forces=atoms.get_forces() - atoms.arrays["low_forces"])
        differences.append(frame)
    ase.io.write(tmp_path / "difference.xyz", differences, format="extxyz")
    extract(tmp_path / "difference.xyz", tmp_path / "f", ExtractPlan(spec, derivatives="all", dtype="float64"))
    extract(
        two_levels, tmp_path / "g",
        ExtractPlan(spec, derivatives="all", dtype="float64", prior=PriorSpec.parse("labels", Entry(), LOW)),
    )  # fmt: skip
    plan = FitPlan(
        kernel=KernelPlan(length_scales="2x"), landmarks=LandmarkPlan(method="structures", count=0),
        baseline="composition", rows=RowPlan(weights={"force": 1e-2}, cut=1e-12), solver=Direct((1e-6,)), validation=0,
    )  # fmt: skip
    by_hand = fit(tmp_path / "f", plan).model
    found = fit(tmp_path / "g", replace(plan, baseline="prior")).model
    for atoms in frames[:4]:
        expected = Potential(by_hand, dtype=torch.float64).predict(atoms)
        given = Potential(found, dtype=torch.float64).predict(atoms)
        low = torch.from_numpy(atoms.arrays["low_forces"])
        assert float(given.energy) == pytest.approx(float(expected.energy) + atoms.info["low_energy"], abs=1e-6)
        torch.testing.assert_close(given.forces, expected.forces + low, atol=1e-6, rtol=0)
    assert model.prior["kind"] == "labels"


def test_lower_level_by_a_calculator(two_levels, corrected):
    """What the files do not hold, a calculator gives; forces are derivatives of energies."""
    _, model = corrected
    atoms = ase.io.read(two_levels, 1)
    by_file = Potential(model).predict(atoms)
    other = MekrrCalculator(model, prior=_Low())
    atoms.calc = other
    assert atoms.get_potential_energy() == pytest.approx(float(by_file.energy), abs=1e-6)
    np.testing.assert_allclose(atoms.get_forces(), by_file.forces.numpy(), atol=1e-6)
    with pytest.raises(StructureError, match="prior=calculator"):
        Potential(model).predict(molecule("H2O"))
    with pytest.raises(ModelError, match="corrects another potential, whose stress has no shares of atoms"):
        atomic_stresses(other.potential, bulk("Si"))
    alone = Potential(model, prior=Calculated(LennardJones())).predict(molecule("CO"))
    assert float(alone.energies.sum()) == pytest.approx(float(alone.energy))


class _Low(LennardJones):
    """``low_level`` as a calculator."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        energy, forces = low_level(atoms)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}


def test_correction_of_a_model(toy_file, toy_structures, model_file, spec, tmp_path):
    """A second model on the first: the sum of both, from one file each."""
    source = tmp_path / "source.mekrr"
    source.write_bytes(model_file.read_bytes())
    prior = PriorSpec.parse(str(source), Entry())
    extract(toy_file, tmp_path / "f", ExtractPlan(spec, derivatives=4, strain=True, prior=prior))
    found = fit(tmp_path / "f", replace(PLAN, baseline="prior", embed=False)).model
    found.save(tmp_path / "second.mekrr")
    loaded = Model.load(tmp_path / "second.mekrr")
    potential, first = Potential(loaded, dtype=torch.float64), Potential(Model.load(source), dtype=torch.float64)
    atoms = toy_structures[2]
    whole, below = potential.predict(atoms, stress=True), first.predict(atoms, stress=True)
    assert abs(float(whole.energy - below.energy)) < 0.1
    assert bool((whole.forces != below.forces).any())
    check_derivatives(potential, atoms)
    assert len(evaluate_store(loaded, FeatureStore(tmp_path / "f")).energy) == 24
    assert evaluate(potential, toy_structures[:4]).metrics()["structures"] == 4
    extract(toy_file, tmp_path / "own", ExtractPlan(spec))
    with pytest.raises(ModelError, match="another prior"):
        evaluate_store(loaded, FeatureStore(tmp_path / "own"))
    with pytest.raises(ConfigError, match="use baseline 'prior'"):
        fit(tmp_path / "f", replace(PLAN, baseline="backbone"))
    with pytest.raises(ConfigError, match="extracted with --prior"):
        fit(tmp_path / "own", replace(PLAN, baseline="prior"))
    source.write_bytes(model_file.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="another file"):
        Potential(loaded)
    source.unlink()
    with pytest.raises(ModelError, match="not there"):
        Potential(loaded)


@pytest.mark.parametrize("length", [1.0, 0.93])
def test_priors_of_another_system(spec, length):
    """Renamed elements, scaled geometries: E(x) = E'(g x), with forces and stress its derivatives."""
    inner = BackboneEnergies(load_backbone(spec).to(dtype=torch.float64))
    entry = Entry(length, {14: 32})
    prior = Entering(inner, entry)
    germanium = structure(("Ge", "O"))
    silicon = germanium.copy()
    silicon.numbers[silicon.numbers == 32] = 14
    silicon.set_cell(length * silicon.cell, scale_atoms=True)
    found, expected = prior.predict(germanium, stress=True), inner.predict(silicon, stress=True)
    assert float(found.energy) == pytest.approx(float(expected.energy), abs=1e-9)
    torch.testing.assert_close(found.forces, length * expected.forces)
    check_derivatives(prior, germanium)


def test_backbones_as_priors(tmp_path):
    """Another backbone than that of the features, and its version."""
    pytest.importorskip("chgnet")
    spec = PriorSpec.parse("chgnet:0.2.0", Entry(0.95))
    assert spec.backbone == BackboneSpec("chgnet", version="0.2.0")
    pinned = spec.pinned()
    assert PriorSpec.from_dict(pinned.to_dict()) == pinned
    atoms = bulk("Si", cubic=True)
    shrunk = atoms.copy()
    shrunk.set_cell(0.95 * atoms.cell, scale_atoms=True)
    own = BackboneEnergies(load_backbone("chgnet", version="0.2.0"))
    assert float(load_prior(pinned).predict(atoms).energy) == pytest.approx(float(own.predict(shrunk).energy), abs=1e-5)
    other = PriorSpec.parse("chgnet:0.3.0", Entry()).pinned()
    with pytest.raises(ModelError, match="other weights"):
        load_prior(PriorSpec("backbone", backbone=spec.backbone, hash=other.hash))


def test_refused_priors(two_levels, spec, tmp_path):
    for text, message in (("nowhere.mekrr", "give a file"), ("labels", "--prior-energy-key")):
        with pytest.raises(ConfigError, match=message):
            PriorSpec.parse(text, Entry())
    with pytest.raises(ConfigError, match="length scale"):
        Entry(-1.0)
    with pytest.raises(ConfigError, match="one of the model's only"):
        Entry(1.0, {14: 32, 6: 32})
    frames = ase.io.read(two_levels, ":")
    for atoms in frames:
        atoms.info["low_energy"] *= 23.06
        atoms.arrays["low_forces"] *= 23.06
    ase.io.write(tmp_path / "kcal.xyz", frames, format="extxyz")
    plan = ExtractPlan(spec, derivatives=2, prior=PriorSpec.parse("labels", Entry(), LOW))
    with pytest.raises(ConfigError, match="kcal/mol"):
        extract(tmp_path / "kcal.xyz", tmp_path / "f", plan)
    units = LabelKeys("low_energy", "low_forces", energy_unit="kcal/mol")
    extract(tmp_path / "kcal.xyz", tmp_path / "f", ExtractPlan(spec, prior=PriorSpec.parse("labels", Entry(), units)))
    with pytest.raises(StructureError, match="has none"):
        Labelled(LOW).predict(molecule("H2O"))


def test_commands(run, two_levels, checkpoint, model_file):
    """A correction of a lower level of theory: three commands."""
    levels = ("--prior", "labels", "--prior-energy-key", "low_energy", "--prior-forces-key", "low_forces")
    extraction = ("extract", two_levels, "--backbone", "schnet", "--checkpoint", checkpoint, "--derivatives", 4)
    assert run(*extraction, "-o", "f", *levels)[0] == 0
    assert (
        run("fit", "--store", "f", "-o", "m.mekrr", "--landmarks", 40, "--validate", 3, "--baseline", "prior")[0] == 0
    )
    code, out, err = run("evaluate", "m.mekrr", two_levels)
    assert code == 0, err
    assert "68 %" in out
    code, _, err = run(*extraction, "-o", "f")
    assert code == 4
    assert "prior" in err
    assert run(*extraction, "-o", "g", "--prior", model_file)[0] == 0
    code, _, err = run(*extraction, "-o", "h", "--prior-length-scale", 0.9)
    assert code == 2
    assert "name one with --prior" in err

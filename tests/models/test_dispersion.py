"""D3 beside a model: its own numbers, derivatives, and a sum that keeps all that the model tells."""

import pickle

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import Bohr, Hartree

from mekrr_scale.errors import ConfigError, ModelError, StructureError
from mekrr_scale.models import Dispersion, MekrrCalculator, Potential, check_pieces
from mekrr_scale.models.stresses import atomic_stresses
from mekrr_scale.simulation import MdPlan, run_md
from tests.backbones.derivatives import slope
from tests.engines.cells import sheared

pytest.importorskip("dftd3")


def slab():
    atoms = bulk("C", "diamond", 3.6, cubic=True)
    atoms.center(vacuum=4.0, axis=2)
    atoms.pbc = (True, True, False)
    return atoms


STRUCTURES = {"molecule": molecule("C2H6"), "slab": slab(), "triclinic": sheared()}
for _seed, _atoms in enumerate(STRUCTURES.values()):
    _atoms.rattle(0.05, seed=_seed)


def test_it_is_the_published_energy():
    """Two-body D3(BJ) of a pair far apart, where damping and C8 count for little, is -C6/r^6 of Grimme's reference."""
    pair = Atoms("Ar2", positions=[(0.0, 0.0, 0.0), (8.0, 0.0, 0.0)])
    found = float(Dispersion("pbe").predict(pair, forces=False).energy)
    r = 8.0 / Bohr
    c6, r2r4 = 64.6462, 3.44677  # Hartree bohr^6, of two argon atoms; sqrt(C8/C6) = sqrt(3) r2r4
    c8 = 3 * c6 * r2r4**2
    radius = 0.4289 * np.sqrt(c8 / c6) + 4.4407
    expected = -c6 / (r**6 + radius**6) - 0.7875 * c8 / (r**8 + radius**8)
    assert found == pytest.approx(expected * Hartree, rel=1e-4)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("given", ["pbe", "b3lyp:d3zero"])
def test_forces_and_stress_are_derivatives(model_file, name, given):
    """Of the sum, whose own parts are there beside it."""
    atoms = STRUCTURES[name]
    plain = Potential(model_file, dtype="float64")
    summed = Potential(model_file, plain.backbone, "float64", dispersion=given)
    stress = name != "molecule"
    found, alone = summed.predict(atoms, stress=stress), plain.predict(atoms, stress=stress)
    added = summed.dispersion.predict(atoms, stress=stress)
    torch.testing.assert_close(found.forces - alone.forces, added.forces, rtol=0, atol=1e-10)
    if stress:
        torch.testing.assert_close(found.stress - alone.stress, added.stress, rtol=0, atol=1e-12)
        assert float(added.stress.abs().max()) > 1e-3
    assert -1.0 < float(added.energy) / len(atoms) < -0.001
    generator = np.random.default_rng(3)
    direction, skew = generator.normal(size=(len(atoms), 3)), generator.normal(size=(3, 3))
    strain = (skew + skew.T) / 2
    strain[:, 2] *= name != "slab"  # its cell does not repeat there
    strain[2] *= name != "slab"

    def energy(move, turn):
        moved = atoms.copy()
        moved.positions += move * direction
        moved.set_cell(moved.cell.array @ (np.eye(3) + turn * strain), scale_atoms=bool(turn))
        return float(summed.dispersion.predict(moved, forces=False).energy)

    expected = -slope(lambda t: energy(t, 0.0))  # the library's coordination numbers end with a step
    assert float((added.forces.numpy() * direction).sum()) == pytest.approx(expected, rel=0, abs=2e-6)
    if stress:
        expected = slope(lambda t: energy(0.0, t)) / atoms.get_volume()
        assert float((added.stress[0].numpy() * strain).sum()) == pytest.approx(expected, rel=0, abs=2e-6)


def test_the_calculator_keeps_its_uncertainties(model_file):
    atoms = STRUCTURES["triclinic"].copy()
    plain = MekrrCalculator(model_file, dtype="float64", uncertainty=True)
    summed = MekrrCalculator(model_file, dtype="float64", uncertainty=True, dispersion=Dispersion("r2scan"))
    for calculator in (plain, summed):
        calculator.calculate(atoms, ["energy", "stress"])
    assert summed.results["energy"] < plain.results["energy"] - 0.01
    assert summed.results["energies"].sum() == pytest.approx(summed.results["energy"])
    np.testing.assert_array_equal(summed.results["extrapolation"], plain.results["extrapolation"])
    assert summed.results["energy_uncertainty"] == plain.results["energy_uncertainty"]
    copied = pickle.loads(pickle.dumps(summed))
    assert copied.get_potential_energy(atoms) == pytest.approx(summed.results["energy"], abs=1e-12)


def test_what_takes_no_whole_structure_refuses_it(model_file):
    summed = Potential(model_file, dispersion="pbe")
    with pytest.raises(ModelError, match="leave it to the engine"):
        check_pieces(summed)
    with pytest.raises(ModelError, match="D3 dispersion is added"):
        atomic_stresses(summed, STRUCTURES["triclinic"])


@pytest.mark.parametrize(
    ("given", "message"),
    [("pbee", "'pbee' with damping d3bj. Do you mean 'pbe'?"), ("pbe:d3b", "no D3 damping 'd3b'. Do you mean 'd3bj'?"),
     ("r2scan:d3zero", "no parameters for 'r2scan' with damping d3zero")],
)  # fmt: skip
def test_what_there_is_not_is_refused(given, message, model_file):
    with pytest.raises(ConfigError, match=message):
        Potential(model_file, dispersion=given)


def test_elements_without_parameters(model_file):
    with pytest.raises(StructureError, match="no D3 dispersion of Og"):
        Dispersion("pbe").predict(Atoms("COg", positions=[(0.0, 0.0, 0.0), (0.0, 0.0, 3.0)]))


def test_labels_with_dispersion_are_fitted_without_it():
    """What is taken off is what is added."""
    atoms = STRUCTURES["triclinic"].copy()
    atoms.info["trajectory"] = "a"
    added = Dispersion("pbe").predict(atoms, stress=True).results()
    labels = {"energy": -3.0, "free_energy": -3.1, "forces": np.ones((8, 3)), "stress": np.arange(6.0), "magmom": 1.0}
    atoms.calc = SinglePointCalculator(atoms, **labels)
    left = Dispersion("pbe").taken_off(atoms)
    assert left.info == {"trajectory": "a"}
    assert set(left.calc.results) == {"energy", "free_energy", "forces", "stress"}
    for name, value in left.calc.results.items():
        np.testing.assert_allclose(value + added[name], labels[name], atol=1e-12)
    with pytest.raises(StructureError, match="no labels to take dispersion off"):
        Dispersion("pbe").taken_off(STRUCTURES["molecule"])


def test_the_three_body_term_is_asked_for():
    atoms = STRUCTURES["molecule"]
    two, three = (Dispersion("pbe", three_body=asked) for asked in (False, True))
    assert abs(float(two.predict(atoms).energy - three.predict(atoms).energy)) > 1e-6
    assert (two.name, three.name) == ("pbe-d3bj", "pbe-d3bj-atm")


def test_commands_add_it(call, model_file, tmp_path):
    atoms = STRUCTURES["triclinic"]
    ase.io.write(tmp_path / "a.xyz", atoms)
    energies = {}
    for name, more in (("plain", []), ("summed", ["--d3", "pbe"])):
        out = tmp_path / f"{name}.xyz"
        call("predict", model_file, tmp_path / "a.xyz", "-o", out, *more)
        energies[name] = ase.io.read(out).get_potential_energy()
    added = float(Dispersion("pbe").predict(atoms, forces=False).energy)
    assert energies["summed"] - energies["plain"] == pytest.approx(added, abs=1e-5)


def test_a_run_goes_on_with_the_dispersion_it_began_with(model_file, tmp_path):
    atoms, run = STRUCTURES["triclinic"], tmp_path / "run.xyz"
    run_md(atoms, MekrrCalculator(model_file), run, MdPlan(steps=2))
    with pytest.raises(ConfigError, match="dispersion none there, pbe-d3bj now"):
        run_md(atoms, MekrrCalculator(model_file, dispersion="pbe"), run, MdPlan(steps=4))

"""What a calculator gives beside ASE's own results does not stop ASE's own code."""

import copy
import pickle
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.io.trajectory import Trajectory

from mekrr_scale.models import MekrrCalculator, Model, Potential, PredictorCalculator
from mekrr_scale.pipeline import FitPlan, KernelPlan, fit
from mekrr_scale.solvers import Direct
from tests.backbones.derivatives import check_derivatives

MORE = ("energy_uncertainty", "energies_uncertainty", "extrapolation")


@pytest.fixture(scope="module")
def calculated(model_file, toy_structures):
    atoms = next(a for a in toy_structures if a.pbc.any()).copy()
    atoms.calc = MekrrCalculator(model_file, uncertainty=True)
    atoms.get_potential_energy()
    return atoms


def test_results_go_where_ase_takes_them(calculated, tmp_path):
    energy = calculated.get_potential_energy()
    frozen = calculated.copy()
    frozen.calc = SinglePointCalculator(frozen, **calculated.calc.results)
    assert frozen.get_potential_energy() == energy
    assert calculated.calc.export_properties()["energy"] == energy
    for name in ("a.xyz", "a.traj", "a.db", "a.json"):
        write(tmp_path / name, calculated)
        assert read(tmp_path / name).get_potential_energy() == pytest.approx(energy)
    with Trajectory(tmp_path / "b.traj", "w", calculated) as trajectory:
        trajectory.write()


def test_uncertainties_are_found_by_name(calculated):
    results = calculated.calc.results
    for each in (results, copy.deepcopy(results), results.copy(), pickle.loads(pickle.dumps(results))):
        assert each["energy_uncertainty"] > 0
        assert each.get("extrapolation").shape == (len(calculated),)
        assert all(name in each and name not in dict(each) for name in MORE)
        assert "forces_uncertainty" not in each
        assert each.get("forces_uncertainty", 1.5) == 1.5
        with pytest.raises(KeyError):
            each["forces_uncertainty"]
        assert np.isfinite(each["energy"])
    assert "energy_uncertainty" not in MekrrCalculator(calculated.calc.potential.model).results


@dataclass
class Counted:
    """A predictor that writes down what it is asked for."""

    inner: Potential
    asked: list = field(default_factory=list)

    def predict(self, atoms, forces=True, stress=False):
        self.asked.append((forces, stress))
        return self.inner.predict(atoms, forces=forces, stress=stress)


def test_any_predictor_is_a_calculator(model_file, toy_structures):
    """Nothing is computed that nobody asked for, and nothing twice."""
    potential = Potential(model_file, dtype="float64")
    atoms = next(a for a in toy_structures if a.pbc.any()).copy()
    expected = potential.predict(atoms, stress=True)
    predictor = Counted(potential)
    atoms.calc = PredictorCalculator(predictor)
    assert atoms.get_potential_energy() == pytest.approx(float(expected.energy[0]), abs=1e-10)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert predictor.asked == [(False, False)]
    np.testing.assert_allclose(atoms.get_forces(), expected.forces.numpy(), atol=1e-10)
    np.testing.assert_allclose(atoms.get_stress(voigt=False), expected.stress[0].numpy(), atol=1e-12)
    assert predictor.asked == [(False, False), (True, False), (True, True)]
    np.testing.assert_allclose(atoms.get_potential_energies(), expected.energies.numpy(), atol=1e-10)
    assert len(predictor.asked) == 3
    atoms.positions[0, 0] += 0.1
    moved = atoms.get_potential_energy()
    assert moved == pytest.approx(float(potential.predict(atoms).energy[0]), abs=1e-10)
    assert len(predictor.asked) == 4


@pytest.mark.parametrize("own", [False, True])
def test_atoms_shares_add_up_to_the_stress(model_file, toy_structures, own):
    """And are alike where atoms are: of a perfect crystal, each the same part."""
    model = Model.load(model_file)
    if own:
        model = replace(model, baseline=replace(model.baseline, prior=True))
    calculator = MekrrCalculator(model, dtype="float64")
    for atoms in [a.copy() for a in toy_structures if a.pbc.any()][:2]:
        atoms.calc = calculator
        shares = atoms.get_stresses()
        assert shares.shape == (len(atoms), 6)
        np.testing.assert_allclose(shares.sum(0), atoms.get_stress(), atol=1e-12)
        assert np.abs(shares.std(0)).max() > 1e-7
    perfect = bulk("C", "diamond", 3.6).repeat(2)
    perfect.calc = calculator
    shares = perfect.get_stresses()
    np.testing.assert_allclose(shares, np.tile(shares.mean(0), (len(perfect), 1)), atol=1e-10)
    flat = molecule("H2O")
    flat.calc = calculator
    with pytest.raises(PropertyNotImplementedError, match="no stress without"):
        flat.get_stresses()


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_an_element_without_landmarks(store, toy_structures, alpha):
    """Its atoms have no part in kernels of own species; forces stay the derivatives of the energy."""
    plan = FitPlan(kernel=KernelPlan(length_scales="2x", alphas=alpha), landmarks=1, solver=Direct((1e-6,)))
    model = fit(store, plan).model
    lacking = set(model.species) - set(model.landmarks.species.tolist())
    assert lacking
    potential = Potential(model, dtype=torch.float64)
    atoms = next(a for a in toy_structures if lacking & set(a.numbers.tolist())).copy()
    atoms.center(vacuum=3.0)
    atoms.pbc = True
    check_derivatives(potential, atoms)
    sure = potential.uncertainty(atoms)
    assert bool(sure.energies.isfinite().all())
    if alpha == 1.0:
        z = min(lacking & set(atoms.numbers.tolist()))
        found = potential.predict(atoms).energies[torch.from_numpy(atoms.numbers == z)]
        own = model.baseline.energies[list(model.species).index(z)]
        torch.testing.assert_close(found, own.expand_as(found), rtol=0, atol=1e-12)

"""The model in torch-sim gives what the ASE calculator gives, for many systems at once."""

import warnings

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from mekrr_scale.backbones import Compiled
from mekrr_scale.models import MekrrCalculator, Model

ts = pytest.importorskip("torch_sim")


@pytest.fixture(scope="module")
def model(model_file):
    from mekrr_scale.engines import MekrrModel

    return MekrrModel(model_file)


@pytest.fixture
def cells():
    found = []
    for repeats, amplitude in ((2, 0.02), (1, 0.05)):
        atoms = bulk("C", "diamond", 3.6, cubic=True).repeat((repeats, 1, 1))
        atoms.rattle(amplitude, seed=repeats)
        found.append(atoms)
    sheared = found[1].copy()
    sheared.set_cell(sheared.cell @ (np.eye(3) + [[0, 0.05, 0], [0, 0, 0.02], [0, 0, 0]]), scale_atoms=True)
    return [*found, sheared]


def test_a_batch_equals_the_calculator(model, model_file, cells):
    state = ts.initialize_state(cells, device=torch.device("cpu"), dtype=torch.float64)
    found = model(state)
    calculator = MekrrCalculator(Model.load(model_file), dtype=torch.float64)
    first = 0
    for i, atoms in enumerate(cells):
        atoms.calc = calculator
        assert float(found["energy"][i]) == pytest.approx(atoms.get_potential_energy(), rel=1e-10)
        part = found["forces"][first : first + len(atoms)].numpy()
        np.testing.assert_allclose(part, atoms.get_forces(), atol=1e-9)
        np.testing.assert_allclose(found["stress"][i].numpy(), atoms.get_stress(voigt=False), atol=1e-9)
        first += len(atoms)


def test_the_network_may_be_compiled(model, model_file):
    from mekrr_scale.engines import MekrrModel

    assert isinstance(MekrrModel(model_file, compile=True).potential.on_edges, Compiled)
    assert not isinstance(model.potential.on_edges, Compiled)


def test_molecules_have_no_stress(model):
    waters = [molecule("H2O"), molecule("CH4")]
    for atoms in waters:
        atoms.set_cell(np.eye(3) * 20)
    state = ts.initialize_state(waters, device=torch.device("cpu"), dtype=torch.float64)
    state.pbc = False
    found = model(state)
    assert not bool(found["stress"].any())
    assert bool(found["forces"].any())


def test_torch_sim_integrates_and_relaxes(model, cells):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = model(ts.initialize_state(cells, device=torch.device("cpu"), dtype=torch.float64))["energy"]
        moved = ts.integrate(cells, model, integrator=ts.nvt_langevin, n_steps=3, temperature=50, timestep=0.0005)
        relaxed = ts.optimize(cells, model, optimizer=ts.optimizers.fire, max_steps=10)
    assert moved.positions.shape == relaxed.positions.shape
    assert bool((model(relaxed)["energy"] < before).all())

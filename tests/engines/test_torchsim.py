"""The model in torch-sim gives what the ASE calculator gives, for many systems at once."""

import warnings
from dataclasses import replace

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


def test_dispersion_is_added(model_file, cells):
    from mekrr_scale.engines import MekrrModel

    pytest.importorskip("dftd3")
    state = ts.initialize_state(cells[1:], device=torch.device("cpu"), dtype=torch.float64)
    found = MekrrModel(model_file, dispersion="pbe")(state)
    cells[1].calc = MekrrCalculator(model_file, dtype="float64", dispersion="pbe")
    assert float(found["energy"][0]) == pytest.approx(cells[1].get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(found["stress"][0].numpy(), cells[1].get_stress(voigt=False), atol=1e-10)


def test_a_state_says_no_charge(model, model_file, cells):
    from mekrr_scale.engines import MekrrModel

    state = ts.initialize_state(cells, device=torch.device("cpu"), dtype=torch.float64)
    cation = MekrrModel(replace(Model.load(model_file), electrons={"charge": 1.0}))
    assert bool((cation(state)["energy"] == model(state)["energy"]).all())


def test_molecules_have_no_stress(model):
    waters = [molecule("H2O"), molecule("CH4")]
    for atoms in waters:
        atoms.set_cell(np.eye(3) * 20)
    state = ts.initialize_state(waters, device=torch.device("cpu"), dtype=torch.float64)
    state.pbc = False
    found = model(state)
    assert not bool(found["stress"].any())
    assert bool(found["forces"].any())


INTEGRATORS = {"nve": {}, "nvt_langevin": {}, "npt_langevin": {"external_pressure": 0.0}}
OPTIMIZERS = ["gradient_descent", "unit_cell_gradient_descent", "fire", "unit_cell_fire", "frechet_cell_fire"]
BATCHED = {"max_memory_scaler": 20.0, "memory_scales_with": "n_atoms"}  # two cells of eight atoms fit, all do not


@pytest.fixture
def many(cells):
    """Six systems, which take three batches."""
    return [cells[1], cells[2], cells[0], cells[2], cells[1], cells[2]]


def quietly(call, *args, **options):
    """Without torch-sim's own warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **options)


def energies(model, state):
    return model(state)["energy"]


def test_static_energies_of_batches_are_those_of_all(model, many):
    batcher = ts.BinningAutoBatcher(model, **BATCHED)
    found = quietly(ts.static, many, model, autobatcher=batcher)
    whole = quietly(ts.static, many, model)
    assert len(batcher.memory_scalers) == 6
    assert len(batcher.index_bins) > 2
    for one, other in zip(found, whole, strict=True):
        assert float(one["potential_energy"]) == pytest.approx(float(other["potential_energy"]), rel=1e-12)
        np.testing.assert_allclose(one["forces"].numpy(), other["forces"].numpy(), atol=1e-10)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_every_integrator(name, model, many):
    batcher = ts.BinningAutoBatcher(model, **BATCHED)
    options = {"integrator": getattr(ts, name), "n_steps": 3, "temperature": 50, "timestep": 5e-4, **INTEGRATORS[name]}
    moved = quietly(ts.integrate, many, model, autobatcher=batcher, **options)
    assert moved.n_systems == 6
    assert bool(moved.positions.isfinite().all())
    start = ts.initialize_state(many, device=torch.device("cpu"), dtype=torch.float64)
    change = (energies(model, moved) - energies(model, start)).abs() / torch.bincount(start.system_idx)
    assert bool((change > 0).all() and (change < 0.05).all())


def test_the_sum_of_energies_stays(model, many):
    from torch_sim.quantities import calc_kinetic_energy

    totals = []
    for steps in (1, 60):
        options = {"integrator": ts.nve, "n_steps": steps, "temperature": 100, "timestep": 2e-4, "seed": 1}
        moved = quietly(ts.integrate, many[:2], model, **options)
        kinetic = calc_kinetic_energy(masses=moved.masses, momenta=moved.momenta, system_idx=moved.system_idx)
        totals.append(energies(model, moved) + kinetic)
    np.testing.assert_allclose(totals[1].numpy(), totals[0].numpy(), atol=8e-3)  # 1 meV/atom


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name, model, many):
    before = energies(model, ts.initialize_state(many, device=torch.device("cpu"), dtype=torch.float64))
    options = {"optimizer": getattr(ts.optimizers, name), "max_steps": 10, "steps_between_swaps": 5}
    relaxed = quietly(
        ts.optimize, many, model, autobatcher=ts.InFlightAutoBatcher(model, max_iterations=10, **BATCHED), **options
    )
    assert relaxed.n_systems == 6
    after = energies(model, relaxed)
    assert bool((after < before).all())
    moved = (relaxed.cell - ts.initialize_state(many, device=torch.device("cpu"), dtype=torch.float64).cell).abs()
    assert bool((moved.amax((1, 2)) > 0).all()) == ("cell" in name)

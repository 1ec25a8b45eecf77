"""Temperature, pressure, friction, time, bounds and cells: that their units are those that are written beside them."""

import sys
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import FIRE

from mekrr_scale.errors import ConfigError, SimulationError
from mekrr_scale.models import MekrrCalculator
from mekrr_scale.simulation import Bounds, MdPlan, relax, run_md
from mekrr_scale.simulation.bounds import Guard
from tests.crystals import crystals

FREE = Bounds(None)


@pytest.fixture(scope="module")
def copper(crystal_model):
    return MekrrCalculator(crystal_model, dtype="float64")


@pytest.fixture(scope="module")
def start():
    atoms = crystals(1, 3)[0].copy()
    atoms.calc = None
    return atoms


def alone(speed):
    """An atom that nothing acts on, in angstrom/fs."""
    atom = Atoms("Cu", [(0, 0, 0)])
    atom.set_velocities([[speed / units.fs, 0, 0]])
    return atom


def test_times_and_friction_are_in_femtoseconds(copper, tmp_path):
    """Free flight, and v exp(-t/tau) without a temperature."""
    report = run_md(alone(0.01), copper, tmp_path / "a.xyz", MdPlan("nve", 50, 2.0, interval=50, bounds=FREE))
    np.testing.assert_allclose(report.atoms.positions, [[0.01 * 100, 0, 0]], atol=1e-12)
    assert read(tmp_path / "a.xyz", "-1").info["time_fs"] == 100
    plan = MdPlan("langevin", 100, 0.5, temperature=0.0, friction=0.03, interval=100, bounds=FREE)
    slowed = run_md(alone(0.01), copper, tmp_path / "b.xyz", plan).atoms.get_velocities()[0]
    np.testing.assert_allclose(slowed * units.fs, [0.01 * np.exp(-0.03 * 50), 0, 0], rtol=1e-3, atol=1e-12)


def test_the_thermostat_holds_kelvin(copper, start, tmp_path):
    """Within four standard errors: 12 degrees of freedom are renewed every 1/(2 friction)."""
    friction, timestep, steps = 0.2, 1.0, 300
    plan = MdPlan("langevin", steps, timestep, 300.0, friction, interval=2, bounds=FREE)
    run_md(start, copper, tmp_path / "run.xyz", plan)
    temperatures = [frame.info["temperature_K"] for frame in read(tmp_path / "run.xyz", "20:")]
    renewals = 2 * friction * timestep * (steps - 40) / 2  # a time of correlation counts twice
    error = 300.0 * np.sqrt(2 / (3 * len(start)) / renewals)
    assert error < 20
    assert np.mean(temperatures) == pytest.approx(300.0, abs=4 * error)


def test_velocities_begin_at_the_temperature(copper, start, tmp_path):
    """Of 24 draws; the centre of mass is at rest, and ASE's 3N/2 kT of kinetic energy in the rest."""
    kinetic = []
    for seed in range(24):
        plan = MdPlan("nve", 1, 1e-3, 300.0, seed=seed, interval=1, bounds=FREE)
        atoms = run_md(start, copper, tmp_path / f"{seed}.xyz", plan).atoms
        assert np.abs(atoms.get_momenta().sum(0)).max() < 1e-9
        kinetic.append(atoms.get_kinetic_energy())
    expected = 0.5 * 3 * len(start) * units.kB * 300.0
    assert np.mean(kinetic) == pytest.approx(expected, rel=4 * np.sqrt(2 / (24 * 3 * len(start))))


def energy_of(copper, atoms, length):
    moved = atoms.copy()
    moved.set_cell(length * atoms.cell.array, scale_atoms=True)
    return float(copper.potential.predict(moved, forces=False).energy[0])


def pressure_of(copper, atoms, step=1e-4):
    """-dE/dV in GPa, by differences."""
    ends = [energy_of(copper, atoms, 1 + sign * step) for sign in (1, -1)]
    volumes = [(1 + sign * step) ** 3 * atoms.get_volume() for sign in (1, -1)]
    return -(ends[0] - ends[1]) / (volumes[0] - volumes[1]) / units.GPa


def test_the_barostat_holds_gigapascal(copper, tmp_path):
    """A cold crystal at the volume where -dE/dV is the pressure stays; half as much lets it grow, twice squeezes it."""
    crystal = bulk("Cu", cubic=True, a=3.52)
    pressure = pressure_of(copper, crystal)
    assert 5 < pressure < 15  # 9.6 by EMT
    changes = []
    for factor in (0.5, 1.0, 2.0):
        plan = MdPlan("npt", 60, 1.0, 0.1, friction=0.05, pressure=factor * pressure, interval=60, bounds=FREE)
        report = run_md(crystal, copper, tmp_path / f"{factor}.xyz", plan)
        changes.append(report.atoms.get_volume() / crystal.get_volume() - 1)
    assert abs(changes[1]) < 2e-3
    assert changes[0] > 5 * abs(changes[1])
    assert -changes[2] > 5 * abs(changes[1])


def test_an_ase_without_the_barostat(copper, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ase.md.langevinbaoab", None)
    with pytest.raises(ConfigError, match="ensemble npt needs a newer ase .*pip install -U ase"):
        run_md(bulk("Cu", cubic=True), copper, tmp_path / "a.xyz", MdPlan("npt", 2, bounds=FREE))


def test_a_relaxed_cell_is_that_of_the_labels_potential(copper, start):
    """No stress is left, by differences too, and shape and volume are those that EMT itself relaxes to."""
    found = relax(start, copper, force=0.002, cell=True)
    exact = start.copy()
    exact.calc = EMT()
    FIRE(FrechetCellFilter(exact), logfile=None).run(fmax=0.002, steps=500)
    largest = 0.002 * len(start) / found.get_volume()  # what FrechetCellFilter calls a force, of a cell
    assert np.abs(found.get_stress()).max() < 1.01 * largest
    assert abs(pressure_of(copper, found)) < 1.01 * largest / units.GPa
    assert np.linalg.norm(found.get_forces(), axis=1).max() <= 0.002
    assert found.get_volume() == pytest.approx(exact.get_volume(), rel=0.01)
    np.testing.assert_allclose(found.cell.lengths(), exact.cell.lengths(), rtol=0.01)
    np.testing.assert_allclose(found.cell.angles(), exact.cell.angles(), atol=0.5)
    kept = relax(start, copper, force=0.002)
    assert np.array_equal(kept.cell.array, start.cell.array)


@pytest.fixture(scope="module")
def known(copper, start):
    """What the bounds of the starting structure are compared with."""
    sure = copper.potential.uncertainty(start)
    largest = np.linalg.norm(copper.potential.predict(start).forces.numpy(), axis=1).max()
    return {"force": largest, "uncertainty": float(sure.energy[0]) / len(start), "grade": float(sure.grade.max())}


@pytest.mark.parametrize("name", ["force", "uncertainty", "grade"])
@pytest.mark.parametrize("cell", [False, True])
def test_bounds_lie_where_they_are_said_to(copper, start, known, tmp_path, name, cell):
    """Just below its known value a run ends at its first look, just above it does not."""
    plan = MdPlan("nve", 1, 1e-3, 0.0)
    below, above = (Bounds(**{"force": None, name: known[name] * factor}) for factor in (0.999, 1.001))
    with pytest.raises(SimulationError, match="stopped at step 0"):
        run_md(start, copper, tmp_path / "a.xyz", replace(plan, bounds=below))
    assert run_md(start, copper, tmp_path / "b.xyz", replace(plan, bounds=above)).steps == 1
    with pytest.raises(SimulationError, match="stopped at step 0"):
        relax(start, copper, cell=cell, bounds=below)
    with pytest.raises(SimulationError, match="not converged after 1 steps"):
        relax(start, copper, force=1e-9, steps=1, cell=cell, bounds=above)


@pytest.mark.parametrize("command", ["md", "relax"])
def test_the_commands_bounds_have_their_units(run, crystal_model, start, known, tmp_path, command):
    """meV/atom, eV/angstrom; 0 for none."""
    crystal_model.save("m.mekrr")
    ase.io.write("start.xyz", start)
    values = {"force": known["force"], "uncertainty": 1e3 * known["uncertainty"], "grade": known["grade"]}
    ends = {"md": ("--temperature", 0, "--steps", 1, "--timestep", 1e-3), "relax": ("--force", 99)}[command]
    for name, value in values.items():
        for factor, expected in ((0.99, 8), (1.01, 0), (0, 0)):
            given = (f"--max-{name}", factor * value, *ends, "--dtype", "float64", "--overwrite")
            code, _, err = run(command, "m.mekrr", "start.xyz", "-o", "out.xyz", *given)
            assert code == expected, (name, factor, err)
            for path in tmp_path.glob("out*"):
                path.unlink()


class Steps:
    """A run of a given largest grade at each step."""

    def __init__(self, copper, start, grades, bounds, path):
        self.atoms = start.copy()
        self.atoms.calc = copper
        self.guard, self.grades = Guard(self.atoms, copper, bounds, path), grades

    def go(self, monkeypatch, copper):
        real = copper.potential.uncertainty
        for step, grade in enumerate(self.grades):
            self.atoms.positions[0, 0] += 1e-3
            changed = replace(real(self.atoms), grade=real(self.atoms).grade * 0 + grade)
            monkeypatch.setattr(type(copper.potential), "uncertainty", lambda *_, found=changed, **__: found)
            self.guard.look(step)
            monkeypatch.undo()


@pytest.mark.parametrize(("every", "good"), [(1, 3), (2, 2), (3, 3), (4, 0)])
def test_the_last_good_frame_was_looked_at(copper, start, tmp_path, monkeypatch, every, good):
    """Atoms are outside from step 4 on; frames between two looks may be so too, and are not called good."""
    steps = Steps(copper, start, [1.0] * 4 + [9.0] * 5, Bounds(None, grade=2.0, every=every), tmp_path / "run.xyz")
    with pytest.raises(SimulationError, match="grade 9") as error:
        steps.go(monkeypatch, copper)
    assert error.value.atoms.info["step"] == good
    frame = read(tmp_path / "run.last-good.xyz")
    assert frame.info["step"] == good
    assert frame.positions[0, 0] == pytest.approx(start.positions[0, 0] + 1e-3 * (good + 1), abs=1e-7)


def test_forces_are_looked_at_in_every_step(copper, start, tmp_path, monkeypatch):
    """Between two looks at the uncertainty a force still ends the run; the frame that was looked at is the good one."""
    steps = Steps(copper, start, [1.0] * 4, Bounds(force=50.0, grade=2.0, every=10), tmp_path / "run.xyz")
    steps.go(monkeypatch, copper)
    steps.atoms.positions[0] = steps.atoms.positions[1] + 0.3
    largest = float(np.linalg.norm(steps.atoms.get_forces(), axis=1).max())
    steps.guard.bounds = replace(steps.guard.bounds, force=0.9 * largest)
    with pytest.raises(SimulationError, match="stopped at step 4: a force") as error:
        steps.guard.look(4)
    assert error.value.atoms.info["step"] == 0


def test_a_continued_run_ends_between_looks_as_well(copper, start, tmp_path):
    """It begins at any step; a geometry without energies ends it, though no frame of it is known to be good."""
    atoms = start.copy()
    atoms.calc = copper
    guard = Guard(atoms, copper, Bounds(grade=99.0, every=10), tmp_path / "run.xyz")
    guard.look(13)

    def step():
        atoms.positions[1] = atoms.positions[0]
        yield atoms.get_forces()

    with pytest.raises(SimulationError, match="stopped at step 14: .*overlap") as error:
        next(guard.watched(step()))
    assert error.value.atoms is None
    assert not (tmp_path / "run.last-good.xyz").exists()

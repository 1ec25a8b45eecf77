"""Simulations: conservation, restarts, bounds, and what the command line makes of them."""

import json
import math
import os
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.io import read

from mekrr_scale.errors import ConfigError, SimulationError, StructureError
from mekrr_scale.models import MekrrCalculator
from mekrr_scale.simulation import Bounds, MdPlan, relax, run_md
from mekrr_scale.simulation.bounds import Guard
from mekrr_scale.structures import SkinList, build_graph
from tests.distributed.paused import wait_for


def test_energy_is_conserved(calculator, start, tmp_path):
    """The drift of velocity Verlet falls away with the time step."""
    spreads = []
    for timestep in (0.5, 0.25):
        path = tmp_path / f"{timestep}.xyz"
        plan = MdPlan("nve", int(40 / timestep), timestep, 100.0, interval=int(2 / timestep), bounds=Bounds(None))
        report = run_md(start, calculator, path, plan)
        energies = [frame.info["total_energy"] for frame in read(path, ":")]
        assert len(energies) == 21
        spreads.append(np.ptp(energies))
        assert np.isfinite(report.drift)
    assert spreads[1] < 0.5 * spreads[0] + 1e-9


def test_drift_is_the_slope_of_the_total_energy(calculator, start, tmp_path):
    path = tmp_path / "run.xyz"
    report = run_md(start, calculator, path, MdPlan("nve", 60, 1.0, 300.0, interval=1, bounds=Bounds(None)))
    frames = read(path, ":")
    times = np.array([frame.info["time_fs"] for frame in frames]) / 1e4
    energies = np.array([frame.info["total_energy"] for frame in frames]) / len(start) * 1e3
    assert report.drift == pytest.approx(np.polyfit(times, energies, 1)[0], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("ensemble", ["nve", "langevin", "npt"])
def test_a_continued_run_equals_an_uninterrupted_one(calculator, toy_structures, tmp_path, ensemble):
    structure = next(a for a in toy_structures if a.pbc.any()).copy()
    structure.calc = None
    plan = MdPlan(ensemble, 12, 0.5, 150.0, interval=4, checkpoint=6, friction=0.05, bounds=Bounds(None))
    whole, parts = tmp_path / "whole.xyz", tmp_path / "parts.xyz"
    calculator.neighbours.skin = 0.0  # so that sums run in the same order
    run_md(structure, calculator, whole, plan)
    run_md(structure, calculator, parts, replace(plan, steps=6))
    report = run_md(structure, calculator, parts, plan)
    assert report.resumed == 6
    first, second = read(whole, ":"), read(parts, ":")
    assert [f.info["step"] for f in second] == [f.info["step"] for f in first] == [0, 4, 8, 12]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-6)
        np.testing.assert_allclose(a.cell.array, b.cell.array, atol=1e-6)
    # frames behind the restart point are not there twice
    with parts.open("a") as stream:
        stream.write("garbage of a run that was killed\n")
    assert run_md(structure, calculator, parts, plan).resumed == 12
    assert len(read(parts, ":")) == 4


def test_bounds_stop_a_run_and_keep_the_last_good_frame(calculator, start, tmp_path):
    path = tmp_path / "run.xyz"
    plan = MdPlan("nve", 400, 1.0, 50000.0, interval=1, bounds=Bounds(force=None, grade=1.3, every=1))
    with pytest.raises(SimulationError, match=r"stopped at step \d+: atom \d .*outside of the training data") as error:
        run_md(start, calculator, path, plan)
    good = read(tmp_path / "run.last-good.xyz")
    stopped = int(str(error.value).split("step ")[1].split(":")[0])
    assert good.info["step"] == stopped - 1
    assert float(calculator.potential.uncertainty(good).grade.max()) <= 1.3 + 1e-6
    assert read(path, "-1").info["largest_grade"] <= 1.3
    with pytest.raises(SimulationError, match="exceeds the bound of 1e-09"):
        run_md(start, calculator, tmp_path / "b.xyz", replace(plan, bounds=Bounds(force=1e-9)))
    with pytest.raises(SimulationError, match="uncertain by"):
        run_md(start, calculator, tmp_path / "c.xyz", replace(plan, bounds=Bounds(None, uncertainty=1e-12)))


def test_fixed_atoms_stay(calculator, start, tmp_path):
    start.set_constraint(FixAtoms([0]))
    report = run_md(start, calculator, tmp_path / "fixed.xyz", MdPlan("langevin", 20, 0.5, bounds=Bounds(None)))
    assert np.array_equal(report.atoms.positions[0], start.positions[0])
    assert not np.array_equal(report.atoms.positions[1], start.positions[1])


def test_relaxation(calculator, toy_structures, tmp_path):
    structure = next(a for a in toy_structures if a.pbc.any()).copy()
    calculator.calculate(structure, ["energy"])
    before = calculator.results["energy"]
    path = tmp_path / "steps.xyz"
    relaxed = relax(structure, calculator, path, force=0.05, steps=300)
    assert np.linalg.norm(relaxed.get_forces(), axis=1).max() <= 0.05
    assert relaxed.get_potential_energy() < before
    assert read(path, "-1").get_potential_energy() == pytest.approx(relaxed.get_potential_energy(), abs=1e-6)
    with pytest.raises(SimulationError, match="not converged after 2 steps"):
        relax(structure, calculator, force=1e-9, steps=2)
    for given in ({"force": 0.0}, {"force": math.nan}, {"steps": 0}):
        with pytest.raises(ConfigError, match="give positive numbers"):
            relax(structure, calculator, **given)
    with pytest.raises(ConfigError, match="no cell to relax"):
        relax(molecule("H2O"), calculator, cell=True)


def test_skin_lists_give_the_exact_graph():
    atoms = bulk("Cu", "fcc", 3.6).repeat(2)
    generator = np.random.default_rng(0)
    lists = SkinList(4.0, 0.6)
    for step in range(30):
        atoms.positions += 0.03 * generator.normal(size=atoms.positions.shape)
        if step == 20:
            atoms.set_cell(atoms.cell * 1.01, scale_atoms=True)
        found, expected = lists.graph(atoms), build_graph(atoms, 4.0)
        assert _edges(found) == _edges(expected)
        assert torch.equal(found.positions, expected.positions)
    assert 2 < lists.builds < 25
    atoms.numbers[0] = 28
    assert int(lists.graph(atoms).numbers[0]) == 28


def _edges(graph):
    return {(*e, *map(round, s)) for e, s in zip(graph.edge_index.T.tolist(), graph.shifts.tolist(), strict=True)}


def test_refusals(calculator, start, tmp_path):
    path = tmp_path / "run.xyz"
    for options, message in [
        ({"steps": 0}, "steps: Input should be greater than or equal to 1"),
        ({"timestep": -1.0}, "timestep: Input should be greater than 0"),
        ({"temperature": -5.0}, "temperature: Input should be greater than or equal to 0"),
        ({"friction": 0.0}, "friction: Input should be greater than 0"),
        ({"pressure": math.nan}, "pressure: Input should be a finite number"),
        ({"ensemble": "nvt"}, "ensemble: Input should be 'nve', 'langevin' or 'npt'"),
        ({"temperatur": 300}, "Do you mean 'temperature'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            MdPlan(**options)
    with pytest.raises(ConfigError, match="bound on force is -1"):
        Bounds(force=-1.0)
    with pytest.raises(ConfigError, match="npt changes the cell"):
        run_md(start, calculator, path, MdPlan("npt", 2))
    plan = MdPlan("nve", 2, 0.5, checkpoint=1, bounds=Bounds(None))
    run_md(start, calculator, path, plan)
    with pytest.raises(ConfigError, match=r"timestep 0.5 there, 1.0 now"):
        run_md(start, calculator, path, replace(plan, timestep=1.0))
    with pytest.raises(ConfigError, match="another system"):
        run_md(molecule("CO"), calculator, path, plan)
    path.write_text("")
    with pytest.raises(ConfigError, match="shorter than when"):
        run_md(start, calculator, path, plan)
    (tmp_path / "run.restart.json").write_text("{")
    with pytest.raises(ConfigError, match="not a restart file"):
        run_md(start, calculator, path, plan)


def test_a_killed_simulation_goes_on(model_file, start, tmp_path, warm):
    """SIGKILL behind a restart file; the same command finishes the run, every frame once."""
    ase.io.write(tmp_path / "start.xyz", start)
    command = [
        "md", str(model_file), str(tmp_path / "start.xyz"), "-o", str(tmp_path / "run.xyz"), "--steps", "150",
        "--checkpoint", "20", "--interval", "15",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    held = ("-m", "tests.distributed.paused", "restart", "4", str(tmp_path), *command)
    process = warm.start(*held, environment=environment)
    wait_for(tmp_path / "there-0", [process])
    process.kill()
    process.communicate()
    assert json.loads((tmp_path / "run.restart.json").read_text())["step"] == 60  # the first is that of the start
    finished = warm.start("-m", "mekrr_scale", *command, environment=environment)
    said, errors = finished.communicate()
    assert finished.returncode == 0, errors
    assert "150 steps, 60 of them before" in " ".join(said.split())
    steps = [frame.info["step"] for frame in read(tmp_path / "run.xyz", ":")]
    assert steps == list(range(0, 151, 15))


def test_command_line(run, model_file, start, tmp_path):
    ase.io.write(tmp_path / "start.xyz", start)
    code, _, err = run("relax", model_file, "start.xyz", "-o", "relaxed.xyz", "--force", "0.1")
    assert code == 0, err
    assert len(read(tmp_path / "relaxed.xyz")) == 3
    hot = ("--temperature", "50000", "--max-grade", "1.5", "--every", "1", "--ensemble", "nve")
    code, _, err = run("md", model_file, "start.xyz", "-o", "hot.xyz", *hot)
    assert code == 8
    assert "last good frame" in err
    code, _, err = run("relax", model_file, "start.xyz", "-o", "relaxed.foo")
    assert code == 2
    assert "ASE writes no format" in err
    assert run("md", model_file, "none.xyz", "-o", "x.xyz")[0] == 3
    assert run("md", model_file, "start.xyz", "-o", "no/x.xyz")[0] == 2


def test_steps_into_a_geometry_without_energies_keep_the_last_good_frame(tmp_path, model_file, toy_structures):
    calculator = MekrrCalculator(model_file)
    atoms = toy_structures[0].copy()
    atoms.calc = calculator
    guard = Guard(atoms, calculator, Bounds(None), tmp_path / "run.xyz")

    def steps():
        yield 0
        atoms.positions[1] = atoms.positions[0]
        atoms.get_forces()
        yield 1

    with pytest.raises(SimulationError, match="stopped at step 1: atoms 0 and 1 overlap.*last good frame"):
        list(map(guard.look, guard.watched(steps())))
    assert (tmp_path / "run.last-good.xyz").exists()
    with pytest.raises(StructureError, match="overlap"):  # a start that is none
        relax(atoms, calculator, tmp_path / "relaxed.xyz")


@pytest.mark.parametrize("ensemble", ["langevin", "npt"])
def test_other_calculators_of_ase_run_too(tmp_path, ensemble):
    """Beside a model, as a reference; they go on as models do, and know no grade."""
    plan = MdPlan(ensemble, 2, 0.5, 100.0, checkpoint=2, bounds=Bounds(None))
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.05, seed=1)
    assert np.abs(relax(copper, EMT(), cell=True).get_forces()).max() < 0.02
    path = tmp_path / "run.xyz"
    run_md(copper, EMT(), path, plan)
    assert run_md(copper, EMT(), path, replace(plan, steps=3)).resumed == 2
    with pytest.raises(ConfigError, match="another model"):
        run_md(copper, LennardJones(), path, plan)
    for ask in (relax, lambda *given, bounds: run_md(*given, tmp_path / "none.xyz", replace(plan, bounds=bounds))):
        with pytest.raises(ConfigError, match="EMT tells no uncertainty and no grade"):
            ask(copper, EMT(), bounds=Bounds(grade=1.0))
    assert not (tmp_path / "none.xyz").exists()

"""A trajectory belongs to one simulation: what differs is refused, what is the same goes on bit by bit, alone."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.io import read

from mekrr_scale.cli import main
from mekrr_scale.errors import ConfigError, SimulationError, StructureError
from mekrr_scale.files import Lock
from mekrr_scale.models import MekrrCalculator, Model, PriorSpec
from mekrr_scale.simulation import Bounds, MdPlan, dynamics, relax, run_md
from mekrr_scale.structures import LabelKeys

PLAN = MdPlan("langevin", 2, 0.5, 100.0, friction=0.05, interval=1, checkpoint=2, bounds=Bounds(None))


@pytest.fixture(scope="module")
def potential(model_file):
    return MekrrCalculator(model_file)


@pytest.fixture
def start(toy_structures):
    atoms = next(a for a in toy_structures if a.pbc.any()).copy()
    atoms.calc = None
    return atoms


def moved(atoms):
    atoms.positions[0, 0] += 1e-4


def strained(atoms):
    atoms.set_cell(atoms.cell * 1.0001)


def pushed(atoms):
    atoms.set_momenta(np.ones((len(atoms), 3)))


def heavier(atoms):
    atoms.set_masses(2 * atoms.get_masses())


def held(atoms):
    atoms.set_constraint(FixAtoms([0]))


def opened(atoms):
    atoms.pbc = [True, True, False]


CHANGED_STARTS = [
    (moved, "other positions"), (strained, "other cell"), (pushed, "other velocities"), (heavier, "other masses"),
    (held, "other constraints"), (opened, "other cell"),
]  # fmt: skip
CHANGED_PLANS = [
    ({"temperature": 101.0}, "temperature 100.0 there, 101.0 now"), ({"friction": 0.06}, "friction 0.05 there"),
    ({"timestep": 0.6}, "timestep 0.5 there"), ({"seed": 1}, "seed 0 there"), ({"ensemble": "nve"}, "langevin there"),
    ({"interval": 2}, "interval 1 there"),
]  # fmt: skip


def test_another_simulation_is_refused_with_what_differs(potential, start, tmp_path, fitted):
    path = tmp_path / "run.xyz"
    run_md(start, potential, path, PLAN)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for change, words in CHANGED_STARTS:
        other = start.copy()
        change(other)
        with pytest.raises(ConfigError, match=rf"another start structure.*{words}.*--overwrite"):
            run_md(other, potential, path, PLAN)
    for change, words in CHANGED_PLANS:
        with pytest.raises(ConfigError, match=rf"another simulation \(.*{words}.*--overwrite"):
            run_md(start, potential, path, replace(PLAN, **change))
    coefficients = fitted.model.coefficients.clone()
    coefficients[0] = torch.nextafter(coefficients[0], torch.tensor(9e9, dtype=torch.float64))
    models = [
        (MekrrCalculator(replace(fitted.model, coefficients=coefficients)), "another model"),
        (MekrrCalculator(fitted.model, dtype="float64"), "precision float32 there, float64 now"),
    ]
    for calculator, words in models:
        with pytest.raises(ConfigError, match=words):
            run_md(start, calculator, path, PLAN)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    # the same one by another path and in memory
    fitted.model.save(tmp_path / "copy.mekrr")
    assert run_md(start, Model.load(tmp_path / "copy.mekrr"), path, PLAN).resumed == 2
    assert run_md(start, potential, path, replace(PLAN, steps=3, checkpoint=1, bounds=Bounds(99.0))).resumed == 2


def test_pressure_and_looks_at_the_uncertainty_count_where_they_act(potential, start, tmp_path):
    plan = replace(PLAN, ensemble="npt", steps=1)
    run_md(start, potential, tmp_path / "npt.xyz", plan)
    with pytest.raises(ConfigError, match="pressure 0.0 there, 1.0 now"):
        run_md(start, potential, tmp_path / "npt.xyz", replace(plan, pressure=1.0))
    graded = replace(PLAN, bounds=Bounds(None, grade=1e9, every=1))
    run_md(start, potential, tmp_path / "run.xyz", graded)
    with pytest.raises(ConfigError, match="every 1 there, 2 now"):
        run_md(start, potential, tmp_path / "run.xyz", replace(graded, bounds=Bounds(None, grade=1e9, every=2)))
    raised = replace(graded, bounds=Bounds(None, grade=1e10, every=1))
    assert run_md(start, potential, tmp_path / "run.xyz", raised).resumed == 2
    run_md(start, potential, tmp_path / "cold.xyz", replace(PLAN, ensemble="nve"))
    same = replace(PLAN, ensemble="nve", friction=9.0, pressure=7.0)  # of no thermostat and no barostat
    assert run_md(start, potential, tmp_path / "cold.xyz", same).resumed == 2


def test_overwrite_begins_anew_and_lets_the_same_run_go_on(potential, start, tmp_path):
    path = tmp_path / "run.xyz"
    run_md(start, potential, path, PLAN)
    assert run_md(start, potential, path, PLAN, overwrite=True).resumed == 2
    hot = replace(PLAN, temperature=300.0, steps=1)
    assert run_md(start, potential, path, hot, overwrite=True).resumed == 0
    assert [frame.info["step"] for frame in read(path, ":")] == [0, 1]
    path.with_name("run.restart.json").write_text("{")
    with pytest.raises(ConfigError, match="is not a restart file"):
        run_md(start, potential, path, hot)
    assert run_md(start, potential, path, hot, overwrite=True).resumed == 0


def test_a_strangers_trajectory_stays(potential, start, tmp_path):
    path = tmp_path / "mine.xyz"
    start.write(path, format="extxyz")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="is there already and no restart file"):
        run_md(start, potential, path, PLAN)
    with pytest.raises(ConfigError, match="is there already"):
        relax(start, potential, path)
    assert path.read_bytes() == before
    for name in ("run.xyz.gz", "run.traj", "run.db"):
        with pytest.raises(ConfigError, match="a trajectory cannot be written"):
            run_md(start, potential, tmp_path / name, PLAN)
    assert run_md(start, potential, path, PLAN, overwrite=True).resumed == 0
    (tmp_path / "empty.xyz").touch()
    run_md(start, potential, tmp_path / "empty.xyz", PLAN)


def test_a_run_that_is_killed_before_its_first_state_begins_again(potential, start, tmp_path, monkeypatch):
    path, usual = tmp_path / "run.xyz", dynamics.append_frame
    frames = []

    def killed(where, frame):
        usual(where, frame)
        frames.append(frame)
        if len(frames) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(dynamics, "append_frame", killed)
    with pytest.raises(KeyboardInterrupt):
        run_md(start, potential, path, replace(PLAN, steps=4, checkpoint=4))
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="temperature"):  # whose it is, is known all the same
        run_md(start, potential, path, replace(PLAN, temperature=1.0))
    assert run_md(start, potential, path, replace(PLAN, steps=4, checkpoint=4)).resumed == 0
    assert [frame.info["step"] for frame in read(path, ":")] == [0, 1, 2, 3, 4]


def test_trajectories_of_one_stem_share_nothing(potential, start, tmp_path):
    other = start.copy()
    moved(other)
    starts = {"w.xyz": start, "w.extxyz": other, "w": start, "w.extxyz.xyz": other, "W.XYZ": start}
    refused = []
    for name, atoms in starts.items():
        try:
            assert run_md(atoms, potential, tmp_path / name, PLAN).resumed == 0, name
        except ConfigError as error:
            refused.append((name, str(error)))
    assert [name for name, _ in refused] == ["w.extxyz.xyz"]  # whose restart file would have w.extxyz's name
    assert "is of the trajectory w.extxyz" in refused[0][1]
    for name in ("w.xyz", "w.extxyz", "w", "W.XYZ"):
        assert run_md(starts[name], potential, tmp_path / name, replace(PLAN, steps=3)).resumed == 2


def test_restart_files_of_the_first_version_go_on(potential, start, tmp_path, caplog):
    """They know three things of the plan; the start is looked up in the trajectory."""
    for name, restart in (("run.xyz", "run.restart.json"), ("old.extxyz", "old.extxyz.restart.json")):
        path = tmp_path / name
        run_md(start, potential, path, PLAN)
        state = json.loads((tmp_path / restart).read_text())
        state["plan"] = {key: state["plan"][key] for key in ("ensemble", "timestep", "seed")}
        for key in ("trajectory", "trajectory_xxh3", "seal"):
            del state[key]
        (tmp_path / restart).unlink()
        path.with_name(f"{path.stem}.restart.json").write_text(json.dumps(state))
        other = start.copy()
        other.positions[0, 0] += 0.01
        with pytest.raises(ConfigError, match="another start structure"):
            run_md(other, potential, path, PLAN)
        with pytest.raises(ConfigError, match="seed 0 there"):
            run_md(start, potential, path, replace(PLAN, seed=1))
        caplog.clear()
        assert run_md(start, potential, path, replace(PLAN, steps=3)).resumed == 2
        assert "does not tell its temperature, friction, interval, model" in caplog.text
        assert (tmp_path / restart).exists()  # and is now of this version
        caplog.clear()
        assert run_md(start, potential, path, replace(PLAN, steps=3)).resumed == 3
        assert not caplog.text


def test_a_trajectory_that_was_changed_is_not_continued(potential, start, tmp_path):
    path = tmp_path / "run.xyz"
    run_md(start, potential, path, PLAN)
    whole = path.read_text()
    for text in ("", whole[:100], whole.replace("C ", "H ", 1)):
        path.write_text(text)
        with pytest.raises(ConfigError, match="is shorter than|have changed since"):
            run_md(start, potential, path, replace(PLAN, steps=3))
        assert path.read_text() == text
    assert run_md(start, potential, path, PLAN, overwrite=True).resumed == 0


def test_one_run_at_a_time(potential, start, tmp_path):
    path = tmp_path / "run.xyz"
    lock = Lock(path, "it", keep=True)
    for work in (lambda: run_md(start, potential, path, PLAN), lambda: relax(start, potential, path)):
        with pytest.raises(ConfigError, match="is being written by another run"):
            work()
    lock.release()
    run_md(start, potential, path, PLAN)


@pytest.mark.parametrize("ensemble", ["nve", "langevin", "npt"])
def test_a_continued_run_is_the_uninterrupted_one_bit_by_bit(model_file, start, tmp_path, ensemble):
    """With usual precision and neighbour lists, at every place where a state may be written."""
    plan = replace(PLAN, ensemble=ensemble, steps=9, temperature=2000.0, timestep=2.0, checkpoint=3, interval=9)
    calculator = MekrrCalculator(model_file, skin=0.2)
    whole = run_md(start, calculator, tmp_path / "whole.xyz", plan).atoms
    builds = calculator.neighbours.builds
    for steps in (3, 6, 9):
        part = run_md(start, MekrrCalculator(model_file, skin=0.2), tmp_path / "p.xyz", replace(plan, steps=steps))
    assert part.resumed == 6
    assert builds > 4  # or the lists' order could not have mattered
    for name in ("positions", "momenta"):
        assert np.array_equal(part.atoms.arrays[name], whole.arrays[name]), name
    assert np.array_equal(part.atoms.cell.array, whole.cell.array)


def test_a_continued_run_knows_what_was_known_of_the_uncertainty(potential, start, tmp_path):
    """Until it is due to be looked at again; bounds are no part of a run, and without them nothing is known."""
    plan = replace(PLAN, steps=6, bounds=Bounds(None, grade=1e9, every=4))
    run_md(start, potential, tmp_path / "whole.xyz", plan)
    for steps in (2, 6):
        run_md(start, potential, tmp_path / "parts.xyz", replace(plan, steps=steps))
    assert all("largest_grade" in frame.info for frame in read(tmp_path / "parts.xyz", ":"))
    assert (tmp_path / "parts.xyz").read_bytes() == (tmp_path / "whole.xyz").read_bytes()
    run_md(start, potential, tmp_path / "parts.xyz", replace(plan, steps=7, bounds=Bounds(None)))
    assert "largest_grade" not in read(tmp_path / "parts.xyz").info


def test_a_continued_run_has_its_last_good_frame_from_the_start(model_file, potential, start, tmp_path, monkeypatch):
    """What stops it in its first step leaves the frame that it began with, unless that is beyond a bound."""
    path, good = tmp_path / "run.xyz", tmp_path / "run.last-good.xyz"
    plan = replace(PLAN, bounds=Bounds(None, grade=1e9, every=4))  # not due at step 2
    start.set_momenta(-potential.get_forces(start))  # uphill: forces grow
    end = run_md(start, potential, path, plan).atoms
    farther, bound = replace(plan, steps=4), 1.0001 * np.linalg.norm(end.get_forces(), axis=1).max()
    with pytest.raises(SimulationError, match=r"stopped at step 3: a force .*the last good frame") as error:
        run_md(start, potential, path, replace(farther, bounds=Bounds(bound, grade=1e9, every=4)))
    assert np.array_equal(error.value.atoms.positions, end.positions)
    assert read(good).info["step"] == 2
    good.unlink()
    with pytest.raises(SimulationError, match=r"stopped at step 3: a force") as error:
        run_md(start, potential, path, replace(farther, bounds=Bounds(bound, grade=1e-9, every=4)))
    assert error.value.atoms is None
    assert not good.exists()
    calculator = MekrrCalculator(model_file)
    usual = calculator.potential.predict

    def meeting(atoms, *more):
        if np.array_equal(atoms.positions, end.positions):
            return usual(atoms, *more)
        raise StructureError("atoms 0 and 1 overlap")

    monkeypatch.setattr(calculator.potential, "predict", meeting)
    with pytest.raises(SimulationError, match=r"stopped at step 3: atoms 0 and 1 overlap; the last good frame"):
        run_md(start, calculator, path, farther)
    kept = read(good)
    assert {"step", "predicted_energy", "uncertainty_per_atom", "largest_grade"} <= set(kept.info)
    np.testing.assert_allclose(kept.arrays["predicted_forces"], end.get_forces(), atol=1e-5)


def test_a_run_that_is_farther_than_asked_for_says_where_it_is(potential, start, tmp_path):
    run_md(start, potential, tmp_path / "run.xyz", PLAN)
    report = run_md(start, potential, tmp_path / "run.xyz", replace(PLAN, steps=1))
    assert (report.steps, report.resumed) == (2, 2)


def test_a_calculator_of_what_a_model_corrects_is_part_of_a_run(model_file, start, tmp_path):
    """Where it takes the place of what the model's file names."""
    model = Model.load(model_file)
    prior = PriorSpec("labels", keys=LabelKeys(energy="low"))
    model = replace(model, baseline=replace(model.baseline, prior=True), prior=prior.to_dict())
    low, other = LennardJones(epsilon=1e-3), LennardJones(epsilon=2e-3)
    run_md(start, MekrrCalculator(model, prior=low), tmp_path / "run.xyz", PLAN)
    with pytest.raises(ConfigError, match="another simulation .another prior"):
        run_md(start, MekrrCalculator(model, prior=other), tmp_path / "run.xyz", replace(PLAN, steps=3))
    same = MekrrCalculator(model, prior=LennardJones(epsilon=1e-3))
    assert run_md(start, same, tmp_path / "run.xyz", replace(PLAN, steps=3)).resumed == 2


def carrying(start):
    """A structure with all that may go with one."""
    start.set_constraint(FixAtoms([0, 2]))
    start.set_tags(range(len(start)))
    start.arrays["layer"] = np.arange(len(start))
    start.info |= {"id": "candidate 7", "vec": np.array([1.0, 2.0]), "REF_energy": 5.0, "step": 77, "time_fs": 9.0}
    start.arrays["REF_forces"] = np.ones((len(start), 3))
    start.info["total_energy"] = 1.0
    return start


def test_frames_carry_what_the_start_carries_but_no_labels(potential, start, tmp_path):
    atoms = carrying(start)
    run_md(atoms, potential, tmp_path / "run.xyz", PLAN)
    with pytest.raises(SimulationError, match="not converged") as error:
        relax(atoms, potential, tmp_path / "steps.xyz", force=1e-9, steps=2)
    for frame in [*read(tmp_path / "run.xyz", ":"), *read(tmp_path / "steps.xyz", ":"), error.value.atoms]:
        assert frame.constraints[0].index.tolist() == [0, 2]
        assert frame.get_tags().tolist() == frame.arrays["layer"].tolist() == list(range(len(atoms)))
        assert frame.info["id"] == "candidate 7"
        assert frame.info["vec"].tolist() == [1.0, 2.0]
        assert not {"REF_energy", "REF_forces"} & {*frame.info, *frame.arrays}
        assert frame.info.get("step") != 77
        assert frame.info.get("total_energy") != 1.0
        forces = frame.arrays["predicted_forces"] if "predicted_forces" in frame.arrays else frame.get_forces()
        assert np.isfinite(forces).all()
    assert "REF_energy" in atoms.info  # the caller's own is as it was


def test_a_relaxation_that_does_not_converge_writes_its_last_structure(model_file, start, tmp_path, monkeypatch, capfd):
    carrying(start).write(tmp_path / "start.xyz", format="extxyz")
    arguments = [str(model_file), str(tmp_path / "start.xyz"), "-o", str(tmp_path / "end.cif")]
    for more, words in (
        (
            ["--steps", "2", "--force", "1e-9"],
            r"not converged after 2 steps: the largest force is .*, on atom \d+ \(C\)",
        ),
        (["--steps", "2", "--force", "1e-9", "--cell"], "the cell's is"),
    ):
        monkeypatch.setattr(sys, "argv", ["mekrr-scale", "relax", *arguments, *more, "--overwrite"])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 8
        told = " ".join(capfd.readouterr().err.split())
        assert re.search(words, told), told
        assert "The last structure is in" in told
        last = read(tmp_path / "end.cif")
        assert not np.allclose(last.positions, start.positions)


def test_a_bound_that_stops_a_relaxation_leaves_the_last_good_structure(potential, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atoms = bulk("C", "diamond", 3.6).repeat(2)
    atoms.rattle(0.1, seed=0)
    with pytest.raises(SimulationError, match="exceeds the bound") as error:
        relax(atoms, potential, bounds=Bounds(force=1e-9))
    assert error.value.atoms is None  # the first one was not good either


def test_what_is_selected_and_predicted_carries_no_labels_of_the_model(
    model_file, potential, start, tmp_path, monkeypatch, capfd
):
    """A chosen frame of dynamics goes to DFT: nothing in it may be taken for a label; a prediction keeps the rest."""
    run_md(carrying(start), potential, tmp_path / "run.xyz", replace(PLAN, bounds=Bounds(None, grade=1e9, every=1)))
    lines = {
        "predicted.xyz": ["predict", str(model_file), str(tmp_path / "run.xyz"), "--uncertainty"],
        "next.xyz": ["select", str(model_file), str(tmp_path / "predicted.xyz"), "-n", "2"],
        "parts.xyz": ["explain", str(model_file), str(tmp_path / "predicted.xyz")],
    }
    for name, line in lines.items():
        monkeypatch.setattr(sys, "argv", ["mekrr-scale", *line, "-o", str(tmp_path / name)])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code, capfd.readouterr().err
    for frame in read(tmp_path / "next.xyz", ":"):
        assert frame.calc is None
        names = {*frame.info, *frame.arrays}
        assert {name for name in names if re.search("energ|force|stress", name)} == set(), names
        assert "remaining_uncertainty_per_atom" in names
    for name in lines:
        for frame in read(tmp_path / name, ":"):
            assert frame.constraints[0].index.tolist() == [0, 2], name
            assert frame.get_tags().tolist() == list(range(len(start)))
            assert frame.info["vec"].tolist() == [1.0, 2.0]
            assert frame.info["id"] == "candidate 7"

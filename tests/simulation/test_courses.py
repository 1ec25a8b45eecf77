"""Figures of runs: what they show, that resumed and stopped runs are whole in them, and what the command line draws."""

import warnings
from dataclasses import replace

import ase.io
import matplotlib
import numpy as np
import pytest
import torch
from ase import units
from ase.io import read

from mekrr_scale.errors import ConfigError, SimulationError
from mekrr_scale.models import MekrrCalculator, Model, Potential
from mekrr_scale.regression import UNITS
from mekrr_scale.report import md_plot, relax_plot, selection_plot
from mekrr_scale.simulation import Bounds, MdCourse, MdPlan, RelaxCourse, relax, relaxation_axes, run_md, select
from mekrr_scale.simulation.pools import CHOSEN, OTHERS, TRAINING
from tests.crystals import crystals

matplotlib.use("Agg")
HOT = ("--temperature", "50000", "--max-grade", "1.5", "--every", "1", "--ensemble", "nve", "--interval", "1")


@pytest.fixture(autouse=True)
def closed():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture
def drawn(monkeypatch):
    """The axes of every figure that is written, by the name of its file."""
    from mekrr_scale.report import write_figure

    found = {}

    def write(path, axes, *rest):
        found[path.name] = axes.get_figure().axes
        write_figure(path, axes, *rest)

    monkeypatch.setattr("mekrr_scale.report.plots.write_figure", write)
    return found


def lines(axes):
    """Points of each line, by its name."""
    return {line.get_label(): np.array(line.get_data(), float) for line in axes.get_lines()}


def test_a_run_is_drawn_with_its_numbers(calculator, start, tmp_path):
    plan = MdPlan("nve", 30, 0.5, 300.0, interval=2, bounds=Bounds(None, uncertainty=1.0, grade=99.0, every=2))
    report = run_md(start, calculator, tmp_path / "run.xyz", plan)
    course, frames = MdCourse.read(tmp_path / "run.xyz", plan), read(tmp_path / "run.xyz", ":")
    heat, energy, grade, unsure = course.plot()
    assert [panel.get_xlabel() for panel in (heat, energy, grade, unsure)] == ["time (ps)"] * 4
    for panel, unit in ((heat, "K"), (energy, UNITS["energy"].symbol), (unsure, UNITS["energy"].symbol)):
        assert f"({unit})" in panel.get_ylabel()
    time, kelvin = lines(heat)["of the atoms"]
    np.testing.assert_allclose(time, np.arange(0, 31, 2) * 0.5e-3)
    np.testing.assert_allclose(kelvin, [frame.info["temperature_K"] for frame in frames])
    said = np.array([frame.info["predicted_energy"] for frame in frames])
    whole = np.array([frame.info["total_energy"] for frame in frames])
    factor = 1e3 / len(start)
    np.testing.assert_allclose(lines(energy)["potential"][1], factor * (said - said[0]), atol=1e-3)
    np.testing.assert_allclose(lines(energy)["total"][1], factor * (whole - said[0]), atol=1e-3)
    assert f"{course.drift:.2g} meV/atom per ps" in energy.get_title()
    assert course.drift == pytest.approx(np.polyfit(time, factor * whole, 1)[0], rel=1e-3)
    assert course.drift == pytest.approx(report.drift / 10, rel=0.2, abs=0.1)
    for panel, name, bound, factor in ((grade, "largest_grade", 99, 1), (unsure, "uncertainty_per_atom", 1000, 1e3)):
        first, level = lines(panel).values()
        np.testing.assert_allclose(first[1], [factor * frame.info[name] for frame in frames])
        assert level[1].tolist() == [bound, bound]


def test_pressure_is_that_of_the_moving_cell(crystal_model, tmp_path):
    start = crystals(1, 3)[0].copy()
    plan = MdPlan("npt", 6, 1.0, 300.0, pressure=2.0, interval=3, bounds=Bounds(None))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = run_md(start, MekrrCalculator(crystal_model, dtype="float64"), tmp_path / "run.xyz", plan)
    heat, _, pressure = MdCourse.read(tmp_path / "run.xyz", plan).plot()
    asked, atoms = lines(pressure)["barostat, 2 GPa"], report.atoms
    assert asked[1].tolist() == [2, 2]
    assert lines(heat)["thermostat, 300 K"][1].tolist() == [300, 300]
    found = lines(pressure)["of the cell"][1]
    expected = -atoms.get_stress(include_ideal_gas=True)[:3].mean() / units.GPa
    assert len(found) == 3
    assert found[-1] == pytest.approx(expected, rel=1e-4)


def test_a_resumed_run_is_drawn_whole(run, drawn, model_file, start, tmp_path):
    ase.io.write("start.xyz", start)
    command = ("md", model_file, "start.xyz", "-o", "run.xyz", "--interval", "2", "--plot", "run")
    for steps in ("6", "12"):
        code, _, err = run(*command, "--steps", steps)
        assert code == 0, err
        time, _ = lines(drawn["run.png"][0])["of the atoms"]
        np.testing.assert_allclose(time, np.arange(0, int(steps) + 1, 2) * 1e-3)
    assert (tmp_path / "run.png").stat().st_size > 5000


def test_a_stopped_run_is_drawn_with_the_frame_beyond(run, drawn, model_file, start, tmp_path):
    ase.io.write("start.xyz", start)
    code, _, err = run("md", model_file, "start.xyz", "-o", "hot.xyz", *HOT, "--plot", "hot.png")
    assert code == 8
    step = int(err.split("stopped at step ")[1].split(":")[0])
    grade = drawn["hot.png"][2]
    (time, grades), bound, (at, beyond) = (
        lines(grade)[name] for name in ("of the least sure atom", "bound, 1.5", "stopped here")
    )
    assert bound[1].tolist() == [1.5, 1.5]
    assert at[0] == time[-1] == pytest.approx(step * 1e-3)
    assert beyond[0] == grades[-1] > 1.5
    assert (grades[:-1] <= 1.5).all()
    assert len(read("hot.xyz", ":")) == len(time) - 1


def test_runs_of_one_frame_and_of_none(calculator, start, tmp_path):
    plan = MdPlan("nve", 1, interval=5, bounds=Bounds(force=1e-9))
    with pytest.raises(SimulationError):
        run_md(start, calculator, tmp_path / "none.xyz", plan)
    with pytest.raises(ConfigError, match="holds no frames"):
        MdCourse.read(tmp_path / "none.xyz", plan)
    plan = replace(plan, bounds=Bounds(None))
    run_md(start, calculator, tmp_path / "one.xyz", plan)
    md_plot(tmp_path / "one.png", tmp_path / "one.xyz", plan)
    heat, energy = MdCourse.read(tmp_path / "one.xyz", plan).plot()
    assert [line.get_marker() for line in (*heat.get_lines(), *energy.get_lines())] == ["o"] * 3
    assert energy.get_title() == ""


def test_an_infinite_grade_is_drawn(calculator, start, tmp_path):
    plan = MdPlan("nve", 2, interval=1, bounds=Bounds(None, grade=9.0, every=1))
    run_md(start, calculator, tmp_path / "run.xyz", plan)
    beyond = read(tmp_path / "run.xyz", "-1")
    beyond.info |= {"step": 3, "largest_grade": np.inf}
    beyond.calc = calculator
    beyond.get_potential_energy()
    md_plot(tmp_path / "run.png", tmp_path / "run.xyz", plan, beyond)
    assert len(MdCourse.read(tmp_path / "run.xyz", plan, beyond).time) == 4


def test_relaxations_are_drawn_step_by_step(calculator, toy_structures, tmp_path):
    structure = next(a for a in toy_structures if a.pbc.any()).copy()
    courses = [RelaxCourse(), RelaxCourse(), RelaxCourse()]
    relaxed = relax(structure, calculator, tmp_path / "steps.xyz", 0.05, 300, course=courses[0])
    with pytest.raises(SimulationError, match=r"0\.0001 eV/angstrom"):
        relax(structure, calculator, force=1e-4, steps=3, cell=True, course=courses[2])
    frames = read(tmp_path / "steps.xyz", ":")
    energy, force = courses[0].plot(0.05)
    energies = np.array([frame.get_potential_energy() for frame in frames])
    step, shown = energy.get_lines()[0].get_data()
    assert step.tolist() == list(range(len(frames)))
    np.testing.assert_allclose(shown, energies - energies[0], atol=1e-6)
    (_, sizes), level = lines(force).values()
    assert sizes[-1] == pytest.approx(np.linalg.norm(relaxed.get_forces(), axis=1).max())
    assert level[1].tolist() == [0.05, 0.05]
    assert sizes[-1] <= 0.05 < sizes[-2]
    assert force.get_yscale() == "log"
    assert [panel.get_ylabel().split("(")[1] for panel in (energy, force)] == ["eV)", "eV/angstrom)"]
    energy, _ = relaxation_axes(courses, 0.05)  # one of them has not begun
    assert {name: points.shape[1] for name, points in lines(energy).items()} == {
        "structure 0": len(frames), "structure 2": 4,
    }  # fmt: skip
    relax_plot(tmp_path / "r.png", courses, 0.05)
    with pytest.raises(ConfigError, match="no step"):
        relax_plot(tmp_path / "r.png", [RelaxCourse()], 0.05, overwrite=True)


def test_the_legend_of_many_relaxations_is_the_level(tmp_path):
    courses = [RelaxCourse([0.0, -1.0], [1.0, 0.0]) for _ in range(12)]
    energy, force = relaxation_axes(courses, 0.05)
    assert not energy.get_legend().get_texts()
    assert [text.get_text() for text in force.get_legend().get_texts()] == ["asked for: 0.05 eV/angstrom"]
    relax_plot(tmp_path / "r.png", courses, 0.05)


def test_relax_on_the_command_line(run, drawn, model_file, toy_structures):
    ase.io.write("start.xyz", toy_structures[:2])
    code, _, err = run("relax", model_file, "start.xyz@:", "-o", "r.xyz", "--steps", "2", "--plot", "r.pdf")
    assert code == 8, err
    energy, force = drawn["r.pdf"]
    assert list(lines(energy)) == ["structure 0", "structure 1"]
    assert "asked for: 0.02 eV/angstrom" in lines(force)


@pytest.fixture(scope="module")
def chosen(model_file, toy_structures):
    return select(Potential(Model.load(model_file), dtype=torch.float64), toy_structures[:12], 4)


def test_the_chosen_structures_are_drawn_among_all(chosen, model_file, toy_structures, tmp_path):
    structures, atoms, spread, order = chosen.plot()
    others, taken = structures.collections
    assert (len(others.get_offsets()), len(taken.get_offsets())) == (8, 4)
    assert [text.get_text() for text in structures.texts] == ["1", "2", "3", "4"]
    sizes = [len(toy_structures[i]) for i in range(12)]
    inside = sum(sizes[i] for i in chosen.indices)
    counts = [len(points.get_offsets()) for points in atoms.collections]
    assert counts == [len(Model.load(model_file).landmarks.features), sum(sizes) - inside, inside]
    heights = [bar.get_height() for bar in spread.patches]
    assert (sum(heights[:30]), sum(heights[30:])) == (12, 4)
    assert "(meV/atom)" in spread.get_xlabel()
    np.testing.assert_allclose(lines(order)["when its turn came"][1], 1e3 * chosen.remaining)
    selection_plot(tmp_path / "s.png", chosen)
    assert "meV/atom left at the last" in chosen.headline()


def test_the_map_by_plain_sums(chosen, model_file, toy_structures):
    """Means of structures, and the places of their atoms, by loops."""
    potential = Potential(Model.load(model_file), dtype=torch.float64)
    landmarks, found = potential.model.landmarks, chosen.map
    centres = {z: landmarks.features[landmarks.species == z].mean(0) for z in landmarks.species.unique().tolist()}
    for index in (0, 5, 11):
        runs = potential.batch(toy_structures[index]).runs
        rows = torch.cat([run.features - centres[run.z] for run in runs])
        torch.testing.assert_close(found.structures[index], rows.mean(0).to(found.structures.dtype))
        kind = CHOSEN if index in chosen.indices else OTHERS
        gaps = torch.cdist(rows.double(), found.atoms[found.kinds == kind].double()).min(1).values
        assert float(gaps.max()) < 1e-4
    assert float(found.atoms[found.kinds == TRAINING].mean(0).abs().max()) < 1e-4


def test_select_on_the_command_line(run, drawn, model_file, toy_structures, tmp_path):
    ase.io.write("pool.xyz", toy_structures[:8])
    command = ("select", model_file, "pool.xyz", "-n", "2", "--plot", "map.svg")
    code, out, err = run(*command, "-o", "next.xyz")
    assert code == 0, err
    assert "meV/atom left at the last" in out
    assert len(drawn["map.svg"]) == 4
    ase.io.write("pool.xyz", toy_structures[:2])  # two structures are no map
    (tmp_path / "map.svg").unlink()
    code, _, err = run(*command, "-o", "other.xyz")
    assert code == 0
    assert "could not be drawn" in " ".join(err.split())
    assert len(read("other.xyz", ":")) == 2


@pytest.mark.parametrize("command", ["md", "relax", "select"])
def test_a_figure_of_somebody_elses_is_kept(run, model_file, start, command, tmp_path):
    """Before anything is computed; the package's own is replaced."""
    ase.io.write("start.xyz", start)
    (tmp_path / "mine.png").write_bytes(b"a picture")
    given = (command, model_file, "start.xyz", "-o", "out.xyz", "--plot")
    code, _, err = run(*given, "mine.png")
    assert code == 2
    assert "--plot mine.png is there already" in " ".join(err.split())
    assert run(*given, "figure.foo")[0] == 2
    assert run(*given, "none/figure.png")[0] == 2
    assert not (tmp_path / "out.xyz").exists()


def test_a_figure_that_cannot_be_drawn_warns(run, model_file, start, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no fonts")

    monkeypatch.setattr("mekrr_scale.report.md_plot", fails)
    ase.io.write("start.xyz", start)
    code, out, err = run("md", model_file, "start.xyz", "-o", "run.xyz", "--steps", "2", "--plot", "run.png")
    assert code == 0
    assert "run.xyz: 2 steps" in out
    assert "run.png could not be drawn: RuntimeError: no fonts; the results are whole" in " ".join(err.split())
    code, _, err = run("md", model_file, "start.xyz", "-o", "hot.xyz", *HOT, "--plot", "hot.png")
    assert code == 8
    assert "last good frame" in err

"""The model as i-PI's driver gives what the ASE calculator gives, in one batch, and in whole runs of i-PI."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError

from mekrr_scale.errors import ConfigError, ModelError, SimulationError, StructureError
from mekrr_scale.models import MekrrCalculator
from tests.docs.pages import DOCS, ROOT

ipi = pytest.importorskip("ipi")

from ipi.pes import load_pes  # noqa: E402
from ipi.utils.softexit import softexit  # noqa: E402
from ipi.utils.units import unit_to_internal  # noqa: E402

PES = ROOT / "mekrr_scale" / "engines" / "mekrr_pes.py"
BIN = next(
    (found for place in (Path(ipi.__file__).parents[1] / "bin", Path(sys.executable).parent)
     if (found := place / "i-pi").exists()), None,
).parent  # fmt: skip


def cells():
    """A cell of two atoms, which are their own images; a triclinic one; a slab; a molecule in a box."""
    small = bulk("C", "diamond", 3.6)
    small.rattle(0.05, seed=1)
    sheared = bulk("C", "diamond", 3.6, cubic=True)
    sheared.set_cell(sheared.cell.array @ (np.eye(3) + [[0, 0.05, 0], [0.02, 0, 0.02], [0.01, 0, 0]]), scale_atoms=True)
    sheared.rattle(0.05, seed=2)
    slab = bulk("C", "diamond", 3.6, cubic=True)
    slab.center(vacuum=4.0, axis=2)
    slab.pbc = (True, True, False)
    slab.rattle(0.05, seed=3)
    water = molecule("H2O", cell=np.eye(3) * 3.5)  # images would be neighbours
    water.rattle(0.1, seed=4)
    return {"small": small, "triclinic": sheared, "slab": slab, "molecule": water}


CELLS = cells()


def internal(atoms):
    """Cell and positions as i-PI hands them over."""
    lengths = atoms.cell.array.T, atoms.positions
    return [np.array(unit_to_internal("length", "angstrom", given)) for given in lengths]


def in_ev(result):
    """Energy, forces (the derivative in i-PI's own units), virial of a driver's result."""
    ev, angstrom = unit_to_internal("energy", "electronvolt", 1.0), unit_to_internal("length", "angstrom", 1.0)
    return result[0] / ev, result[1] * angstrom / ev, result[2] / ev


def expected(model_file, atoms, **options):
    atoms = atoms.copy()
    atoms.calc = MekrrCalculator(model_file, dtype="float64", **options)
    return atoms


@pytest.fixture
def make(model_file, tmp_path):
    """A driver as i-PI makes it, of the template and other parameters."""

    def make(atoms, **parameters):
        ase.io.write(tmp_path / "start.xyz", atoms, format="extxyz")
        given = {"template": str(tmp_path / "start.xyz"), "model": str(model_file), "verbosity": False, **parameters}
        return load_pes("custom", str(PES))(**given)

    return make


@pytest.mark.parametrize("name", CELLS)
def test_results_are_the_calculators(make, model_file, name):
    atoms = expected(model_file, CELLS[name])
    energy, forces, virial = in_ev(make(CELLS[name])(*internal(atoms)))
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-9)
    if name == "molecule":
        with pytest.raises(PropertyNotImplementedError):
            atoms.get_stress()
    else:
        np.testing.assert_allclose(-virial / atoms.get_volume(), atoms.get_stress(voigt=False), atol=1e-8)


@pytest.mark.parametrize("name", CELLS)
def test_forces_and_virial_are_derivatives_in_ipis_units(make, name):
    driver, step = make(CELLS[name]), 1e-4
    cell, positions = internal(CELLS[name])
    _, forces, virial, _ = driver(cell, positions)

    def slope(change):
        up, down = (driver(*change(sign * step))[0] for sign in (1, -1))
        return (up - down) / (2 * step)

    direction = np.random.default_rng(0).normal(size=positions.shape)
    moved = slope(lambda t: (cell, positions + t * direction))
    assert -float((forces * direction).sum()) == pytest.approx(moved, abs=1e-6)
    turn = np.random.default_rng(1).normal(size=(3, 3))
    strain = (turn + turn.T) / 2
    strained = slope(lambda t: ((np.eye(3) + t * strain) @ cell, positions @ (np.eye(3) + t * strain)))
    assert -float((virial * strain).sum()) == pytest.approx(strained, abs=1e-6)


def test_beads_are_one_batch(make, model_file, monkeypatch):
    beads = [CELLS["triclinic"].copy() for _ in range(4)]
    for seed, bead in enumerate(beads):
        bead.rattle(0.03, seed=10 + seed)
    driver, batches = make(beads[0]), []
    forward = driver.potential.backbone.forward

    def counted(graph, *given, **named):
        batches.append(graph.n_structures)
        return forward(graph, *given, **named)

    monkeypatch.setattr(driver.potential.backbone, "forward", counted)
    found = driver(*(list(part) for part in zip(*map(internal, beads), strict=True)))
    assert batches == [4]
    for bead, result in zip(beads, found, strict=True):
        atoms = expected(model_file, bead)
        energy, forces, virial = in_ev(result)
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-9)
        np.testing.assert_allclose(-virial / atoms.get_volume(), atoms.get_stress(voigt=False), atol=1e-8)
    alone = driver(*([part] for part in internal(beads[1])))
    assert isinstance(alone, list)
    assert alone[0][0] == pytest.approx(found[1][0], abs=1e-11)


def test_extras_are_the_calculators_uncertainty(make, model_file):
    atoms = expected(model_file, CELLS["slab"], uncertainty=True)
    atoms.get_forces()
    results = make(CELLS["slab"], uncertainty=True)(*([part, part] for part in internal(atoms)))
    for result in results:
        extras = json.loads(result[3])
        assert set(extras) == {"energy_uncertainty", "energies_uncertainty", "extrapolation"}
        for name, value in extras.items():
            np.testing.assert_allclose(value, atoms.calc.results[name], rtol=1e-7)
    assert make(CELLS["slab"])(*internal(atoms))[3] == ""


def test_a_bound_of_the_grade_stops(make):
    far = CELLS["molecule"].copy()
    far.positions[1] += 1.5
    driver = make(CELLS["molecule"], max_grade=1e3)
    near = internal(CELLS["molecule"])
    grade = json.loads(make(far, uncertainty=True)(*internal(far))[3])["extrapolation"]
    assert driver(*near)[3] == ""
    bound = make(CELLS["molecule"], max_grade=0.99 * max(grade))
    told = f"atom {int(np.argmax(grade))} .* of structure 1 of the batch is outside .* grade .* raise max_grade"
    with pytest.raises(SimulationError, match=told) as raised:
        bound(*([one, other] for one, other in zip(near, internal(far), strict=True)))
    np.testing.assert_allclose(raised.value.beyond.positions, far.positions)


def test_a_template_says_what_is_periodic(make, model_file, tmp_path):
    plain = tmp_path / "plain.xyz"
    ase.io.write(plain, CELLS["small"], format="xyz")
    with pytest.raises(ConfigError, match=r"plain.xyz has no cell, .* add pbc: T for a periodic one, pbc: F"):
        make(CELLS["small"], template=str(plain))
    one = expected(model_file, CELLS["small"])
    given = make(CELLS["small"], template=str(plain), pbc="T")
    assert in_ev(given(*internal(one)))[0] == pytest.approx(one.get_potential_energy(), abs=1e-9)
    one.pbc = (True, True, False)
    given = make(CELLS["small"], template=str(plain), pbc="T T F")
    assert in_ev(given(*internal(one)))[0] == pytest.approx(one.get_potential_energy(), abs=1e-9)
    assert list(make(CELLS["small"], pbc=False).template.pbc) == [False] * 3
    with pytest.raises(ConfigError, match="pbc: T maybe is not understood; give T, F, or one for each"):
        make(CELLS["small"], pbc="T maybe")


def test_frames_of_templates_can_be_chosen(make, tmp_path):
    ase.io.write(tmp_path / "run.xyz", [CELLS["molecule"], CELLS["small"]], format="extxyz")
    assert len(make(CELLS["small"], template=f"{tmp_path}/run.xyz").template) == 2
    assert len(make(CELLS["small"], template=f"{tmp_path}/run.xyz@0").template) == 3
    with pytest.raises(ConfigError, match="stands for 2 frames; choose one"):
        make(CELLS["small"], template=f"{tmp_path}/run.xyz@:")


@pytest.mark.parametrize(
    ("parameters", "kind", "told"),
    [
        ({"model": None}, ConfigError, "lacks the parameter model: <parameters>{template: start.xyz, model: model.m"),
        ({"template": ""}, ConfigError, "lacks the parameter template"),
        ({"template": "nowhere.xyz"}, StructureError, "there is no file nowhere.xyz"),
        ({"model": "nowhere.mekrr"}, ModelError, "nowhere.mekrr"),
        ({"max_grad": 1.5}, ConfigError, "no parameter 'max_grad'. Do you mean 'max_grade'"),
        ({"max_grade": -1}, ConfigError, "max_grade: -1 is not understood; give a positive number"),
        ({"max_grade": True}, ConfigError, "max_grade: True is not understood"),
        ({"uncertainty": "yes"}, ConfigError, "uncertainty: yes is not understood; give true or false"),
        ({"dtype": "float46"}, ConfigError, "Do you mean 'float64'"),
    ],
)
def test_parameters_that_cannot_be_used_are_told(make, parameters, kind, told):
    with pytest.raises(kind, match=re.escape(told)):
        make(CELLS["small"], **parameters)


def test_structures_that_cannot_be_used_are_told(make):
    with pytest.raises(ModelError, match=r"species 14 \(Si\) is not among the model's species"):
        make(bulk("Si"))
    driver = make(CELLS["molecule"])
    with pytest.raises(StructureError, match=r"i-PI's structure has 2 atoms, the template .*start.xyz 3; give as"):
        driver(*internal(CELLS["small"]))
    with pytest.raises(StructureError, match="atoms 0 and 1 overlap"):
        driver(np.eye(3) * 10, np.array([[0.0, 0, 0], [0, 0, 0], [0, 0, 2]]))


def test_no_posterior_no_uncertainty(make, fitted, tmp_path):
    from dataclasses import replace

    path = tmp_path / "without.mekrr"
    replace(fitted.model, posterior=None).save(path)
    make(CELLS["small"], model=str(path))
    for parameters in ({"uncertainty": True}, {"max_grade": 2}):
        with pytest.raises(ModelError, match="fit it with uncertainty = true"):
            make(CELLS["small"], model=str(path), **parameters)


def test_within_ipi_errors_end_softly(make, monkeypatch):
    """An exception would end a polling thread alone, and i-PI would wait forever."""
    told = []
    monkeypatch.setattr(softexit, "flist", [("of a simulation", (), {})])
    monkeypatch.setattr(softexit, "trigger", lambda status, message: told.append((status, message)))
    with pytest.raises(StructureError):
        make(CELLS["molecule"])(*internal(CELLS["small"]))
    with pytest.raises(SimulationError):
        make(CELLS["molecule"], max_grade=1e-9)(*internal(CELLS["molecule"]))
    assert [status for status, _ in told] == ["bad", "restartable"]
    assert "give as template the atoms of i-PI's <initialize>" in told[0][1]


# whole runs, in processes of their own


def page_input(steps, checks=True):
    """What docs/engines/ipi.md shows, for some steps, with all digits and the state of every step."""
    text = re.search(r"```xml\n(.*?)```", (DOCS / "engines" / "ipi.md").read_text(), re.DOTALL)[1]
    for old, new in (
        ("<simulation ", "<simulation floatformat='%.17e' "),
        ("<total_steps>1000<", f"<total_steps>{steps}<"),
        ("stride='10'", "stride='1'"),
        ("<checkpoint stride='200'/>", "<checkpoint stride='1' overwrite='false'/>"),
        ("max_grade: 1.5", "max_grade: 1000"),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


def nve_input(steps, forcefield):
    """Of one bead, without a thermostat, with i-PI's virial."""
    text = page_input(steps)
    text = re.sub(r"<trajectory filename='grade'.*?</trajectory>", "", text)
    text = re.sub(r"<ffdirect.*</ffdirect>", forcefield, text, flags=re.DOTALL)
    text = re.sub(r"<thermostat.*</thermostat>", "", text, flags=re.DOTALL).replace("'nvt'", "'nve'")
    return text.replace("nbeads='4'", "nbeads='1'").replace("pressure_cv{megapascal}", "virial_md{ev/ang3}")


DIRECT = """<ffdirect name='mekrr'><pes>custom</pes><pes_path>mekrr_pes.py</pes_path>
    <parameters>{template: start.xyz, model: model.mekrr}</parameters></ffdirect>"""
BOUND = 0.05  # a grade that the run passes after some steps
SOCKET = "<ffsocket name='mekrr' mode='unix'><address>NAME</address></ffsocket>"


def started(folder, *command):
    paths = [str(ROOT), str(Path(ipi.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, str(BIN / command[0]), *command[1:]], cwd=folder, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(model_file, tmp_path_factory):
    """Folders of i-PI's runs, and what i-PI said; all at once, since most of their time is spent on imports."""
    address = f"mekrr-{os.getpid()}"
    diamond = bulk("C", "diamond", 3.6, cubic=True)
    wait = "<ffdirect threaded='true' "
    inputs = {
        "page": (diamond, page_input(3)),
        "bound": (diamond, page_input(50).replace(": 1000", f": {BOUND}").replace("<ffdirect ", wait)),
        "direct": (CELLS["triclinic"], nve_input(4, DIRECT)),
        "socket": (CELLS["triclinic"], nve_input(4, SOCKET.replace("NAME", address))),
    }
    folders, processes = {}, {}
    try:
        for name, (start, text) in inputs.items():
            folders[name] = tmp_path_factory.mktemp(name)
            shutil.copy(model_file, folders[name] / "model.mekrr")
            shutil.copy(PES, folders[name])
            ase.io.write(folders[name] / "start.xyz", start, format="extxyz")
            (folders[name] / "input.xml").write_text(text)
            processes[name] = started(folders[name], "i-pi", "input.xml")
        deadline = time.monotonic() + 60
        while not Path(f"/tmp/ipi_{address}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        options = "template=start.xyz,model=model.mekrr"
        client = ("i-pi-driver-py", "-m", "custom", "-P", "mekrr_pes.py", "-u", "-a", address, "-o", options)
        processes["client"] = started(folders["socket"], *client)
        told = {name: process.communicate(timeout=120)[0] for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
    return folders, told


def properties(folder):
    """Columns of the file of properties, by name."""
    lines = (folder / "run.out").read_text().splitlines()
    names = [re.search(r"--> (\w+)", line)[1] for line in lines if line.startswith("# col")]
    rows = np.array([line.split() for line in lines if not line.startswith("#")], dtype=float)
    assert len(names) <= rows.shape[1]
    return dict(zip(names, rows.T, strict=False)), rows


def states(folder, model_file):
    """The beads of every step, with the calculator, out of i-PI's checkpoints."""
    start, found = expected(model_file, ase.io.read(folder / "start.xyz")), []
    angstrom = unit_to_internal("length", "angstrom", 1.0)
    for path in sorted(folder.glob("run.restart_*")):
        text = path.read_text()
        beads, cell = (
            np.array(re.search(rf"<{name} shape[^>]*>\s*\[(.*?)\]", text, re.DOTALL)[1].split(","), dtype=float)
            / angstrom
            for name in ("q", "cell")
        )
        found.append([])
        for bead in beads.reshape(-1, len(start), 3):
            atoms = expected(model_file, start)
            atoms.set_cell(cell.reshape(3, 3).T)
            atoms.positions = bead
            found[-1].append(atoms)
    return found


def test_the_input_of_the_page_runs(runs, model_file):
    """Path integrals of four beads; energies along the way are the calculator's, grades are written."""
    folder, told = runs[0]["page"], runs[1]["page"]
    found, _ = properties(folder)
    assert list(found["step"]) == [0, 1, 2, 3], told
    beads = states(folder, model_file)
    assert [len(step) for step in beads] == [4, 4, 4, 4]
    means = [np.mean([atoms.get_potential_energy() for atoms in step]) for step in beads]
    np.testing.assert_allclose(found["potential"], means, rtol=0, atol=1e-9)
    atoms = expected(model_file, beads[3][2], uncertainty=True)
    atoms.get_potential_energy()
    written = np.loadtxt(folder / "run.grade_2", comments=" #")
    assert written.shape == (4, 8)
    np.testing.assert_allclose(written[3], atoms.calc.results["extrapolation"], rtol=1e-7)


def test_nve_by_both_ways_is_the_calculators(runs, model_file):
    """In one process and by a socket the same numbers; the virial is minus ASE's stress, the energy is conserved."""
    folder = runs[0]["direct"]
    (found, rows), (_, by_socket) = properties(folder), properties(runs[0]["socket"])
    assert list(found["step"]) == [0, 1, 2, 3, 4], runs[1]["direct"]
    np.testing.assert_array_equal(by_socket, rows, runs[1]["socket"] + runs[1]["client"])
    atoms = [step[0] for step in states(folder, model_file)]
    energies, stress = zip(
        *((a.get_potential_energy(), a.get_stress()[[0, 1, 2, 5, 4, 3]]) for a in atoms), strict=True
    )
    np.testing.assert_allclose(found["potential"], energies, rtol=0, atol=1e-9)
    np.testing.assert_allclose(-rows[:, -6:], stress, rtol=0, atol=1e-8)
    assert np.ptp(found["conserved"]) < 1e-5  # eV, where the potential changes by 4e-3
    assert np.ptp(found["potential"]) > 1e-3


def test_a_bound_ends_a_run_with_its_restart(runs):
    """In a polling thread, of which i-PI hears by a soft exit alone."""
    folder, told = runs[0]["bound"], runs[1]["bound"]
    assert re.search(r"atom \d \(C\) of structure \d of the batch is outside of .* the bound is 0.05\. Add", told), told
    last = int(properties(folder)[0]["step"][-1])
    assert 1 < last < 49
    assert re.search(r"<step>(\d+)<", (folder / "RESTART").read_text())[1] == str(last)
    assert np.loadtxt(folder / "run.grade_0", comments=" #").max() < BOUND


def test_the_path_of_the_file_is_printed(capsys):
    runpy.run_path(str(PES), run_name="__main__")
    assert capsys.readouterr().out.strip() == str(PES)

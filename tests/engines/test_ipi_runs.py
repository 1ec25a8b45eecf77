"""Whole runs of i-PI, in processes of their own: the input of its page, NVE by both ways, a bound."""

import contextlib
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
import unittest.mock
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest

from tests.docs.pages import DOCS, ROOT
from tests.engines.cells import expected, sheared

ipi = pytest.importorskip("ipi")

from ipi.utils.units import unit_to_internal  # noqa: E402

PES = ROOT / "mekrr_scale" / "engines" / "mekrr_pes.py"
SITE = Path(ipi.__file__).parents[1]
PLACES = os.pathsep.join(map(str, (Path(sys.executable).parent, SITE / "bin")))  # pip's --target has the latter


def page_input(steps):
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


DIRECT = """<ffdirect name='mekrr' threaded='true'><pes>custom</pes><pes_path>mekrr_pes.py</pes_path>
    <parameters>{template: start.xyz, model: model.mekrr, max_grade: BOUND}</parameters></ffdirect>"""
SOCKET = "<ffsocket name='mekrr' mode='unix'><address>NAME</address></ffsocket>"


def program(name):
    return shutil.which(name, path=PLACES)


def started(folder, *command):
    paths = [str(ROOT), str(SITE), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, program(command[0]), *command[1:]], cwd=folder, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def client(folder, address):
    """i-PI's client, in this process, which has imported all that."""
    options = "template=start.xyz,model=model.mekrr"
    line = [program("i-pi-driver-py"), "-m", "custom", "-P", "mekrr_pes.py", "-u", "-a", address, "-o", options]
    with contextlib.chdir(folder), unittest.mock.patch.object(sys, "argv", line), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its socket open
        runpy.run_path(line[0], run_name="__main__")


@pytest.fixture(scope="module")
def runs(model_file, tmp_path_factory):
    """Folders of i-PI's runs, and what i-PI said; all at once, since most of their time is spent on imports."""
    address = f"mekrr-{os.getpid()}"
    start = expected(model_file, sheared(), uncertainty=True)
    start.get_potential_energy()
    bound = f"{1.3 * start.calc.results['extrapolation'].max():.4f}"  # which is passed after some steps
    inputs = {
        "page": page_input(3),
        "direct": nve_input(20, DIRECT.replace("BOUND", bound)),
        "socket": nve_input(4, SOCKET.replace("NAME", address)),
    }
    folders, processes = {}, {}
    try:
        for name, text in inputs.items():
            folders[name] = tmp_path_factory.mktemp(name)
            shutil.copy(model_file, folders[name] / "model.mekrr")
            shutil.copy(PES, folders[name])
            ase.io.write(folders[name] / "start.xyz", sheared(), format="extxyz")
            (folders[name] / "input.xml").write_text(text)
            processes[name] = started(folders[name], "i-pi", "input.xml")
        deadline = time.monotonic() + 60
        while not Path(f"/tmp/ipi_{address}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        client(folders["socket"], address)
        told = {name: process.communicate(timeout=120)[0] for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
    return folders, told, bound


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
    for path in sorted(folder.glob("run.restart_*"), key=lambda path: int(path.name.split("_")[1])):
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
    assert list(found["step"][:5]) == [0, 1, 2, 3, 4], runs[1]["direct"]
    np.testing.assert_array_equal(by_socket, rows[:5], runs[1]["socket"])
    atoms = [step[0] for step in states(folder, model_file)]
    energies, stress = zip(
        *((a.get_potential_energy(), a.get_stress()[[0, 1, 2, 5, 4, 3]]) for a in atoms), strict=True
    )
    np.testing.assert_allclose(found["potential"], energies, rtol=0, atol=1e-9)
    np.testing.assert_allclose(-rows[:, -6:], stress, rtol=0, atol=1e-8)
    assert np.ptp(found["conserved"]) < 1e-4  # eV
    assert np.ptp(found["potential"]) > 1e-3


def test_a_bound_ends_a_run_with_its_restart(runs):
    """In a polling thread, of which i-PI hears by a soft exit alone."""
    folder, told, bound = runs[0]["direct"], runs[1]["direct"], runs[2]
    assert re.search(rf"atom \d \(C\) is outside of .* the bound is {float(bound):g}\. Add such", told), told
    last = int(properties(folder)[0]["step"][-1])
    assert 5 < last < 19
    assert re.search(r"<step>(\d+)<", (folder / "RESTART").read_text())[1] == str(last)

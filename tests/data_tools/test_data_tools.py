"""data_tools on small samples of the published layouts."""

import contextlib
import hashlib
import json
import sys

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import GPa, kcal, mol

from data_tools import __main__ as command
from data_tools.convert import convert, write
from data_tools.download import download, read_sums
from data_tools.inspect import inspect
from data_tools.split import near_duplicates, split
from mekrr_scale.errors import ConfigError, StructureError
from mekrr_scale.structures import LabelKeys, read_structures
from tests.conftest import DATA, toy_energy


def test_mlearn_json(tmp_path):
    entry = {
        "structure": {
            "lattice": {"matrix": [[5.4, 0, 0], [0, 5.4, 0], [0, 0, 5.4]]},
            "sites": [
                {"species": [{"element": "Si", "occu": 1}], "xyz": [0, 0, 0]},
                {"species": [{"element": "Si", "occu": 1}], "xyz": [1.35, 1.35, 1.35]},
            ],
        },
        "outputs": {"energy": -10.8, "forces": [[0.1, 0, 0], [-0.1, 0, 0]], "virial_stress": [10, 20, 30, 4, 5, 6]},
        "group": "Elastic",
    }
    (tmp_path / "Si.json").write_text(json.dumps([entry]))
    (atoms,) = convert(tmp_path / "Si.json", "mlearn")
    assert atoms.get_potential_energy() == -10.8
    assert atoms.info["group"] == "Elastic"
    # VASP: xx yy zz xy yz zx in kbar, opposite sign; ASE: xx yy zz yz xz xy
    assert atoms.get_stress() == pytest.approx(-0.1 * GPa * np.array([10, 20, 30, 5, 6, 4]))


@pytest.mark.parametrize("revised", [False, True])
def test_md17_npz(tmp_path, revised):
    names = ("nuclear_charges", "coords", "energies", "forces") if revised else ("z", "R", "E", "F")
    arrays = (np.array([8, 1, 1]), np.ones((2, 3, 3)), np.array([[-100.0], [-101.0]]), np.full((2, 3, 3), 2.0))
    np.savez(tmp_path / "w.npz", **dict(zip(names, arrays, strict=True)))
    frames = list(convert(tmp_path / "w.npz", "rmd17" if revised else "md17"))
    assert frames[1].get_potential_energy() == pytest.approx(-101 * kcal / mol)
    assert frames[0].get_forces()[0, 0] == pytest.approx(2 * kcal / mol)
    assert write(tmp_path / "w.xyz.xz", frames) == 2
    back = list(read_structures(tmp_path / "w.xyz.xz"))
    assert back[0].get_potential_energy() == pytest.approx(-100 * kcal / mol)


def test_other_keys_and_units(tmp_path):
    atoms = molecule("H2O")
    atoms.info["dft"] = -1.0
    atoms.arrays["grad"] = np.ones((3, 3))
    ase.io.write(tmp_path / "x.xyz", atoms, format="extxyz")
    keys = LabelKeys("dft", "grad", energy_unit="Hartree")
    (clean,) = convert(tmp_path / "x.xyz", "ase", keys)
    assert clean.get_potential_energy() == pytest.approx(-27.211386)
    assert "dft" not in clean.info


def test_outcar(tmp_path):
    """A minimal OUTCAR as ASE reads it."""
    (tmp_path / "OUTCAR").write_text(OUTCAR)
    (atoms,) = convert(tmp_path / "OUTCAR")
    assert atoms.get_chemical_formula() == "Si2"
    assert atoms.get_potential_energy() == pytest.approx(-10.5)  # free energy: force-consistent
    assert atoms.get_forces()[1, 2] == pytest.approx(-0.3)


def test_conversion_refuses_other_layouts(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}')
    np.savez(tmp_path / "x.npz", a=np.zeros(2))
    for path, kind, message in (
        ("x.json", "mlearn", "not a JSON file of the mlearn"),
        ("x.npz", "rmd17", "not an npz file of MD17"),
        ("x.npz", "md71", "Do you mean 'md17'"),
        ("none.npz", "md17", "there is no file"),
    ):
        with pytest.raises(StructureError, match=message):
            list(convert(tmp_path / path, kind))


def test_split_keeps_copies_together(toy_structures):
    frames = [a.copy() for a in toy_structures]
    nudged = frames[0].copy()
    nudged.rotate(40, (1, 0, 0))
    nudged.positions += np.random.default_rng(0).normal(scale=1e-4, size=nudged.positions.shape)
    frames += [frames[3].copy(), nudged]
    same, near = near_duplicates(frames, 0.02)
    assert (3, 24) in same
    assert (0, 25) in near
    found = split(frames, (0.7, 0.3), seed=1)
    assert sorted(np.concatenate(found.parts).tolist()) == list(range(26))
    for a, b in ((3, 24), (0, 25)):
        assert any({a, b} <= set(part.tolist()) for part in found.parts)
    assert abs(len(found.parts[0]) - 18.2) < 3
    grouped = split(list(toy_structures), (0.5, 0.5), group_key="trajectory", tolerance=0.0)
    sides = [{toy_structures[i].info["trajectory"] for i in part} for part in grouped.parts]
    assert not sides[0] & sides[1]
    with pytest.raises(ConfigError, match="add up to 1"):
        split(frames, (0.7, 0.7))
    with pytest.raises(ConfigError, match="no info key"):
        split(frames, (0.5, 0.5), group_key="nothing")


def test_inspection(toy_structures):
    summary = inspect(read_structures(DATA / "test.xyz.xz"))
    assert summary.structures == 40
    assert set(summary.atoms) == {"Cu", "C", "O", "H"}
    assert summary.to_dict()["with stress"] == 0
    frames = [*toy_structures, toy_structures[2]]
    broken = molecule("H2O")
    broken.calc = SinglePointCalculator(broken, energy=np.nan)
    strange = molecule("H2O")
    strange.calc = SinglePointCalculator(strange, energy=400.0, forces=np.full((3, 3), 50.0))
    summary = inspect([*frames, broken, strange])
    reasons = " ".join(reason for _, reason in summary.suspicious)
    for expected in ("copy of structure 2", "energy not finite", "force component of 50.0", "net force", "composition"):
        assert expected in reasons


def test_inspection_finds_units_that_disagree():
    frames = []
    generator = np.random.default_rng(0)
    atoms = molecule("CH4")
    for _ in range(30):
        atoms = atoms.copy()
        atoms.positions += generator.normal(scale=0.03, size=(5, 3))
        energy, forces = toy_energy(atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    assert inspect(frames).unit_slope == pytest.approx(1.0, abs=0.1)
    for atoms in frames:
        atoms.calc.results["energy"] *= 23.06
    summary = inspect(frames)
    assert summary.unit_slope == pytest.approx(23.06, rel=0.1)
    assert any("units disagree" in reason for _, reason in summary.suspicious)


def test_download(tmp_path):
    source = tmp_path / "set.zip"
    source.write_bytes(b"data")
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{hashlib.sha256(b'data').hexdigest()}  set.zip\n")
    target = download(source.as_uri(), tmp_path / "got", sums)
    assert target.read_bytes() == b"data"
    source.unlink()
    assert download(source.as_uri(), tmp_path / "got", sums) == target  # there already
    target.write_bytes(b"spoilt")
    with pytest.raises(StructureError, match="cannot download"):
        download(source.as_uri(), tmp_path / "got", sums)
    source.write_bytes(b"another")
    with pytest.raises(StructureError, match="the file was removed"):
        download(source.as_uri(), tmp_path / "got2", sums)
    with pytest.raises(StructureError, match="has no sum for"):
        download("file:///x/other.zip", tmp_path, sums)
    sums.write_text("abc set.zip")
    with pytest.raises(StructureError, match="line 1"):
        read_sums(sums)


def test_command_line(tmp_path, monkeypatch, capsys, toy_file):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["data_tools", *map(str, arguments)])
        try:
            command.main()
        except SystemExit as end:
            return end.code, capsys.readouterr()
        return 0, capsys.readouterr()

    code, output = run("inspect", toy_file)
    assert code == 0
    assert json.loads(output.out)["structures"] == 24
    code, output = run("split", toy_file, tmp_path / "a.xyz", tmp_path / "b.xyz.xz", "--fractions", "0.75,0.25")
    assert code == 0
    assert sum(len(list(read_structures(tmp_path / name))) for name in ("a.xyz", "b.xyz.xz")) == 24
    assert run("convert", toy_file, tmp_path / "c.xyz.gz")[0] == 0
    assert len(list(read_structures(tmp_path / "c.xyz.gz"))) == 24
    code, output = run("convert", toy_file, tmp_path / "d.xyz", "--kind", "md71")
    assert code == 3
    assert "Do you mean" in output.err
    assert run("split", toy_file, tmp_path / "a.xyz", "--fractions", "half")[0] == 2


OUTCAR = """\
 vasp.5.4.4
 POTCAR:    PAW_PBE Si 05Jan2001
   number of dos      NEDOS =    301   number of ions     NIONS =      2
   ions per type =               2
   VRHFIN =Si: s2p2
   TITEL  = PAW_PBE Si 05Jan2001
--------------------------------------- Iteration      1(   1)  ---------------------------------------
  direct lattice vectors                 reciprocal lattice vectors
     5.400000000  0.000000000  0.000000000     0.185185185  0.000000000  0.000000000
     0.000000000  5.400000000  0.000000000     0.000000000  0.185185185  0.000000000
     0.000000000  0.000000000  5.400000000     0.000000000  0.000000000  0.185185185

 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
      0.00000      0.00000      0.00000         0.000000      0.000000      0.300000
      1.35000      1.35000      1.35000         0.000000      0.000000     -0.300000
 -----------------------------------------------------------------------------------
    total drift:                                0.000000      0.000000      0.000000

  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  =       -10.50000000 eV

  energy  without entropy=      -10.40000000  energy(sigma->0) =      -10.45000000
"""


def test_a_download_that_drips_ends(tmp_path):
    """A server that sends a byte now and then, for ever."""
    import http.server
    import threading

    class Dripping(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while not over.wait(0.01):
                    self.wfile.write(b"x")
                    self.wfile.flush()

        def log_message(self, *_):
            pass

    over = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dripping)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "sums").write_text(f"{'0' * 64}  data.xyz\n")
    try:
        with pytest.raises(StructureError, match="are too few"):
            download(f"http://127.0.0.1:{server.server_port}/data.xyz", tmp_path, tmp_path / "sums", timeout=0.3)
    finally:
        over.set()
        server.shutdown()
        server.server_close()
    assert not list(tmp_path.glob("data*"))


def test_names_that_are_none(tmp_path):
    with pytest.raises(StructureError, match="unknown source 'md71'.*Do you mean 'md17'"):
        list(convert(tmp_path / "x", "md71"))
    with pytest.raises(StructureError, match="cannot read the checksum file"):
        download("file:///x", tmp_path, tmp_path / "none")


def test_frames_are_told_the_file_that_they_come_from(tmp_path, monkeypatch):
    frames = [molecule("H2O"), molecule("CO")]
    for name in ("run1", "run2"):
        ase.io.write(tmp_path / f"{name}.xyz", frames, format="extxyz")
    frames[0].info["trajectory"] = "of its own"
    ase.io.write(tmp_path / "run3.xyz.gz", frames, format="extxyz")
    given = [str(tmp_path / name) for name in ("run1.xyz", "run2.xyz", "run3.xyz.gz", "all.xyz")]
    monkeypatch.setattr(sys, "argv", ["data_tools", "convert", *given])
    with pytest.raises(SystemExit, match="0"):
        command.main()
    told = [atoms.info["trajectory"] for atoms in ase.io.read(given[-1], ":")]
    assert told == ["run1", "run1", "run2", "run2", "of its own", "run3"]
    assert "trajectory" not in next(convert(given[0])).info


def test_files_of_one_name_in_two_folders_are_two_trajectories(tmp_path, monkeypatch):
    """As runs of VASP are: run1/OUTCAR, run2/OUTCAR."""
    paths = [tmp_path / run / "OUTCAR" for run in ("run1", "run2")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(OUTCAR)
    monkeypatch.setattr(sys, "argv", ["data_tools", "convert", *map(str, paths), str(tmp_path / "all.xyz")])
    with pytest.raises(SystemExit, match="0"):
        command.main()
    assert [atoms.info["trajectory"] for atoms in ase.io.read(tmp_path / "all.xyz", ":")] == list(map(str, paths))

"""Formats of other programs: labels come out in eV and angstrom with ASE's signs, whatever their files hold."""

import lzma
import shutil
import sys
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase.units import GPa

from mekrr_scale.errors import StructureError
from mekrr_scale.structures import LabelKeys, Survey, count_structures, is_deepmd, read_labels, read_structures

HERE = Path(__file__).parent / "formats"
FRAMES = list(read_structures(HERE / "frames.xyz"))


def alike(found, expected, tolerance=1e-7, stress=True):
    """Structure and labels are the same."""
    labels, wanted = read_labels(found, LabelKeys()), read_labels(expected, LabelKeys())
    assert list(found.symbols) == list(expected.symbols)
    assert found.pbc.tolist() == expected.pbc.tolist()
    np.testing.assert_allclose(found.positions, expected.positions, atol=tolerance)
    np.testing.assert_allclose(found.cell.array, expected.cell.array, atol=tolerance)
    assert labels.energy == pytest.approx(wanted.energy, abs=max(tolerance, 1e-7) * 50)
    np.testing.assert_allclose(labels.forces, wanted.forces, atol=tolerance)
    if stress:
        np.testing.assert_allclose(labels.stress, wanted.stress, atol=tolerance)
    else:
        assert labels.stress is None


def test_folders_of_deepmd_are_those_that_dpdata_writes():
    assert is_deepmd(HERE / "deepmd")
    assert not is_deepmd(HERE / "frames.xyz")
    found = list(read_structures(HERE / "deepmd"))
    assert count_structures(HERE / "deepmd") == len(found) == 3
    for atoms, expected in zip(found, FRAMES[:3], strict=True):
        alike(atoms, expected)
    (last,) = read_structures(f"{HERE / 'deepmd'}@-1")
    alike(last, FRAMES[2])


def test_folders_of_mixed_types_lose_their_padding():
    found = sorted(read_structures(HERE / "mixed"), key=lambda atoms: (-len(atoms), atoms.get_potential_energy()))
    expected = sorted(FRAMES, key=lambda atoms: (-len(atoms), atoms.get_potential_energy()))
    for atoms, wanted in zip(found, expected, strict=True):
        alike(atoms, wanted)


def test_many_systems_of_deepmd_are_told_apart(tmp_path):
    shutil.copytree(HERE / "deepmd", tmp_path / "all" / "b")
    shutil.copytree(HERE / "deepmd", tmp_path / "all" / "a")
    (tmp_path / "all" / "a" / "nopbc").touch()
    found = list(read_structures(tmp_path / "all"))
    assert [atoms.info["system"] for atoms in found] == ["a"] * 3 + ["b"] * 3
    assert not found[0].pbc.any()
    assert read_labels(found[0], LabelKeys()).stress is None  # of a molecule
    alike(found[3], FRAMES[0])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("type_map.raw", None, "type_map.raw is missing: write the element"),
        ("type_map.raw", "Ni Foo", "'Foo' is no element"),
        ("type_map.raw", "Ni", "type 1, but type_map.raw names 1 elements"),
        ("type.raw", "0 1 one", "something else than the numbers of types"),
        ("type.raw", "0 1 1", "is it of another system"),
        ("set.000/coord.npy", None, "coord.npy is missing"),
        ("set.000/force.npy", "text", "is damaged"),
        ("set.000", None, "no folder set.000"),
    ],
)
def test_damaged_folders_of_deepmd(tmp_path, name, content, message):
    folder = tmp_path / "system"
    shutil.copytree(HERE / "deepmd", folder)
    if name == "set.000":
        shutil.rmtree(folder / "set.000")
        shutil.rmtree(folder / "set.001")
    elif content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(StructureError, match=message):
        list(read_structures(folder))


def test_n2p2_is_read_in_the_units_that_are_named(tmp_path):
    for atoms, expected in zip(read_structures(HERE / "input.data", "n2p2:Hartree,bohr"), FRAMES[:3], strict=True):
        alike(atoms, expected, 2e-6, stress=False)
    text = (
        "begin\ncomment of a run\nlattice 4 0 0\nlattice 0 4 0\nlattice 0 0 4\natom 0 0 1 Cu 0.5 0 1 2 3\n"
        "energy -2\ncharge 1\nend\nbegin\natom 0 0 0 H 0 0 0 0 0\nenergy -1\nend\n"
    )
    (tmp_path / "set.data").write_text(text)
    found = list(read_structures(tmp_path / "set.data", "n2p2:eV,angstrom"))
    labels = read_labels(found[0], LabelKeys())
    assert labels.energy == -2.0
    assert labels.forces.tolist() == [[1.0, 2.0, 3.0]]
    assert found[0].positions.tolist() == [[0, 0, 1]]
    assert found[0].info == {"comment": "of a run", "charge": 1.0}
    assert found[0].arrays["charges"].tolist() == [0.5]
    assert not found[1].pbc.any()


@pytest.mark.parametrize(
    ("format", "message"),
    [
        (None, "says no units: name those of energies and lengths, e.g. --format n2p2:Hartree,bohr"),
        ("n2p2", "says no units"),
        ("n2p2:hartree,bohr", "unknown unit 'hartree'. Do you mean 'Hartree'"),
        ("n2p2:eV,furlong", "unknown unit 'furlong'"),
    ],
)
def test_n2p2_without_units_is_refused(format, message, tmp_path):
    with pytest.raises(StructureError, match=message):
        list(read_structures(HERE / "input.data", format))
    if format is None:
        (tmp_path / "train.data.xz").write_bytes(lzma.compress(b"# of a run\n" + (HERE / "input.data").read_bytes()))
        with pytest.raises(StructureError, match=message):
            list(read_structures(tmp_path / "train.data.xz"))


def test_other_files_of_that_suffix_are_left_to_ase(tmp_path):
    ase.io.write(tmp_path / "cell.data", FRAMES[0], format="lammps-data", masses=True)
    (found,) = read_structures(tmp_path / "cell.data", "lammps-data")
    assert len(found) == 4


def test_bad_frames_of_n2p2_take_none_of_the_others_along(tmp_path):
    good = "begin\natom 0 0 0 H 0 0 0 0 0\nenergy -1\nend\n"
    bad = ["begin\natom 0 0 x H 0 0 0 0 0\nenergy -1\nend\n", good.replace("H", "Qq"), good.replace("end\n", "")]
    (tmp_path / "input.data").write_text("".join(f"{each}{good}" for each in bad) + "junk\nbegin\natom 0 0 0 H\n")
    found = list(read_structures(tmp_path / "input.data", "n2p2:eV,angstrom", keep_unreadable=True))
    assert [len(atoms) for atoms in found] == [0, 1, 0, 1, 0, 1, 0, 0]
    assert "the frame has no end" in found[4].reason
    assert "expected begin" in found[6].reason
    assert "middle of a frame" in found[7].reason
    with pytest.raises(StructureError, match="line 1 cannot be read"):
        list(read_structures(tmp_path / "input.data", "n2p2:eV,angstrom"))


def mlab(frames):
    """As VASP writes it: stress in kbar, positive under compression, in the order XX YY ZZ, XY YZ ZX."""
    stars, equals, dashes = (character * 50 for character in "*=-")
    lines = [" 1.0 Version", stars, "     The number of configurations", dashes, f"      {len(frames)}"]
    lines += [stars, "     Basis set for Ni", dashes, "          1      1"]

    def section(rule, title, *values):
        return [rule, f"     {title}", dashes, *values]

    def rows(values):
        return [" ".join(f"{value:.15E}" for value in row) for row in values]

    for number, atoms in enumerate(frames, 1):
        xx, yy, zz, yz, zx, xy = -atoms.get_stress() / (0.1 * GPa)
        lines += [
            stars, f"     Configuration num.   {number}", *section(equals, "System name", "  Ni of   64"),
            *section(equals, "The number of atom types", "  2"), *section(equals, "The number of atoms", "  4"),
            *section(stars, "Atom types and atom numbers", "     Ni_pv   1", "     Cu    3"),
            *section(equals, "CTIFOR", "  2.0E-002"),
            *section(equals, "Primitive lattice vectors (ang.)", *rows(atoms.cell)),
            *section(equals, "Atomic positions (ang.)", *rows(atoms.positions)),
            *section(equals, "Total energy (eV)", f"  {atoms.get_potential_energy():.12f}"),
            *section(equals, "Forces (eV ang.^-1)", *rows(atoms.get_forces())),
            *section(equals, "Stress (kbar)"), "     XX YY ZZ", dashes, *rows([(xx, yy, zz)]),
            dashes, "     XY YZ ZX", dashes, *rows([(xy, yz, zx)]),
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def test_ml_ab_of_vasp(tmp_path):
    text = mlab(FRAMES[:3])
    for name, format in (("ML_AB", None), ("ML_ABN.xz", None), ("learned", "mlab")):
        data = text.encode()
        (tmp_path / name).write_bytes(lzma.compress(data) if name.endswith("xz") else data)
        for atoms, expected in zip(read_structures(tmp_path / name, format), FRAMES[:3], strict=True):
            alike(atoms, expected)
            assert atoms.info["system"] == "Ni of 64"
    (tmp_path / "ML_AB").write_text(text[: text.rindex("Forces")])
    found = list(read_structures(tmp_path / "ML_AB", keep_unreadable=True))
    assert [len(atoms) for atoms in found] == [4, 4, 0]
    with pytest.raises(StructureError, match="configuration 3 of the ML_AB file is not whole"):
        list(read_structures(tmp_path / "ML_AB"))


def vasprun(steps, nelm=3):
    """A run of one atom: electronic steps of each ionic one; free energy -5, without entropy -4.8, at sigma 0 -4.9."""
    basis = '<varray name="basis"><v>3 0 0</v><v>0 3 0</v><v>0 0 3</v></varray>'
    place = '<varray name="positions"><v>0 0 0.5</v></varray>'
    energy = '<i name="e_fr_energy">-5</i><i name="e_wo_entrp">-4.8</i><i name="e_0_energy">-4.9</i>'
    calculation = (
        "<calculation>{scf}"
        f'<structure><crystal>{basis}</crystal>{place}</structure><varray name="forces"><v>1 2 3</v></varray>'
        '<varray name="stress"><v>10 1 2</v><v>1 20 3</v><v>2 3 30</v></varray>'
        f"<energy>{energy}</energy></calculation>"
    )
    scf = f"<scstep><energy>{energy}</energy></scstep>"
    return (
        f'<?xml version="1.0"?><modeling><parameters><i type="int" name="NELM">{nelm}</i></parameters>'
        '<kpoints><varray name="kpointlist"><v>0 0 0</v></varray><varray name="weights"><v>1</v></varray></kpoints>'
        '<atominfo><array name="atoms"><set><rc><c>Cu</c><c>1</c></rc></set></array></atominfo>'
        f'<structure name="initialpos"><crystal>{basis}</crystal>{place}</structure>'
        f"{''.join(calculation.format(scf=scf * count) for count in steps)}</modeling>"
    )


@pytest.mark.parametrize("name", ["vasprun.xml", "vasprun.xml.xz", "run.vasprun.xml"])
def test_vasprun_has_the_free_energy_and_tells_what_did_not_converge(tmp_path, name):
    data = vasprun([2, 3, 1]).encode()
    (tmp_path / name).write_bytes(lzma.compress(data) if name.endswith("xz") else data)
    found = list(read_structures(tmp_path / name))
    for atoms in found:
        labels = read_labels(atoms, LabelKeys())
        assert labels.energy == pytest.approx(-5.0)
        assert labels.forces.tolist() == [[1, 2, 3]]
        np.testing.assert_allclose(labels.stress / (-0.1 * GPa), [10, 20, 30, 3, 2, 1])
    assert [atoms.info["scf_converged"] for atoms in found] == [True, False, True]
    (remark,) = Survey.of(found, LabelKeys()).remarks()
    assert "1 of 3 frames have electrons that did not converge" in remark
    ase.io.write(tmp_path / "kept.xyz", found, format="extxyz")
    assert Survey.of(read_structures(tmp_path / "kept.xyz"), LabelKeys()).unconverged == 1


def test_a_run_that_goes_on_is_read_as_far_as_it_is(tmp_path):
    whole = vasprun([2, 3, 1])
    (tmp_path / "vasprun.xml").write_text(whole[: whole.rindex("<energy>")])
    found = list(read_structures(tmp_path / "vasprun.xml"))
    assert [atoms.info["scf_converged"] for atoms in found] == [True, False]


def test_lmdb_databases(tmp_path):
    pytest.importorskip("ase_db_backends", exc_type=ImportError)
    path = tmp_path / "a.aselmdb"
    with ase.db.connect(path, type="aselmdb") as database:
        for atoms in FRAMES:
            database.write(atoms, kind="known")
    assert count_structures(path) == len(FRAMES)
    for atoms, expected in zip(read_structures(path), FRAMES, strict=True):
        alike(atoms, expected)
        assert atoms.info["kind"] == "known"
    (last,) = read_structures(f"{path}@-1")
    alike(last, FRAMES[-1])
    (tmp_path / "b.lmdb").write_text("something else")
    with pytest.raises(StructureError, match="is no LMDB database"):
        list(read_structures(tmp_path / "b.lmdb"))


def test_lmdb_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ase_db_backends.aselmdb", None)
    (tmp_path / "a.aselmdb").touch()
    with pytest.raises(StructureError, match=r"pip install 'mekrr-scale\[lmdb\]'"):
        list(read_structures(tmp_path / "a.aselmdb"))

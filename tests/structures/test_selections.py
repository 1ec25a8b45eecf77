"""Frames that a file's name chooses are those that ASE would read."""

import lzma

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.io.formats import string2index

from mekrr_scale.errors import ConfigError, StructureError
from mekrr_scale.files import split_frames
from mekrr_scale.outputs import STRUCTURE, check_outputs
from mekrr_scale.structures import (
    Inputs,
    check_written_format,
    count_structures,
    read_structures,
    write_structure,
    write_structures,
)

CHOICES = ["0", "4", "-1", "-7", ":", "::3", "2:5", "-3:", ":-2", "::-1", "5:1:-2", "-2::-2", "-100:2", "5:100"]


def frames(number):
    """Atoms at places that tell them apart."""
    found = [bulk("Cu") for _ in range(number)]
    for place, atoms in enumerate(found):
        atoms.positions += place
        atoms.info["place"] = place
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same seven frames in several formats."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("a.xyz", "a.traj", "a.db"):
        write_structures(folder / name, frames(7))
    (folder / "a.xyz.xz").write_bytes(lzma.compress((folder / "a.xyz").read_bytes()))
    ase.io.write(folder / "a.json", frames(7))  # a format whose frames are not counted beforehand
    return folder


def places(read):
    return [round(atoms.positions[0, 0]) for atoms in read]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", ["a.xyz", "a.traj", "a.db", "a.xyz.xz", "a.json"])
def test_choices_are_those_of_ase(files, name, choice):
    index = string2index(choice)
    expected = list(range(7))[index] if isinstance(index, slice) else [range(7)[index]]
    assert places(read_structures(f"{files / name}@{choice}")) == expected
    known = count_structures(f"{files / name}@{choice}")
    assert known == (None if name == "a.json" else len(expected))


@pytest.mark.parametrize("choice", ["7", "-8", "3:3", "9:"])
@pytest.mark.parametrize("name", ["a.xyz", "a.json"])
def test_frames_that_are_not_there(files, name, choice):
    with pytest.raises(StructureError, match=rf"{name}@{choice} stands for no frame: .* has 7 frames, counted from 0"):
        list(read_structures(f"{files / name}@{choice}"))


def test_names_that_hold_an_at_sign(tmp_path):
    write_structures(tmp_path / "a@2.xyz", frames(3))
    write_structures(tmp_path / "a.xyz@1", frames(2))
    ase.io.write(tmp_path / "b@1.json", frames(4))
    assert places(read_structures(tmp_path / "a@2.xyz")) == [0, 1, 2]
    assert places(read_structures(tmp_path / "a@2.xyz@1")) == [1]
    assert places(read_structures(tmp_path / "b@1.json")) == [0, 1, 2, 3]
    assert places(read_structures(tmp_path / "a.xyz@1", "extxyz")) == [0, 1]  # a name that is there is a name
    write_structures(tmp_path / "a.xyz", frames(3))
    assert places(read_structures(tmp_path / "a.xyz@1", "extxyz")) == [0, 1]
    for name in ("none.xyz@1", "a@2.xyz@word", "none@2.xyz"):
        with pytest.raises(StructureError, match="there is no file"):
            list(read_structures(tmp_path / name))
    with pytest.raises(StructureError, match=r"frames are chosen as file@12"):
        list(read_structures(tmp_path / "a.xyz@a=1"))
    with pytest.raises(StructureError, match="a step of zero"):
        split_frames("a.xyz@::0")


def test_a_bad_frame_matters_where_it_is_chosen(tmp_path):
    path = tmp_path / "a.xyz"
    write_structures(path, frames(4))
    lines = path.read_text().splitlines(keepends=True)
    lines[3 * 1 + 2] = "Cu 0 0\n"
    path.write_text("".join(lines))
    assert places(read_structures(f"{path}@2:")) == [2, 3]
    assert places(read_structures(f"{path}@-1")) == [3]
    for choice in ("1", "::1"):
        with pytest.raises(StructureError, match=rf"a.xyz@{choice}: line 5"):
            list(read_structures(f"{path}@{choice}"))
    assert [len(atoms) for atoms in read_structures(f"{path}@1:3", keep_unreadable=True)] == [0, 1]


def test_an_extraction_knows_which_frames_it_took(files, tmp_path):
    names = (f"{files / 'a.xyz'}{choice}" for choice in ("", "@::2", "@1"))
    whole, some, one = (Inputs.of(name, None) for name in names)
    assert len({whole.fingerprint, some.fingerprint, one.fingerprint}) == 3
    assert [inputs.count() for inputs in (whole, some, one)] == [7, 4, 1]
    assert places(atoms for _, atoms in some.named()) == places(some) == [0, 2, 4, 6]
    assert some.sources == (f"{files / 'a.xyz'}@::2",)
    assert some.origin.startswith("a.xyz@::2#")


def test_no_output_is_an_input_of_some_frames(files):
    with pytest.raises(ConfigError, match="is an input, too"):
        check_outputs([(files / "a.xyz", STRUCTURE, "--output")], [files / "a.xyz@3"], overwrite=True)


def test_several_structures_go_where_several_fit(tmp_path):
    with pytest.raises(ConfigError, match=r"holds one structure; for several name it \.xyz"):
        check_written_format(tmp_path / "a.vasp", several=True)
    for name in ("a.xyz", "a.cif", "a.db", "a.pdb"):
        check_written_format(tmp_path / name, several=True)
        write_structure(tmp_path / name, frames(3))
        assert len(ase.io.read(tmp_path / name, ":")) == 3


@pytest.mark.parametrize("name", ["a.xyz", "a.traj", "a.db"])
def test_what_structures_carry_is_written_and_read(tmp_path, name):
    (atoms,) = frames(1)
    atoms = atoms.repeat(2)
    atoms.set_tags(range(8))
    atoms.set_constraint(FixAtoms([0, 3]))
    atoms.arrays["layer"] = np.arange(8) * 0.5
    atoms.info |= {"vec": np.array([1.0, 2.0, 3.0]), "id": "x 7"}
    write_structures(tmp_path / name, [atoms])
    (found,) = read_structures(tmp_path / name)
    assert found.constraints[0].index.tolist() == [0, 3]
    assert found.get_tags().tolist() == list(range(8))
    assert found.info["vec"].tolist() == [1.0, 2.0, 3.0]
    assert found.info["id"] == "x 7"
    if name != "a.traj":  # whose format knows no arrays of others
        assert found.arrays["layer"].tolist() == (np.arange(8) * 0.5).tolist()

"""Files are read alike, and labels are what their keys say."""

import lzma

import ase.db
import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from mekrr_scale.errors import StructureError
from mekrr_scale.structures import LabelKeys, check_structure, count_structures, read_labels, read_structures


def test_compressed_files_read_alike(tmp_path, toy_structures):
    plain = tmp_path / "a.xyz"
    ase.io.write(plain, toy_structures, format="extxyz")
    packed = tmp_path / "a.xyz.xz"
    packed.write_bytes(lzma.compress(plain.read_bytes()))
    traj = tmp_path / "a.traj"
    ase.io.write(traj, toy_structures)
    database = tmp_path / "a.db"
    with ase.db.connect(database) as connection:
        for atoms in toy_structures:
            connection.write(atoms, trajectory=atoms.info["trajectory"])
    for path in (plain, packed, traj, database):
        assert count_structures(path) == len(toy_structures)
        for found, expected in zip(read_structures(path), toy_structures, strict=True):
            assert np.allclose(found.positions, expected.positions, atol=1e-7)
            labels, wanted = read_labels(found, LabelKeys()), read_labels(expected, LabelKeys())
            assert labels.energy == pytest.approx(wanted.energy)
            assert np.allclose(labels.forces, wanted.forces, atol=1e-7)
            assert found.info["trajectory"] == expected.info["trajectory"] or path is traj


def test_reading_streams(tmp_path):
    """The first frame of a long compressed file comes without reading the rest."""
    path = tmp_path / "long.xyz.xz"
    frame = "1\nProperties=species:S:1:pos:R:3 energy=1.0\nH 0 0 0\n"
    path.write_bytes(lzma.compress((frame * 20_000).encode()))
    frames = read_structures(path)
    assert next(frames).get_potential_energy() == 1.0
    frames.close()


def test_labels_are_force_consistent_and_without_constraints():
    atoms = molecule("H2O")
    forces = np.arange(9.0).reshape(3, 3)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, free_energy=-2.0, forces=forces)
    atoms.set_constraint(FixAtoms([0]))
    labels = read_labels(atoms, LabelKeys())
    assert labels.energy == -2.0
    assert np.array_equal(labels.forces, forces)
    assert labels.stress is None


def test_keys_and_units():
    atoms = molecule("H2O")
    atoms.info["REF_energy"] = 2.0
    atoms.arrays["REF_forces"] = np.ones((3, 3))
    atoms.info["virial"] = np.eye(3)
    atoms.cell = [4, 4, 4]
    keys = LabelKeys("REF_energy", "REF_forces", "virial", **LabelKeys.parse_units("Hartree,bohr,GPa"))
    labels = read_labels(atoms, keys)
    assert labels.energy == pytest.approx(2 * 27.211386)
    assert labels.forces[0, 0] == pytest.approx(27.211386 / 0.52917721)
    assert labels.stress[:3] == pytest.approx(1 / 160.21766)
    with pytest.raises(StructureError, match="Do you mean 'REF_energy'"):
        read_labels(atoms, LabelKeys("REF_enrgy"))
    with pytest.raises(StructureError, match="pass --energy-key REF_energy"):
        check_structure(atoms, read_labels(atoms, LabelKeys()))
    with pytest.raises(StructureError, match="Do you mean 'Hartree'"):
        LabelKeys(**LabelKeys.parse_units("hartree"))

"""Labels as files hold them: any notation, near names, virials, one energy; frames that cannot be read."""

import re

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.errors import StructureError
from mekrr_scale.structures import (
    Calculated,
    LabelKeys,
    Survey,
    Unreadable,
    check_stress,
    check_structure,
    count_structures,
    read_labels,
    read_structures,
    surveyed,
)
from mekrr_scale.structures.columns import near_names, numbers

FRAME = (
    '2\nProperties=species:S:1:pos:R:3:forces:R:3 Lattice="4 0 0 0 4 0 0 0 4" energy=-3.5 '
    'stress="1 2 3 2 4 5 3 5 6" pbc="T T T"\nCu 0 0 0 0.1 0.2 0.3\nCu 0 0 2 -0.1 -0.2 -0.3\n'
)


def labelled(text, tmp_path, keep=True):
    path = tmp_path / "frames.xyz"
    path.write_text(text)
    return list(read_structures(path, keep_unreadable=keep))


@pytest.mark.parametrize(
    ("word", "energy"),
    [
        ("-1.5D+02", -150.0), ("-1.5d2", -150.0), (".5Q+01", 5.0), ("1.25-02", 0.0125), ("-7", -7.0), ("1e3", 1000.0),
        ("None", "'None'"), ("N/A", "'N/A'"), ("******", "******"), ("T", "True"), ("-", "'-'"), ("1..2", "1..2"),
        ('"1 2"', "shape"), ("nan", "not finite"), ("inf", "not finite"), ("1D", "'1D'"),
    ],
)  # fmt: skip
def test_energies_in_any_notation(word, energy, tmp_path):
    (atoms,) = labelled(FRAME.replace("-3.5", word), tmp_path)
    if isinstance(energy, float):
        assert read_labels(atoms, LabelKeys()).energy == pytest.approx(energy)
        return
    with pytest.raises(StructureError, match=energy.replace("*", r"\*")):
        check_structure(atoms, read_labels(atoms, LabelKeys()))


@pytest.mark.parametrize(
    ("stress", "expected"),
    [
        ("1 2 3 4 5 6", [1, 2, 3, 4, 5, 6]),
        ("1 2 3 2 4 5 3 5 6", [1, 4, 6, 5, 3, 2]),
        ("1D0 0 0 0 1D0 0 0 0 2.5D-1", [1, 1, 0.25, 0, 0, 0]),
        ("None", None),
        ("oops", "no number"),
        ("1 2 3", "shape"),
    ],
)
def test_stresses_in_any_notation(stress, expected, tmp_path):
    (atoms,) = labelled(FRAME.replace("1 2 3 2 4 5 3 5 6", stress), tmp_path)
    if isinstance(expected, str):
        with pytest.raises(StructureError, match=expected):
            read_labels(atoms, LabelKeys())
    else:
        found = read_labels(atoms, LabelKeys()).stress
        assert found is None if expected is None else np.allclose(found, expected)
    assert read_labels(atoms, LabelKeys(), ("energy", "forces")).energy == -3.5


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("0.1 0.2 0.3", "0.1 0.2 ***", "could not convert"),
        ("Cu 0 0 2 -0.1 -0.2 -0.3\n", "Cu 0 0 2 -0.1\n", "cannot be read"),
        ("Cu 0 0 2 -0.1 -0.2 -0.3\n", "", "announced"),
        ("Cu 0 0 0", "Qq 0 0 0", "Qq"),
        ("2\n", "two\n", "expected a number of atoms"),
        ("2\n", "3\n", "3 atoms announced, 2 found"),
    ],
)
@pytest.mark.parametrize("place", [0, 2, 40])
def test_a_bad_frame_takes_none_of_the_others_along(old, new, reason, place, tmp_path):
    frames = [FRAME.replace("-3.5", str(-float(i))) for i in range(45)]
    frames[place] = frames[place].replace(old, new, 1)
    found = labelled("".join(frames), tmp_path)
    assert len(found) == 45 == count_structures(tmp_path / "frames.xyz")
    assert [i for i, atoms in enumerate(found) if isinstance(atoms, Unreadable)] == [place]
    assert [read_labels(a, LabelKeys()).energy for i, a in enumerate(found) if i != place] == [
        -float(i) for i in range(45) if i != place
    ]
    with pytest.raises(StructureError, match=reason):
        read_labels(found[place], LabelKeys())
    with pytest.raises(StructureError, match=f"structure {place}: .*line"):
        labelled("".join(frames), tmp_path, keep=False)


def test_forces_in_fortran_notation_and_a_cut_end(tmp_path):
    found = labelled(FRAME.replace("0.1 0.2 0.3", "1.0D-01 0.2d0 3D-1") + FRAME + FRAME[:-30], tmp_path)
    assert np.allclose(*(read_labels(atoms, LabelKeys()).forces for atoms in found[:2]))
    assert "middle of a frame" in found[2].reason


def test_bad_frames_of_trajectories_and_databases(tmp_path, monkeypatch):
    frames = [bulk("Cu"), bulk("Al"), bulk("Ni")]
    for name in ("frames.traj", "frames.db"):
        ase.io.write(tmp_path / name, frames)
    from ase.db.row import AtomsRow
    from ase.io.trajectory import TrajectoryReader

    whole, row = TrajectoryReader.__getitem__, AtomsRow.toatoms

    def broken(self, i):
        if i == 1:
            raise ValueError("damaged")
        return whole(self, i)

    def broken_row(self, *args, **kwargs):
        if self.id == 2:
            raise ValueError("damaged")
        return row(self, *args, **kwargs)

    monkeypatch.setattr(TrajectoryReader, "__getitem__", broken)
    monkeypatch.setattr(AtomsRow, "toatoms", broken_row)
    for name in ("frames.traj", "frames.db"):
        found = list(read_structures(tmp_path / name, keep_unreadable=True))
        assert [len(atoms) for atoms in found] == [1, 0, 1]
        assert "damaged" in found[1].reason
    with pytest.raises(StructureError, match="damaged"):
        list(read_structures(tmp_path / "frames.db"))


@pytest.mark.parametrize("key", ["virial", "dft_virial", "Virials"])
@pytest.mark.parametrize("unit", ["eV", "kcal/mol"])
def test_virials_become_stresses(key, unit):
    """Against EMT, whose stress is known: W = -V sigma."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.set_cell(atoms.cell * 0.97, scale_atoms=True)
    atoms.calc = EMT()
    stress = atoms.get_stress()
    virial = -atoms.get_stress(voigt=False) * atoms.get_volume()
    from mekrr_scale.structures import ENERGY_UNITS

    frame = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    frame.info[key] = virial / ENERGY_UNITS[unit]
    found = read_labels(frame, LabelKeys(stress=key, energy_unit=unit)).stress
    assert np.allclose(found, stress)
    assert check_stress(torch.from_numpy(found)[None], torch.from_numpy(stress)[None], "EMT") is None
    assert "opposite" in check_stress(torch.from_numpy(-found)[None], torch.from_numpy(stress)[None], "EMT")
    assert "GPa" in check_stress(torch.from_numpy(found)[None] * 160.2, torch.from_numpy(stress)[None], "EMT")
    frame.cell = None
    frame.pbc = False
    assert read_labels(frame, LabelKeys(stress=key)).stress is None
    frame.cell = atoms.cell
    frame.info["virial_stress"] = stress
    assert np.allclose(read_labels(frame, LabelKeys(stress="virial_stress")).stress, stress)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("force", "forces"), ("Forces", "forces"), ("dft_forces", "forces"), ("REF_forces", "forces"), ("F", "forces"),
        ("frcs", "forces"), ("virial", "stress"), ("virials", "stress"), ("dft_stress", "stress"),
        ("Energy", "energy"), ("energies", "energy"), ("TotEnergy", "energy"), ("REF_energy", "energy"),
    ],
)  # fmt: skip
def test_near_names_are_found(name, kind):
    atoms = bulk("Cu", cubic=True)
    atoms.info |= {"step": 3, "temperature": 300.0, "dipole": np.zeros(3)}
    atoms.set_momenta(np.ones((4, 3)))
    assert near_names(atoms, {}, kind) == []
    if kind == "forces":
        atoms.arrays[name] = np.ones((4, 3))
    else:
        atoms.info[name] = np.eye(3) if kind == "stress" else -1.0
    assert near_names(atoms, {}, kind) == [name]
    survey = Survey.of([atoms], LabelKeys())
    assert survey.found[kind] == 0
    assert any(f"--{kind}-key {name}" in remark for remark in survey.remarks())


def test_keys_that_no_frame_has_are_refused():
    atoms = bulk("Cu")
    atoms.arrays["REF_forces"] = np.zeros((1, 3))
    for keys in (LabelKeys(forces="REF_force"), LabelKeys(stress="REF_forces_")):
        with pytest.raises(StructureError, match="in any frame.*REF_forces"):
            surveyed([atoms, bulk("Cu")], keys)
    survey, frames = surveyed([atoms, bulk("Cu")], LabelKeys(forces="REF_forces"))
    assert (survey.found["forces"], len(list(frames))) == (1, 2)
    with pytest.raises(StructureError, match="no info key 'run' in any frame"):
        Survey.of([atoms], LabelKeys(), "run").check()


def frames_with(*results):
    found = []
    for given in results:
        atoms = bulk("Cu", cubic=True)
        atoms.calc = SinglePointCalculator(atoms, **given)
        found.append(atoms)
    return found


@pytest.mark.parametrize(
    ("results", "chosen", "told"),
    [
        ([{"energy": 1.0}, {"energy": 2.0}], None, None),
        ([{"energy": 1.0, "free_energy": 0.9}, {"energy": 2.0, "free_energy": 1.9}], None, None),
        ([{"energy": 1.0, "free_energy": 1.0}, {"energy": 2.0}], None, None),
        ([{"energy": 1.0, "free_energy": 0.8}, {"energy": 2.0}], "energy", "1 of 2 frames .* 50 meV/atom"),
        ([{"free_energy": 1.0}, {"energy": 2.0}, {"energy": 2.0}], "energy", "mixed"),
        ([{"free_energy": 1.0}, {"free_energy": 2.0}, {"energy": 2.0}], "free_energy", "mixed"),
    ],
)
def test_all_energies_are_of_one_definition(results, chosen, told):
    survey = Survey.of(frames_with(*results), LabelKeys())
    assert survey.settled.energy == chosen
    remarks = " ".join(survey.remarks())
    assert remarks == "" if told is None else re.search(told, remarks)
    assert Survey.of(frames_with(*results), LabelKeys(energy="energy")).settled.energy == "energy"


def test_numbers_keep_their_shape():
    assert numbers([["1D0", "2"], ["3", "4.5"]], "x").tolist() == [[1.0, 2.0], [3.0, 4.5]]
    with pytest.raises(StructureError, match="x is 'True'"):
        numbers(True, "x")


def test_calculated_priors_take_the_free_energy_where_there_is_one():
    class Smeared(Calculator):
        implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012

        def calculate(self, atoms=None, properties=("energy",), system_changes=()):
            super().calculate(atoms, properties, system_changes)
            self.results = {"energy": 1.0, "free_energy": 0.9, "forces": np.zeros((len(atoms), 3))}

    class Plain(Smeared):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            del self.results["free_energy"]

    molecule = Atoms("CO", [[0, 0, 0], [0, 0, 1.1]])
    assert float(Calculated(Smeared()).predict(molecule).energy) == 0.9
    assert float(Calculated(Smeared(), force_consistent=False).predict(molecule).energy) == 1.0
    assert float(Calculated(Plain()).predict(molecule).energy) == 1.0
    mixed = Calculated(EMT()).predict([bulk("Cu"), Atoms("Cu")], stress=True).stress
    assert mixed.isfinite().all(2).all(1).tolist() == [True, False]

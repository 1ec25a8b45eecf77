"""Units, agreement of labels with predictions, and what a configuration may import."""

import re
import subprocess
import sys

import pytest
import torch
from ase import Atoms

from mekrr_scale.errors import ConfigError, StructureError
from mekrr_scale.structures import (
    ENERGY_UNITS,
    LENGTH_UNITS,
    Entering,
    Entry,
    LabelKeys,
    Prediction,
    Reject,
    Rejects,
    check_energies,
    check_forces,
)


@pytest.mark.parametrize("unit", [name for name in ENERGY_UNITS if name != "eV"])
def test_every_unit_that_can_be_read_is_told_from_the_factor(unit):
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    with pytest.raises(ConfigError, match=re.escape(f"the labels are in {unit}/angstrom (--units {unit})")):
        check_forces(own / ENERGY_UNITS[unit], own, "the prior")
    counts = torch.randint(1, 5, (20, 2), generator=generator).double()
    energies = counts.sum(1) * torch.randn(20, generator=generator, dtype=torch.float64)
    with pytest.raises(ConfigError, match=re.escape(f"the labels are in {unit} (--units {unit})")):
        check_energies(energies / ENERGY_UNITS[unit], energies, counts, "the prior")
    assert check_forces(own, own, "the prior") is None
    assert check_energies(energies, energies, counts, "the prior") is None


@pytest.mark.parametrize(
    ("energy", "length"),
    [*((name, "angstrom") for name in ENERGY_UNITS if name != "eV"), ("Hartree", "bohr"), ("Ry", "bohr")],
)
def test_units_of_forces_are_advised_as_they_are_read(energy, length):
    own = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(ConfigError, match="labels are in") as raised:
        check_forces(own * LENGTH_UNITS[length] / ENERGY_UNITS[energy], own, "the prior")
    first, *others = re.findall(r"--units ([^ )]+)\)", str(raised.value))
    keys = LabelKeys(**LabelKeys.parse_units(first))
    assert (keys.energy_unit, keys.length_unit) == (energy, length)
    assert all(LabelKeys(**LabelKeys.parse_units(other)) for other in others)


def test_unknown_units_are_refused_with_the_closest():
    with pytest.raises(StructureError, match="Hartree"):
        LabelKeys(energy_unit="hartree")
    with pytest.raises(StructureError, match="energy,length"):
        LabelKeys.parse_units("eV,angstrom,GPa,s")


def test_an_entry_scales_forces_and_stress_and_leaves_energies():
    class Constant:
        def predict(self, atoms, forces=True, stress=False):
            ones = torch.ones(len(atoms), dtype=torch.float64)
            n = sum(map(len, atoms))
            force = torch.ones(n, 3, dtype=torch.float64) if forces else None
            tensor = torch.ones(len(atoms), 3, 3, dtype=torch.float64) if stress else None
            return Prediction(ones, torch.ones(n, dtype=torch.float64), force, tensor)

    found = Entering(Constant(), Entry(2.0)).predict(Atoms("H2", positions=[(0, 0, 0), (0, 0, 1)]), stress=True)
    assert found.energy.tolist() == [1.0]
    assert float(found.forces.unique()) == 2.0
    assert float(found.stress.unique()) == 8.0


def test_rejects_are_published_whole_and_go_when_there_are_none(tmp_path):
    with Rejects(tmp_path, (1, 1)) as rejects:
        rejects.add(Reject("input", 3, "no energy"))
    assert [path.name for path in tmp_path.iterdir()] == ["rejects.jsonl"]
    with Rejects(tmp_path, (1, 1)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_configurations_take_from_the_lower_rooms_needs_no_torch():
    code = (
        "import sys\n"
        "from mekrr_scale.arrays import ByKind, RowKind\n"
        "from mekrr_scale.backbones import BackboneSpec, available_backbones\n"
        "from mekrr_scale.files import parse_bytes\n"
        "from mekrr_scale.progress import Bar\n"
        "from mekrr_scale.structures import ENERGY_UNITS, Entry, LabelKeys, parse_species_map\n"
        "print(sorted({'torch', 'h5py', 'scipy', 'pydantic', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_files_or_structures():
    from mekrr_scale.structures import Inputs

    with pytest.raises(StructureError, match="give files or structures, one of the two"):
        Inputs.of(["x.xyz", Atoms("H")], None)
    with pytest.raises(StructureError, match="give files or structures, one of the two"):
        Inputs.of([], None)

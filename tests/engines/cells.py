"""What the tests of engines hold against ASE's calculator: cells that are not simple."""

import numpy as np
from ase.build import bulk, molecule

from mekrr_scale.models import MekrrCalculator


def sheared():
    """A triclinic cell of eight atoms."""
    atoms = bulk("C", "diamond", 3.6, cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + [[0, 0.05, 0], [0.02, 0, 0.02], [0.01, 0, 0]]), scale_atoms=True)
    return atoms


def cells():
    """A cell of two atoms, which are their own images; a triclinic one; a slab; a molecule in a box."""
    small = bulk("C", "diamond", 3.6)
    small.rattle(0.05, seed=1)
    triclinic = sheared()
    triclinic.rattle(0.05, seed=2)
    slab = bulk("C", "diamond", 3.6, cubic=True)
    slab.center(vacuum=4.0, axis=2)
    slab.pbc = (True, True, False)
    slab.rattle(0.05, seed=3)
    water = molecule("H2O", cell=np.eye(3) * 3.5)  # images would be neighbours
    water.rattle(0.1, seed=4)
    return {"small": small, "triclinic": triclinic, "slab": slab, "molecule": water}


CELLS = cells()


def expected(model_file, atoms, **options):
    """A copy with the calculator in float64."""
    atoms = atoms.copy()
    atoms.calc = MekrrCalculator(model_file, dtype="float64", **options)
    return atoms

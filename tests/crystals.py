"""Copper by ASE's EMT: cells with analytic energies, forces and stress, which a fit can be held against."""

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator


def crystals(count, seed):
    """Cubic cells of four atoms, strained and rattled."""
    generator, found = np.random.default_rng(seed), []
    for _ in range(count):
        atoms = bulk("Cu", cubic=True, a=3.6 * (1 + generator.uniform(-0.06, 0.05)))
        turn = 0.015 * generator.normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (turn + turn.T) / 2), scale_atoms=True)
        atoms.rattle(0.05, rng=generator)
        found.append(labelled(atoms))
    return found


def labelled(atoms):
    """A copy with EMT's results."""
    copy, atoms = atoms.copy(), atoms.copy()
    atoms.calc = EMT()
    energy = atoms.get_potential_energy()
    copy.calc = SinglePointCalculator(
        copy, energy=energy, free_energy=energy, forces=atoms.get_forces(), stress=atoms.get_stress()
    )
    return copy


def without_stress(atoms):
    """With energy and forces of its calculator alone."""
    atoms.calc = SinglePointCalculator(
        atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces(apply_constraint=False)
    )
    return atoms


def coppers(count):
    """Cells of one volume without stress: the perfect crystal, and rattled ones."""
    found = []
    for k in range(count):
        atoms = bulk("Cu", cubic=True, a=3.63)
        if k:
            atoms.rattle(0.08, seed=k)
        atoms.calc = EMT()
        found.append(without_stress(atoms))
    return found

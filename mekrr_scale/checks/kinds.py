"""Crystals, slabs and molecules; scaled and repeated cells."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from mekrr_scale.structures import conventional_cell, fills_space, relaxed, vacuum

StructureKind: TypeAlias = Literal["crystal", "slab", "molecule"]
CRYSTALS: frozenset[StructureKind] = frozenset({"crystal"})
MOLECULES: frozenset[StructureKind] = frozenset({"molecule"})
ANY: frozenset[StructureKind] = frozenset({"crystal", "slab", "molecule"})

_APART = 6.0  # angstrom between the images of a molecule in a box
_SETTLED = 0.01  # angstrom by which atoms are off after a relaxation, along soft modes
_AT_REST = 5e-3  # eV/angstrom; symmetry leaves rounding, 1e-6
LARGEST = 64  # atoms of a cell that is strained and relaxed over and over without being asked to


def kind_of(atoms: Atoms) -> StructureKind:
    """What can be done with a structure: ``crystal`` fills space, ``slab`` is periodic with vacuum somewhere.

    >>> from ase.build import bulk, fcc111, molecule
    >>> " ".join(kind_of(atoms) for atoms in (bulk("Cu"), fcc111("Cu", (2, 2, 3), vacuum=8.0), molecule("H2O")))
    'crystal slab molecule'
    """
    if not atoms.pbc.any() or atoms.cell.rank < 3:
        return "molecule"
    if fills_space(atoms):
        return "crystal"
    return "molecule" if min(vacuum(atoms).values()) > _APART else "slab"


def checked_cell(atoms: Atoms) -> Atoms:
    """What checks are run on: the conventional cell of a crystal, all else as it is."""
    return conventional_cell(atoms) if kind_of(atoms) == "crystal" else atoms


def settled(atoms: Atoms, calculator: Calculator) -> Atoms:
    """A structure at a potential's own minimum, a crystal with its cell.

    A frame that comes to rest as a crystal of more symmetry has another conventional cell: along the crystal's own
    axes, and of fewer atoms.

    Raises:
        SimulationError: it does not come to rest, or falls apart.
    """
    if kind_of(atoms) != "crystal":
        return relaxed(atoms, calculator, cell=False)
    return conventional_cell(relaxed(atoms, calculator, cell=True), _SETTLED)


def at_rest(atoms: Atoms, calculator: Calculator, scale: float = 1.0) -> Atoms:
    """A copy in a cell that is scaled alike along all directions, its atoms relaxed within.

    Where symmetry holds the atoms, nothing moves.
    """
    scaled = atoms.copy()
    scaled.set_cell(atoms.cell * scale, scale_atoms=True)
    return relaxed(scaled, calculator, cell=False, force=_AT_REST)


def repeats(atoms: Atoms, length: float) -> list[int]:
    """How often to repeat a cell along its axes until lattice planes are at least a length apart (angstrom)."""
    heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    return [
        max(1, int(np.ceil(length / height - 1e-6))) if periodic else 1
        for height, periodic in zip(heights, atoms.pbc, strict=True)
    ]

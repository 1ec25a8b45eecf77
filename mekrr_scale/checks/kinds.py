"""Crystals, slabs and molecules; conventional cells; relaxation to a potential's own minimum."""

from __future__ import annotations

import warnings
from typing import Literal, TypeAlias

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE

from mekrr_scale.errors import ConfigError, SimulationError
from mekrr_scale.structures import fills_space, vacuum

StructureKind: TypeAlias = Literal["crystal", "slab", "molecule"]
CRYSTALS: frozenset[StructureKind] = frozenset({"crystal"})
MOLECULES: frozenset[StructureKind] = frozenset({"molecule"})
ANY: frozenset[StructureKind] = frozenset({"crystal", "slab", "molecule"})

_APART = 6.0  # angstrom between the images of a molecule in a box
_AT_REST = 5e-3  # eV/angstrom; symmetry leaves rounding, 1e-6
LARGEST = 64  # atoms of a cell that is strained and relaxed over and over without being asked to
_ALIKE = 0.05  # angstrom by which atoms of one lattice may be off, as in a frame that was not relaxed to the end


def kind_of(atoms: Atoms) -> StructureKind:
    """What can be done with a structure: ``crystal`` fills space, ``slab`` is periodic with vacuum somewhere.

    >>> from ase.build import bulk, fcc111, molecule
    >>> [kind_of(atoms) for atoms in (bulk("Cu"), fcc111("Cu", (2, 2, 3), vacuum=8.0), molecule("H2O"))]
    ['crystal', 'slab', 'molecule']
    """
    if not atoms.pbc.any() or atoms.cell.rank < 3:
        return "molecule"
    if fills_space(atoms):
        return "crystal"
    return "molecule" if min(vacuum(atoms).values()) > _APART else "slab"


def conventional(atoms: Atoms) -> Atoms:
    """The conventional cell of a crystal in its standard orientation; as it is where it has no symmetry.

    Elastic constants are named along its axes: C11 of silicon is along [100].

    Raises:
        ConfigError: spglib is not there.
    """
    try:
        import spglib
    except ImportError as error:
        raise ConfigError("crystals are checked with spglib: pip install 'mekrr-scale[check]'") from error
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    found = spglib.standardize_cell(cell, to_primitive=False, no_idealize=False, symprec=_ALIKE)
    if found is None:
        plain = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        plain.wrap()
        return plain
    lattice, places, numbers = found
    return Atoms(numbers, scaled_positions=places, cell=lattice, pbc=True)


def relaxed(atoms: Atoms, calculator: Calculator, cell: bool, force: float = 1e-3, steps: int = 500) -> Atoms:
    """A copy at the calculator's own minimum.

    Args:
        cell: its cell too.
        force: where to stop, eV/angstrom.

    Raises:
        SimulationError: it does not come to rest, or falls apart.
    """
    moved = atoms.copy()
    moved.calc = calculator
    target = FrechetCellFilter(moved) if cell else moved
    before = moved.get_volume() if cell else 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # logm of scipy on nearly symmetric strains
        for optimizer in (BFGS, FIRE):
            with optimizer(target, logfile=None) as running:
                if running.run(fmax=force, steps=steps):
                    after = moved.get_volume() if cell else 1.0
                    if not 0.5 < after / before < 2.0:
                        raise SimulationError(
                            f"its volume changes by {100 * (after / before - 1):+.0f} % when it is relaxed"
                        )
                    return moved
    largest = float(np.linalg.norm(moved.get_forces(), axis=1).max())
    raise SimulationError(f"not at rest after {2 * steps} steps: a force of {largest:.3g} eV/angstrom is left")


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

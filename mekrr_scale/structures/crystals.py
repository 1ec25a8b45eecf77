"""Crystals: whether a structure is one, its cells, and where a potential has its minimum."""

from __future__ import annotations

import warnings

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from mekrr_scale.errors import ConfigError, SimulationError
from mekrr_scale.structures.electrons import electrons_info

_EMPTY = 6.0  # angstrom without atoms; layered crystals have 3.5
_ALIKE = 1e-3  # angstrom by which atoms of one lattice may be off
_NEARLY = 0.05  # the same in a frame that was not relaxed to the end


def vacuum(atoms: Atoms) -> dict[str, float]:
    """The widest empty layer (angstrom) along each periodic direction."""
    found = {}
    heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    for i in np.flatnonzero(atoms.pbc):
        places = np.sort(atoms.get_scaled_positions(wrap=True)[:, i])
        found["abc"[i]] = float(np.diff(places, append=places[0] + 1.0).max() * heights[i])
    return found


def fills_space(atoms: Atoms) -> bool:
    """Whether a structure is periodic in all directions, without vacuum.

    >>> from ase.build import bulk, fcc111
    >>> fills_space(bulk("Cu")), fills_space(fcc111("Cu", (1, 1, 3), vacuum=8.0, periodic=True))
    (True, False)
    """
    if not atoms.pbc.all() or atoms.cell.rank < 3:
        return False
    return all(gap <= _EMPTY for gap in vacuum(atoms).values())


def smallest_cell(atoms: Atoms) -> Atoms:
    """The primitive cell of a crystal; as it is where it has none that is smaller, or spglib is not there."""
    try:
        found = _standard(atoms, primitive=True, alike=_ALIKE)
    except ConfigError:
        return atoms
    return atoms if found is None or len(found) >= len(atoms) else found


def conventional_cell(atoms: Atoms, alike: float = _NEARLY) -> Atoms:
    """The conventional cell of a crystal in its standard orientation; as it is where it has no symmetry.

    Elastic constants are named along its axes: C11 of silicon is along [100].

    Args:
        alike: by how much atoms may be off their places (angstrom); default: as in a frame that was not relaxed to the
            end.

    Raises:
        ConfigError: spglib is not there.
    """
    found = _standard(atoms, primitive=False, alike=alike)
    if found is not None:
        return found
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True, info=electrons_info(atoms))


def _standard(atoms: Atoms, primitive: bool, alike: float) -> Atoms | None:
    """A crystal in the setting of its space group (spglib); None where none is found."""
    try:
        import spglib
    except ImportError as error:
        raise ConfigError("cells of crystals are found by spglib: pip install 'mekrr-scale[check]'") from error
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    found = spglib.standardize_cell(cell, to_primitive=primitive, no_idealize=False, symprec=alike)
    if found is None:
        return None
    lattice, places, numbers = found
    return Atoms(numbers, scaled_positions=places, cell=lattice, pbc=True, info=electrons_info(atoms))


def relaxed(atoms: Atoms, calculator: Calculator, cell: bool, force: float = 1e-3, steps: int = 500) -> Atoms:
    """A copy at the calculator's own minimum, with the calculator.

    Args:
        cell: its cell too.
        force: where to stop, eV/angstrom.

    Raises:
        SimulationError: it does not come to rest, or falls apart.
    """
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS, FIRE

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

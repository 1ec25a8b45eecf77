"""Crystals: whether a structure is one, and its smallest cell."""

from __future__ import annotations

import numpy as np
from ase import Atoms

_EMPTY = 6.0  # angstrom without atoms; layered crystals have 3.5
_ALIKE = 1e-3  # angstrom by which atoms of one lattice may be off


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
        import spglib
    except ImportError:
        return atoms
    found = spglib.find_primitive((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=_ALIKE)
    if found is None or len(found[2]) >= len(atoms):
        return atoms
    lattice, places, numbers = found
    return Atoms(numbers, scaled_positions=places, cell=lattice, pbc=True)

"""Neighbours of atoms (vesin), and what a geometry must be for that."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from jaxtyping import Float64, Int64
from numpy import ndarray

from mekrr_scale.errors import StructureError
from mekrr_scale.structures.limits import check_crowding
from mekrr_scale.structures.unreadable import check_readable

_FARTHEST = 1e8  # angstrom; beyond, float64 tells distances no better than 1e-8
_SHORTEST = 1e-6  # angstrom; lattice vectors below are missing ones
_WIDE = 1e3  # angstrom; vesin's grid of cells overflows (SIGFPE) in empty space of 1e6
_AXES = "abc"


def neighbours(
    atoms: Atoms, cutoff: float, full: bool = True
) -> tuple[Int64[ndarray, " pairs"], Int64[ndarray, " pairs"], Int64[ndarray, "pairs 3"]]:
    """Pairs of atoms within a cutoff (angstrom), and the lattice vectors that are added to the second.

    Args:
        full: every pair from both ends; else once.

    Raises:
        StructureError: see ``check_geometry`` and ``check_crowding``.
    """
    import vesin  # takes torch along, which the units of labels need not

    check_geometry(atoms)
    check_crowding(atoms, cutoff)
    finder = vesin.NeighborList(cutoff=cutoff, full_list=full)
    points = _gathered(np.asarray(atoms.positions, dtype=np.float64), atoms, 2 * cutoff)
    i, j, shift = finder.compute(points=points, box=box_of(atoms), periodic=atoms.pbc, quantities="ijS")
    return i.astype(np.int64), j.astype(np.int64), shift.astype(np.int64).reshape(-1, 3)


def check_geometry(atoms: Atoms) -> None:
    """Refuse a geometry that no neighbour list can be made of.

    Raises:
        StructureError: says what is wrong with it.
    """
    check_readable(atoms)
    if len(atoms) == 0:
        raise StructureError("a structure has no atoms; leave it out of the input")
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise StructureError("positions or cell are not finite numbers; correct the structure")
    farthest = np.abs(atoms.positions).max(1)
    if farthest.max() > _FARTHEST:
        place = int(farthest.argmax())
        raise StructureError(
            f"atom {place} stands at {atoms.positions[place].tolist()} angstrom, beyond {_FARTHEST:g}; correct its "
            "position, or wrap it into the cell"
        )
    _check_periods(atoms)


def _check_periods(atoms: Atoms) -> None:
    """Refuse periodic directions of no length, and cells of no volume."""
    if not atoms.pbc.any():
        return
    lengths = np.linalg.norm(atoms.cell.array, axis=1)
    missing = [axis for axis, periodic, length in zip(_AXES, atoms.pbc, lengths, strict=True)
               if periodic and length < _SHORTEST]  # fmt: skip
    if missing:
        raise StructureError(
            f"the structure is periodic (pbc={atoms.pbc.tolist()}) but lacks lattice vector {', '.join(missing)}; give "
            "its cell, or set pbc to False where it does not repeat (a molecule: pbc='F F F', a slab: pbc='T T F')"
        )
    box = box_of(atoms)
    if abs(np.linalg.det(box)) < 1e-6 * float(np.prod(np.linalg.norm(box, axis=1))):
        raise StructureError(
            f"the structure is periodic (pbc={atoms.pbc.tolist()}) but its cell has no volume; "
            "set the cell, or pbc=False for a molecule"
        )


def box_of(atoms: Atoms) -> Float64[ndarray, "3 3"]:
    """The cell (angstrom), with unit vectors put in for missing directions, which are not periodic.

    Its volume means nothing then: see ``volume_of``.
    """
    return np.asarray(atoms.cell.complete().array if atoms.cell.rank < 3 else atoms.cell.array, dtype=np.float64)


def volume_of(atoms: Atoms) -> float:
    """Of the cell (angstrom^3); NaN where a lattice vector is missing, so that there is no stress."""
    return abs(float(np.linalg.det(atoms.cell.array))) if atoms.cell.rank == 3 else float("nan")


def _gathered(positions: Float64[ndarray, "atoms 3"], atoms: Atoms, gap: float) -> Float64[ndarray, "atoms 3"]:
    """Positions with empty space in open directions narrowed to a gap that no pair of neighbours spans.

    What lies on either side of such a gap moves as a whole, so that all neighbours stay what they are.
    """
    if atoms.pbc.all():
        return positions
    periodic = atoms.cell.array[atoms.pbc]
    open_axes = np.linalg.svd(periodic)[2][len(periodic) :] if len(periodic) else np.eye(3)
    for axis in open_axes:
        along = positions @ axis
        if np.ptp(along) < _WIDE:
            continue
        order = np.argsort(along, kind="stable")
        steps = np.diff(along[order], prepend=along[order[0]])
        narrowed = np.empty_like(along)
        narrowed[order] = np.cumsum(np.minimum(steps, gap))
        positions = positions + (narrowed - along)[:, None] * axis
    return positions

"""What a structure may ask of memory: a misplaced decimal in a cell or a cutoff is told, and not tried."""

from __future__ import annotations

import math

import numpy as np
from ase import Atoms

from mekrr_scale.errors import StructureError

_MOST = 20_000  # neighbours of an atom; real ones have a hundred, with a cutoff of 10 angstrom a thousand


def check_crowding(atoms: Atoms, cutoff: float) -> None:
    """Refuse geometries with neighbours beyond all measure.

    The number is that of a uniform density: atoms over the volume of the cell, or of what they span.

    Raises:
        StructureError: says how many there would be.
    """
    periodic = atoms.cell.array[atoms.pbc]
    measure = math.sqrt(max(float(np.linalg.det(periodic @ periodic.T)), 0.0)) if len(periodic) else 1.0
    open_axes = np.linalg.svd(periodic)[2][len(periodic) :] if len(periodic) else np.eye(3)
    spans = np.ptp(atoms.positions @ open_axes.T, axis=0).clip(min=cutoff) if len(open_axes) else np.ones(1)
    volume = measure * float(np.prod(spans))
    around = len(atoms) * 4 / 3 * math.pi * min(cutoff, 1e9) ** 3
    expected = around / volume if volume > 0 else math.inf
    if (expected if len(periodic) else min(expected, len(atoms))) > _MOST:
        raise StructureError(
            f"each atom would have about {expected:.0e} neighbours within {cutoff:g} angstrom; correct the cell "
            f"(vectors of {', '.join(f'{length:g}' for length in atoms.cell.lengths())} angstrom) or the cutoff"
        )

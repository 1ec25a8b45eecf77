"""Cells that change: which of their components may, and what to say before."""

from __future__ import annotations

import warnings

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from mekrr_scale.models import MekrrCalculator
from mekrr_scale.structures import vacuum

_ALIGNED = 0.999  # cosine of a lattice vector and a Cartesian axis
_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def cell_mask(atoms: Atoms) -> list[bool]:
    """Components of the strain (Voigt) that may change: those that move no lattice vector of an open direction.

    Open lattice vectors that lie along no Cartesian axis cannot be told from the others, and mask nothing.

    >>> cell_mask(Atoms("H", cell=[3, 3, 20], pbc=(True, True, False)))
    [True, True, False, False, False, True]
    """
    fixed = set()
    for vector, periodic in zip(atoms.cell.array, atoms.pbc, strict=True):
        axis = int(np.abs(vector).argmax())
        if not periodic and abs(vector[axis]) > _ALIGNED * np.linalg.norm(vector):
            fixed.add(axis)
    return [not fixed & set(pair) for pair in _VOIGT]


def warn_of_cell(atoms: Atoms, calculator: BaseCalculator) -> None:
    """Say what makes a model's stress, which cells follow, doubtful; of other calculators nothing is known."""
    if not isinstance(calculator, MekrrCalculator):
        return
    if not calculator.potential.model.knows_stress:
        warnings.warn(
            "the cell follows the stress, and the model was not trained on stress: extract with --strain, and "
            "fit again",
            stacklevel=3,
        )
    wide = {axis: gap for axis, gap in vacuum(atoms).items() if gap > calculator.potential.backbone.cutoff}
    for axis, gap in wide.items():
        warnings.warn(
            f"there are {gap:.1f} angstrom of vacuum along {axis}, and the cell changes along it too: its size means "
            f"nothing there. For a slab set pbc to False along {axis}, which keeps it",
            stacklevel=3,
        )

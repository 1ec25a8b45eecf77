"""What a frame counts for in a fit, by what its file says: weights of its labels, of single atoms' forces, its kind.

The names are those that MACE (``config_weight``, ``config_energy_weight``, ...) and gap_fit (``force_mask``,
``config_type``) read, and the plain ones: ``energy_weight``, ``forces_weight``, ``stress_weight``. What is not there
counts 1. A frame of weight 2 counts like two of its kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from ase import Atoms
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.errors import StructureError

CONFIG_KEY = "config_type"
_ALL = ("config_weight",)
_NAMES = (  # by kind of row
    ("energy_weight", "config_energy_weight"),
    ("forces_weight", "force_weight", "config_forces_weight"),
    ("stress_weight", "virial_weight", "virials_weight", "config_stress_weight", "config_virials_weight"),
)
_OF_ATOMS = ("forces_weight", "force_weight")  # columns
_MASK = "force_mask"  # a column of gap_fit's: true leaves the atom's force out


@final
@dataclass(frozen=True)
class FrameWeights:
    """How much the rows of one structure count."""

    kinds: tuple[float, float, float] = (1.0, 1.0, 1.0)  # energy, forces, stress
    atoms: Float64[ndarray, " atoms"] | None = None  # of the squared errors of their forces; None: 1
    config: str = ""  # what kind of frame it is; empty: nobody said

    @property
    def plain(self) -> bool:
        """Whether it is as if nothing had been said."""
        return self.kinds == (1.0, 1.0, 1.0) and self.atoms is None

    def free(self, atoms: int) -> int:
        """Of how many of the atoms the forces count at all."""
        return atoms if self.atoms is None else int((self.atoms > 0).sum())


def read_weights(atoms: Atoms, config_key: str | None = CONFIG_KEY) -> FrameWeights:
    """What a structure says of itself.

    Args:
        config_key: info key of its configuration type.

    Raises:
        StructureError: a weight that is negative or no number.
    """
    common = _product(atoms, _ALL)
    energy, forces, stress = (common * _product(atoms, names) for names in _NAMES)
    config = "" if config_key is None else str(atoms.info.get(config_key, ""))
    return FrameWeights((energy, forces, stress), _of_atoms(atoms), config)


def _product(atoms: Atoms, names: tuple[str, ...]) -> float:
    found = 1.0
    for name in names:
        if name in atoms.info:
            found *= float(_numbers(atoms.info[name], name, ()))
    return found


def _of_atoms(atoms: Atoms) -> Float64[ndarray, " atoms"] | None:
    found = np.ones(len(atoms))
    for name in _OF_ATOMS:
        if name in atoms.arrays:
            found = found * _numbers(atoms.arrays[name], name, (len(atoms),))
    if _MASK in atoms.arrays:
        found = np.where(_numbers(atoms.arrays[_MASK], _MASK, (len(atoms),)) > 0, 0.0, found)
    return None if (found == 1.0).all() else found


def _numbers(value: Any, name: str, shape: tuple[int, ...]) -> ndarray:
    try:
        found: ndarray = np.asarray(value, dtype=np.float64).reshape(shape)
    except (TypeError, ValueError):
        raise StructureError(f"{name} is {value!r}; give a number{' for each atom' if shape else ''}") from None
    if not np.isfinite(found).all() or (found < 0).any():
        raise StructureError(f"{name} is {value!r}; weights must be finite and not negative")
    return found

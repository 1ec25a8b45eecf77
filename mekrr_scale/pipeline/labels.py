"""Labels along directions, and labels beside those of a prior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.priors import Predictor
from mekrr_scale.structures import Labels, species_counts
from mekrr_scale.units import check_energies, check_forces

_COMPARED = 16  # structures that a prior is checked on


def slopes(
    atoms: Atoms,
    moves: Float64[ndarray, "moves atoms 3"],
    strains: Float64[ndarray, "strains 3 3"],
    forces: Float64[ndarray, "atoms 3"] | None,
    stress: Float64[ndarray, "3 3"] | None,
) -> Float64[ndarray, " directions"]:
    """-u.F and V sigma:eps; NaN where unknown."""
    found = np.full(len(moves) + len(strains), np.nan)
    if forces is not None:
        found[: len(moves)] = -(moves * forces).sum((1, 2))
    if stress is not None and len(strains):
        found[len(moves) :] = atoms.get_volume() * (strains * stress).sum((1, 2))
    return found


def compared(labelled: Sequence[tuple[Atoms, Labels]], prior: Predictor, what: str = "the prior") -> list[str]:
    """Warnings from a comparison of labels with a prior's results, on a few structures.

    Args:
        what: the prior's name in messages.

    Raises:
        ConfigError: the prior is in other units, or of another system.
    """
    few = labelled[:: max(1, len(labelled) // _COMPARED)][:_COMPARED]
    found = [prior.predict(atoms, forces=labels.forces is not None) for atoms, labels in few]
    warnings = []
    forces = [
        (torch.from_numpy(labels.forces), own.forces)
        for (_, labels), own in zip(few, found, strict=True)
        if labels.forces is not None and own.forces is not None
    ]
    if forces:
        given, own = (torch.cat(parts) for parts in zip(*forces, strict=True))
        warnings.append(check_forces(given, own, what))
    known = [(atoms, labels.energy, own.energy) for (atoms, labels), own in zip(few, found, strict=True)
             if labels.energy is not None]  # fmt: skip
    if known:
        energies = torch.tensor([energy for _, energy, _ in known], dtype=torch.float64)
        told = torch.cat([own for _, _, own in known])
        counts = torch.from_numpy(species_counts([atoms for atoms, _, _ in known])[1])
        warnings.append(check_energies(energies, told, counts, what))
    return [warning for warning in warnings if warning is not None]

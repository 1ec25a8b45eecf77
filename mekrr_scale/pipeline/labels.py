"""Labels along directions, and labels beside those of a prior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.priors import Predictor
from mekrr_scale.structures import Labels
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


def compared(labelled: Sequence[tuple[Atoms, Labels]], prior: Predictor) -> list[str]:
    """Warnings from a comparison of labels with a prior's results, on a few structures.

    Raises:
        ConfigError: the prior is in other units, or of another system.
    """
    few = labelled[:: max(1, len(labelled) // _COMPARED)][:_COMPARED]
    warnings = []
    forced = [(atoms, labels.forces) for atoms, labels in few if labels.forces is not None]
    own = [prior.predict(atoms).forces for atoms, _ in forced]
    if own:
        given = torch.from_numpy(np.concatenate([forces for _, forces in forced]))
        warnings.append(check_forces(given, torch.cat([part for part in own if part is not None]), "the prior"))
    known = [(atoms, labels.energy) for atoms, labels in few if labels.energy is not None]
    if known:
        energies = torch.tensor([energy for _, energy in known], dtype=torch.float64)
        told = torch.cat([prior.predict(atoms, forces=False).energy for atoms, _ in known])
        species = sorted({int(z) for atoms, _ in known for z in atoms.numbers})
        counts = torch.tensor([[(atoms.numbers == z).sum() for z in species] for atoms, _ in known]).double()
        warnings.append(check_energies(energies, told, counts, "the prior"))
    return [warning for warning in warnings if warning is not None]

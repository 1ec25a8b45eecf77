"""Results that are no numbers, and the atoms that are to blame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ase import Atoms
from jaxtyping import Bool
from torch import Tensor

from mekrr_scale.errors import StructureError
from mekrr_scale.structures.predictions import Prediction
from mekrr_scale.structures.rejects import check_overlap


def require_finite(found: Prediction, structures: Sequence[Atoms]) -> None:
    """Refuse results that are no numbers.

    Raises:
        StructureError: names the structure, and the atoms that overlap.
    """
    good = found.energies.isfinite()
    if found.forces is not None:
        good &= found.forces.isfinite().all(1)
    require_finite_atoms(good, structures)


def require_finite_atoms(good: Bool[Tensor, " atoms"], structures: Sequence[Atoms]) -> None:
    """The same, of what is known of each atom.

    Raises:
        StructureError: names the first structure with a bad one.
    """
    if bool(good.all()):
        return
    owner = torch.repeat_interleave(torch.tensor([len(atoms) for atoms in structures]))
    index = int(owner[~good][0])
    named = f"structure {index} of {len(structures)}: " if len(structures) > 1 else ""
    try:
        check_overlap(structures[index])
        why = "no overlapping atoms were found; is the geometry far from all that the network knows?"
    except StructureError as error:
        why = str(error)
    raise StructureError(f"{named}energy or forces are not finite numbers: {why}")

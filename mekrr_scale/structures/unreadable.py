"""A frame that cannot be read, in its place among the others."""

from __future__ import annotations

from typing import final

from ase import Atoms

from mekrr_scale.errors import StructureError


@final
class Unreadable(Atoms):  # type: ignore[misc]
    """No atoms, and the reason: whoever looks at it says why, and the frames after it keep their numbers."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


def check_readable(atoms: Atoms) -> None:
    """Refuse a frame that could not be read.

    Raises:
        StructureError: why.
    """
    if isinstance(atoms, Unreadable):
        raise StructureError(atoms.reason)

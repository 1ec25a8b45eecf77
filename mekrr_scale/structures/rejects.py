"""Structures that are left out, and why."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from mekrr_scale.errors import StoreError, StructureError
from mekrr_scale.files import temporary_path
from mekrr_scale.structures.labels import Labels, hint
from mekrr_scale.structures.neighbours import check_geometry, neighbours

OVERLAP = 0.3  # angstrom; closer atoms are an error in the file, not physics


@dataclass(frozen=True)
class Reject:
    """A structure that is left out, and why."""

    source: str
    index: int
    reason: str


def check_structure(atoms: Atoms, labels: Labels, need_energy: bool = True) -> None:
    """Refuse what must not enter a fit.

    Raises:
        StructureError: no atoms, a broken geometry, atoms on top of each other, labels missing
            or not finite.
    """
    check_geometry(atoms)
    if need_energy and labels.energy is None:
        raise StructureError(f"no energy; {hint(atoms)}")
    for name, value in vars(labels).items():
        if value is not None and not np.isfinite(value).all():
            raise StructureError(f"{name} not finite (NaN or infinite)")
    check_overlap(atoms)


def check_overlap(atoms: Atoms) -> None:
    """Refuse atoms on top of each other, which no potential can tell anything of.

    Raises:
        StructureError: names the first two.
    """
    i, j, shift = neighbours(atoms, OVERLAP, full=False)
    if len(i):
        apart = np.linalg.norm(atoms.positions[j[0]] + shift[0] @ atoms.cell.array - atoms.positions[i[0]])
        raise StructureError(f"atoms {int(i[0])} and {int(j[0])} overlap ({float(apart):.3f} angstrom apart)")


class Rejects:
    """The list of structures left out, rewritten by every run and published at its end."""

    def __init__(self, folder: Path, part: tuple[int, int]) -> None:
        suffix = "" if part[1] == 1 else f"-{part[0]}-of-{part[1]}"
        self.path = folder / f"rejects{suffix}.jsonl"
        self.temporary = temporary_path(folder, "")
        self.count = 0

    def __enter__(self) -> Rejects:
        try:
            self.stream = self.temporary.open("w", encoding="utf-8")
        except OSError as error:
            raise StoreError(
                f"cannot write to {self.path.parent}: {error}; choose a folder you may write to"
            ) from error
        return self

    def add(self, reject: Reject) -> None:
        self.count += 1
        self.stream.write(json.dumps(asdict(reject)) + "\n")

    def touch(self) -> None:
        """Show that somebody still writes here, so that nobody sweeps the list away."""
        with suppress(OSError):
            os.utime(self.temporary)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stream.close()
        if self.count:
            os.replace(self.temporary, self.path)
            return
        self.temporary.unlink(missing_ok=True)
        if kind is None:
            self.path.unlink(missing_ok=True)

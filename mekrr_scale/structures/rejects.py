"""Structures that are left out, and why."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import vesin
from ase import Atoms

from mekrr_scale.errors import StoreError, StructureError
from mekrr_scale.files import TEMPORARY
from mekrr_scale.structures.graphs import check_geometry
from mekrr_scale.structures.labels import Labels, energy_hint
from mekrr_scale.structures.limits import check_crowding

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
        raise StructureError(f"no energy; {energy_hint(atoms)}")
    for name, value in vars(labels).items():
        if value is not None and not np.isfinite(value).all():
            raise StructureError(f"{name} not finite (NaN or infinite)")
    check_crowding(atoms, OVERLAP)
    finder = vesin.NeighborList(cutoff=OVERLAP, full_list=False)
    box = atoms.cell.complete().array if atoms.cell.rank < 3 else atoms.cell.array
    i, j, d = finder.compute(points=atoms.positions, box=box, periodic=atoms.pbc, quantities="ijd")
    if len(d):
        raise StructureError(f"atoms {int(i[0])} and {int(j[0])} overlap ({float(d[0]):.3f} angstrom apart)")


class Rejects:
    """The list of structures left out, rewritten by every run and published at its end."""

    def __init__(self, folder: Path, part: tuple[int, int]) -> None:
        suffix = "" if part[1] == 1 else f"-{part[0]}-of-{part[1]}"
        self.path = folder / f"rejects{suffix}.jsonl"
        self.temporary = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stream.close()
        if self.count:
            os.replace(self.temporary, self.path)
            return
        self.temporary.unlink(missing_ok=True)
        if kind is None:
            self.path.unlink(missing_ok=True)

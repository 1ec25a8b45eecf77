"""Structures that commands read and write."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase import Atoms


def read_frames(paths: list[Path] | None, format: str | None) -> list[Atoms]:
    """Structures of all files, if there are any."""
    from mekrr_scale.structures import read_structures

    return list(read_structures(paths, format)) if paths else []


def frame_count(path: Path, format: str | None) -> int | None:
    """How many structures a file holds, if that is known before they are read."""
    from mekrr_scale.structures import count_structures

    return count_structures(path, format) if path.exists() else None


def last_frame(path: Path) -> Atoms:
    """The last structure of a file."""
    from mekrr_scale.structures import read_structures

    last = None
    for atoms in read_structures(path):
        last = atoms
    assert last is not None  # a file without structures has been refused
    return last


def write_frames(path: Path, frames: Iterable[Atoms]) -> int:
    """Write structures as they come; the file appears, or changes, when all are known."""
    from mekrr_scale.structures import write_structures

    return write_structures(path, frames)

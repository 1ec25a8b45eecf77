"""Structures that commands read and write."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

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
    """Write structures as they come; a file that is there stays as it was until the first one is known."""
    import ase.io

    count = 0
    stream: TextIO | None = None
    with ExitStack() as opened:
        for atoms in frames:
            stream = stream or opened.enter_context(path.open("w", encoding="utf-8"))
            ase.io.write(stream, atoms, format="extxyz")
            count += 1
    return count

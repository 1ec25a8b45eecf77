"""Structures that commands read and write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mekrr_scale.errors import ConfigError
from mekrr_scale.files import split_frames

if TYPE_CHECKING:
    from ase import Atoms


def read_frames(paths: list[Path] | None, format: str | None) -> list[Atoms]:
    """Structures of all files, if there are any."""
    from mekrr_scale.structures import read_structures

    return list(read_structures(paths, format)) if paths else []


def frame_count(paths: Path | Sequence[Path], format: str | None) -> int | None:
    """How many structures files hold, if that is known before they are read."""
    from mekrr_scale.structures import count_structures

    counts = [count_structures(path, format) for path in ([paths] if isinstance(paths, Path) else paths)]
    return None if None in counts else sum(count or 0 for count in counts)


def start_frames(path: Path) -> list[Atoms]:
    """The frames that are chosen of a file (``file@12``), else its last one."""
    from mekrr_scale.structures import read_structures

    return list(read_structures(path if split_frames(path)[1] is not None else path.with_name(f"{path.name}@-1")))


def start_frame(path: Path) -> Atoms:
    """The frame that is chosen of a file, else its last one.

    Raises:
        ConfigError: several are chosen.
    """
    frames = start_frames(path)
    if len(frames) > 1:
        raise ConfigError(
            f"{path} stands for {len(frames)} frames; choose one to start from, e.g. {split_frames(path)[0]}@-1"
        )
    return frames[0]


def write_frames(path: Path, frames: Iterable[Atoms]) -> int:
    """Write structures as they come; the file appears, or changes, when all are known."""
    from mekrr_scale.structures import write_structures

    return write_structures(path, frames)

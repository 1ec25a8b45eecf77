"""What the name of a file of structures says: its format, and how it is compressed."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from mekrr_scale.outputs import FRAME_SUFFIXES

OPENERS: Mapping[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}


def opener_of(path: Path) -> Callable[..., Any] | None:
    """What opens a compressed file; None for others."""
    return OPENERS.get(path.suffix.lower())


def plain_name(path: Path) -> Path:
    """The name of what a compressed file holds."""
    return path if opener_of(path) is None else Path(path.stem)


def format_of_frames(path: Path) -> Literal["extxyz", "traj", "db"] | None:
    """The format of frames that the package reads and writes itself, by the name; None for others.

    Trajectories and databases are not compressed.

    >>> format_of_frames(Path("a.xyz.gz")), format_of_frames(Path("a.db")), format_of_frames(Path("a.db.gz"))
    ('extxyz', 'db', None)
    """
    suffix = plain_name(path).suffix.lower()
    if suffix in FRAME_SUFFIXES:
        return "extxyz"
    if opener_of(path) is not None:
        return None
    return "traj" if suffix == ".traj" else "db" if suffix == ".db" else None

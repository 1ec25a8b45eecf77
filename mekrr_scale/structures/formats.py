"""What the name of a file of structures says: its format, and how it is compressed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from mekrr_scale.outputs import FRAME_SUFFIXES
from mekrr_scale.structures.n2p2 import is_n2p2

Own = Literal["deepmd", "mlab", "n2p2", "aselmdb", "vasp-xml"]
_HEAD = 4096  # characters that tell a format
_EXTENDED = (None, "extxyz", "xyz")  # names that a user may give the format

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


def is_deepmd(path: Path | str) -> bool:
    """Whether a folder holds systems of DeePMD-kit's: ``type.raw`` in it, or in a folder of it."""
    path = Path(path)
    return path.is_dir() and next(path.rglob("type.raw"), None) is not None


def read_by_package(path: Path, format: str | None) -> Own | None:
    """Formats of others that the package reads itself, by their names, or the format's.

    >>> tuple(read_by_package(Path(name), None) for name in ("ML_ABN.xz", "a.aselmdb", "run/vasprun.xml", "a.traj"))
    ('mlab', 'aselmdb', 'vasp-xml', None)
    """
    if format is not None:
        kind = format.partition(":")[0]
        return kind if kind in ("deepmd", "mlab", "n2p2", "aselmdb", "vasp-xml") else None  # type: ignore[return-value]
    name = plain_name(path).name
    if name.startswith("ML_AB"):
        return "mlab"
    if name.lower().endswith((".aselmdb", ".lmdb")):
        return "aselmdb"
    if fnmatch(name, "*vasp*.xml"):
        return "vasp-xml"
    if name.lower().endswith(".data") and _begins_a_frame(path):
        return "n2p2"
    return "deepmd" if is_deepmd(path) else None


def _begins_a_frame(path: Path) -> bool:
    """Whether a file is n2p2's; LAMMPS' have the same suffix."""
    try:
        with (opener_of(path) or open)(path, "rt", encoding="utf-8", errors="replace") as stream:
            return is_n2p2(stream.read(_HEAD))
    except (OSError, EOFError, lzma.LZMAError, zlib.error):  # the one who reads it says what is wrong
        return False


def is_extended(path: Path, format: str | None) -> bool:
    """Whether a file is read as extended xyz."""
    return format in _EXTENDED and format_of_frames(path) == "extxyz"

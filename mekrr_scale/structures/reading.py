"""Reading structures: anything ASE reads, streamed, compressed or not.

ASE's own reading of a compressed extended xyz file is quadratically slow, since it seeks
backwards in the stream; here the text is cut into frames first.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import ase.db
import ase.io
from ase import Atoms

from mekrr_scale.errors import MekrrError, StructureError

_OPENERS: Mapping[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
_XYZ = {".xyz", ".extxyz", ".exyz"}
_FRAMES_AT_ONCE = 32


def read_structures(paths: Path | str | Sequence[Path | str], format: str | None = None) -> Iterator[Atoms]:
    """Stream the structures of files in order, a few frames at a time.

    Args:
        format: ASE's name of the format, where the file name does not tell.

    Raises:
        StructureError: a file that is missing, empty or cannot be read.
    """
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        if not path.exists():
            raise StructureError(f"there is no file {path}")
        count = 0
        try:
            for atoms in _frames(path, format):
                count += 1
                yield atoms
        except (MekrrError, KeyboardInterrupt, GeneratorExit):
            raise
        except Exception as error:
            raise StructureError(
                f"{path} cannot be read after {count} structures: {type(error).__name__}: {error}. "
                "Correct the file, or name its format with --format"
            ) from error
        if count == 0:
            raise StructureError(f"{path} holds no structures")


def count_structures(path: Path | str, format: str | None = None) -> int | None:
    """Number of structures where that is cheap to tell, else None."""
    path = Path(path)
    plain = Path(path.stem) if path.suffix in _OPENERS else path
    if format in (None, "extxyz", "xyz") and plain.suffix in _XYZ:
        with _open(path) as stream:
            return sum(1 for _ in _xyz_blocks(stream, path))
    if plain.suffix == ".traj" and path.suffix not in _OPENERS:
        from ase.io.trajectory import Trajectory

        with Trajectory(str(path)) as trajectory:
            return len(trajectory)
    if plain.suffix == ".db" and path.suffix not in _OPENERS:
        return int(ase.db.connect(path).count())
    return None


def _frames(path: Path, format: str | None) -> Iterator[Atoms]:
    plain = Path(path.stem) if path.suffix in _OPENERS else path
    if format in (None, "extxyz", "xyz") and plain.suffix in _XYZ:
        yield from _read_xyz(path)
    elif path.suffix in _OPENERS:
        with tempfile.NamedTemporaryFile(suffix=plain.suffix) as copy, _binary(path) as stream:
            for piece in iter(lambda: stream.read(1 << 20), b""):
                copy.write(piece)
            copy.flush()
            yield from ase.io.iread(copy.name, ":", format=format or _format_of(plain))
    elif plain.suffix == ".db":
        for row in ase.db.connect(path).select():
            atoms = row.toatoms()
            atoms.info |= row.key_value_pairs
            yield atoms
    else:
        yield from ase.io.iread(path, ":", format=format or _format_of(plain))


def _format_of(plain: Path) -> str | None:
    """ASE tells VASP's files by their full name, which a compressed copy no longer has."""
    return "vasp-out" if "OUTCAR" in plain.name else "vasp-xml" if plain.name.startswith("vasprun") else None


def _read_xyz(path: Path) -> Iterator[Atoms]:
    with _open(path) as stream:
        blocks = _xyz_blocks(stream, path)
        while chunk := list(islice(blocks, _FRAMES_AT_ONCE)):
            yield from cast(Iterable[Atoms], ase.io.read(io.StringIO("".join(chunk)), ":", format="extxyz"))


def _xyz_blocks(stream: io.TextIOWrapper, path: Path) -> Iterator[str]:
    """The text of each frame: a line with the number of atoms, a comment, the atoms."""
    number = 0
    for line in stream:
        number += 1
        if not line.strip():
            continue
        try:
            size = int(line)
        except ValueError:
            raise StructureError(
                f"{path}, line {number}: expected a number of atoms, found {line.strip()[:40]!r}"
            ) from None
        body = list(islice(stream, size + 1))
        if len(body) < size + 1:
            raise StructureError(f"{path} ends in the middle of a frame (line {number}: {size} atoms announced)")
        number += size + 1
        yield "".join([line, *body[:-1], body[-1] if body[-1].endswith("\n") else body[-1] + "\n"])


def _open(path: Path) -> io.TextIOWrapper:
    return cast(io.TextIOWrapper, _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8"))


def _binary(path: Path) -> Any:
    return _OPENERS[path.suffix](path, "rb")

"""Reading structures: anything ASE reads, streamed, compressed or not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import ase.db
import ase.io
from ase import Atoms

from mekrr_scale.errors import MekrrError, StructureError
from mekrr_scale.structures.unreadable import Unreadable
from mekrr_scale.structures.xyz import blocks, read_xyz

_OPENERS: Mapping[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
_XYZ = {".xyz", ".extxyz", ".exyz"}


def read_structures(
    paths: Path | str | Sequence[Path | str], format: str | None = None, keep_unreadable: bool = False
) -> Iterator[Atoms]:
    """Stream the structures of files in order, a few frames at a time.

    Args:
        format: ASE's name of the format, where the file name does not tell.
        keep_unreadable: give frames without atoms (``Unreadable``, with the reason) in the place of those that cannot
            be read, where the format allows to go on after them: extended xyz, ASE's trajectories and databases.

    Raises:
        StructureError: a file that is missing, empty or cannot be read.
    """
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        if not path.exists():
            raise StructureError(f"there is no file {path}")
        count = 0
        try:
            for atoms in _frames(path, format, keep_unreadable):
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
            return sum(1 for _ in blocks(stream))
    if plain.suffix == ".traj" and path.suffix not in _OPENERS:
        from ase.io.trajectory import Trajectory

        with Trajectory(str(path)) as trajectory:
            return len(trajectory)
    if plain.suffix == ".db" and path.suffix not in _OPENERS:
        return int(ase.db.connect(path).count())
    return None


def _frames(path: Path, format: str | None, keep_unreadable: bool) -> Iterator[Atoms]:
    plain = Path(path.stem) if path.suffix in _OPENERS else path
    if format in (None, "extxyz", "xyz") and plain.suffix in _XYZ:
        with _open(path) as stream:
            yield from read_xyz(stream, path, keep_unreadable)
    elif path.suffix in _OPENERS:
        with tempfile.NamedTemporaryFile(suffix=plain.suffix) as copy, _binary(path) as stream:
            for piece in iter(lambda: stream.read(1 << 20), b""):
                copy.write(piece)
            copy.flush()
            yield from ase.io.iread(copy.name, ":", format=format or _format_of(plain))
    elif plain.suffix == ".db":
        for row in ase.db.connect(path).select():
            yield _kept(lambda row=row: _of_row(row), f"row {row.id}", keep_unreadable)  # type: ignore[misc]
    elif keep_unreadable and format in (None, "traj") and plain.suffix == ".traj":
        from ase.io.trajectory import Trajectory

        with Trajectory(str(path)) as trajectory:
            for i in range(len(trajectory)):
                yield _kept(lambda i=i: trajectory[i], f"frame {i}", True)  # type: ignore[misc]
    else:
        yield from ase.io.iread(path, ":", format=format or _format_of(plain))


def _of_row(row: Any) -> Atoms:
    atoms = row.toatoms()
    atoms.info |= row.key_value_pairs
    return atoms


def _kept(read: Callable[[], Atoms], place: str, keep_unreadable: bool) -> Atoms:
    """A frame, or the reason why there is none."""
    try:
        return read()
    except Exception as error:
        if not keep_unreadable:
            raise
        return Unreadable(f"{place} cannot be read ({type(error).__name__}: {error})")


def _format_of(plain: Path) -> str | None:
    """ASE tells VASP's files by their full name, which a compressed copy no longer has."""
    return "vasp-out" if "OUTCAR" in plain.name else "vasp-xml" if plain.name.startswith("vasprun") else None


def _open(path: Path) -> io.TextIOWrapper:
    return cast(io.TextIOWrapper, _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8"))


def _binary(path: Path) -> Any:
    return _OPENERS[path.suffix](path, "rb")

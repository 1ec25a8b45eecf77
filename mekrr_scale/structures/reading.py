"""Reading structures: anything ASE reads, streamed, compressed or not."""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import sqlite3
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, final

import ase.db
import ase.io
from ase import Atoms

from mekrr_scale.errors import MekrrError, StructureError
from mekrr_scale.structures.formats import format_of_frames, opener_of, plain_name
from mekrr_scale.structures.unreadable import Unreadable
from mekrr_scale.structures.xyz import blocks, read_xyz

_EXTENDED = (None, "extxyz", "xyz")  # names that a user may give the format
_MOST_EXPANSION, _SMALL = 200, 64 * 1024**2  # of compressed files: times their size, and bytes that are always fine


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
        require_file(path)
        count = 0
        try:
            for atoms in _frames(path, format, keep_unreadable):
                count += 1
                yield atoms
        except MekrrError:
            raise
        except Exception as error:
            raise StructureError(_trouble(path, count, error)) from error
        if count == 0:
            raise StructureError(f"{path} holds no structures")


def count_structures(path: Path | str, format: str | None = None) -> int | None:
    """Number of structures where that is cheap to tell, else None.

    Raises:
        StructureError: a file that is missing or cannot be read.
    """
    path = Path(path)
    require_file(path)
    try:
        return _count(path, format)
    except MekrrError:
        raise
    except Exception as error:
        raise StructureError(_trouble(path, 0, error)) from error


def _count(path: Path, format: str | None) -> int | None:
    named = format_of_frames(path)
    if named == "extxyz" and format in _EXTENDED:
        with _open(path) as stream:
            return sum(1 for _ in blocks(stream))
    if named == "traj":
        from ase.io.trajectory import Trajectory

        with Trajectory(str(path)) as trajectory:
            return len(trajectory)
    if named == "db":
        with _database(path) as database:
            return int(database.count())
    return None


def require_file(path: Path) -> None:
    """Refuse what is not there, and what may never end.

    Raises:
        StructureError: says which.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise StructureError(f"there is no file {path}") from None
    except OSError as error:
        raise StructureError(f"{path} cannot be read: {error.strerror or error}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # some formats are folders
        raise StructureError(f"{path} is a pipe or a device, which cannot be read twice; write it to a file first")


def _trouble(path: Path, count: int, error: Exception) -> str:
    """What is wrong with a file, and what to do."""
    if isinstance(error, UnicodeDecodeError):
        return f"{path} cannot be read after {count} structures: {_encoding(path, error)}"
    if isinstance(error, EOFError | lzma.LZMAError | gzip.BadGzipFile | zlib.error):
        return f"{path} is cut off or damaged after {count} structures ({error}); copy or compress it again"
    return (
        f"{path} cannot be read after {count} structures: {type(error).__name__}: {error}. "
        "Correct the file, or name its format with --format"
    )


def _encoding(path: Path, error: UnicodeDecodeError) -> str:
    """Why a text is none, and how it becomes one."""
    with _binary(path) as stream:
        begin = stream.read(4096)
    if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "it is text in UTF-16; convert it: iconv -f utf-16 -t utf-8"
    if b"\0" in begin:
        return "it is no text; correct the file, or name its format with --format"
    byte = error.object[error.start]
    return f"it is not text in UTF-8 (byte 0x{byte:02x}); convert it, e.g. iconv -f latin1 -t utf-8"


def _frames(path: Path, format: str | None, keep_unreadable: bool) -> Iterator[Atoms]:
    plain, named = plain_name(path), format_of_frames(path)
    if named == "extxyz" and format in _EXTENDED:
        with _open(path) as stream:
            yield from read_xyz(stream, path, keep_unreadable)
    elif plain != path:
        with tempfile.NamedTemporaryFile(suffix=plain.suffix) as copy, _binary(path) as stream:
            for piece in iter(lambda: stream.read(1 << 20), b""):
                copy.write(piece)
            copy.flush()
            yield from _frames(Path(copy.name), format or _format_of(plain), keep_unreadable)
    elif named == "db":
        with _database(path) as database:
            for row in database.select():
                yield _kept(lambda row=row: _of_row(row), f"row {row.id}", keep_unreadable)  # type: ignore[misc]
    elif keep_unreadable and format in (None, "traj") and named == "traj":
        from ase.io.trajectory import Trajectory

        with Trajectory(str(path)) as trajectory:
            for i in range(len(trajectory)):
                yield _kept(lambda i=i: trajectory[i], f"frame {i}", True)  # type: ignore[misc]
    else:
        yield from ase.io.iread(path, ":", format=format or named or _format_of(plain))


@contextmanager
def _database(path: Path) -> Iterator[Any]:
    """ASE's database; of an empty one, or one of another program's, ASE would make its own in the file."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as plain:
        if plain.execute("SELECT 1 FROM sqlite_master WHERE name = 'systems'").fetchone() is None:
            raise StructureError(f"{path} is no database of ASE's: it has no table of systems")
    with ase.db.connect(path, type="db") as database:
        yield database


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
    return io.TextIOWrapper(_binary(path), encoding="utf-8-sig")  # a mark at the beginning is passed over


def _binary(path: Path) -> io.BufferedReader:
    """The bytes of a file, decompressed."""
    opener = opener_of(path)
    if opener is None:
        return path.open("rb")
    return io.BufferedReader(_Expanded(opener(path, "rb"), path), 1 << 16)


@final
class _Expanded(io.RawIOBase):
    """What a compressed file holds, as long as it is in proportion: a bomb is not unpacked.

    Text of structures becomes five to thirty times as long.
    """

    def __init__(self, source: Any, path: Path) -> None:
        self.source, self.path, self._read = source, path, 0
        self._most = max(_SMALL, _MOST_EXPANSION * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self.source.read1(len(buffer)) if hasattr(self.source, "read1") else self.source.read(len(buffer))
        self._read += len(piece)
        if self._read > self._most:
            raise StructureError(
                f"{self.path} becomes more than {_MOST_EXPANSION} times as long when it is unpacked, as no file of "
                "structures does; if it is one, unpack it yourself"
            )
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self.source.close()
        super().close()

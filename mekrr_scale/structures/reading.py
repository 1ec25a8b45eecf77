"""Reading structures: anything ASE reads, and some formats more, streamed, compressed or not."""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

import ase.io
from ase import Atoms

from mekrr_scale.errors import MekrrError, StructureError
from mekrr_scale.files import split_frames
from mekrr_scale.structures.databases import atoms_of_row, database_of, json_database_of, lmdb_database_of
from mekrr_scale.structures.deepmd import count_deepmd, read_deepmd
from mekrr_scale.structures.formats import format_of_frames, is_extended, opener_of, plain_name, read_by_package
from mekrr_scale.structures.mlab import read_mlab
from mekrr_scale.structures.n2p2 import N2p2Units, read_n2p2
from mekrr_scale.structures.selections import chosen, chosen_count
from mekrr_scale.structures.unreadable import Unreadable
from mekrr_scale.structures.vasprun import read_vasprun
from mekrr_scale.structures.xyz import blocks, read_xyz

_DATABASES = {"db": database_of, "json": json_database_of, "aselmdb": lmdb_database_of}
_MOST_EXPANSION, _SMALL = 200, 64 * 1024**2  # of compressed files: times their size, and bytes that are always fine


def read_structures(
    paths: Path | str | Sequence[Path | str], format: str | None = None, keep_unreadable: bool = False
) -> Iterator[Atoms]:
    """Stream the structures of files in order, a few frames at a time.

    Args:
        paths: of files, whole or of some frames as ASE writes them: ``run.xyz@12``, ``run.xyz@-1``, ``run.xyz@::10``.
        format: ASE's name of the format, where the file name does not tell; or ``deepmd``, ``mlab``, ``aselmdb``,
            ``n2p2:Hartree,bohr``, which the package reads itself.
        keep_unreadable: give frames without atoms (``Unreadable``, with the reason) in the place of those that cannot
            be read, where the format allows to go on after them: extended xyz, ASE's trajectories and databases.

    Raises:
        StructureError: a file that is missing, empty or cannot be read, or lacks the frames that are asked for.
    """
    for given in [paths] if isinstance(paths, str | Path) else paths:
        path, choice = split_frames(given)
        require_file(path)
        count = 0
        try:
            for atoms in _frames(path, format, keep_unreadable) if choice is None else _chosen(path, choice, format):
                if not keep_unreadable and isinstance(atoms, Unreadable):
                    raise StructureError(f"{given}: {atoms.reason}. Correct the file, or choose other frames")
                count += 1
                yield atoms
        except MekrrError:
            raise
        except Exception as error:
            raise StructureError(_trouble(path, count, error)) from error
        if count == 0 and choice is not None:
            raise StructureError(f"{given} stands for no frame: {_extent(path, format)}, counted from 0")
        if count == 0:
            raise StructureError(f"{path} holds no structures")


def _chosen(path: Path, choice: int | slice, format: str | None) -> Iterator[Atoms]:
    """Of some frames; one that cannot be read keeps its number, and is no fault where another is chosen."""
    return chosen(lambda: _frames(path, format, keep_unreadable=True), choice, lambda: _count(path, format))


def _extent(path: Path, format: str | None) -> str:
    """How many frames there are, for messages."""
    known = _count(path, format)
    number = sum(1 for _ in _frames(path, format, keep_unreadable=True)) if known is None else known
    return f"{path} has {number} frame{'' if number == 1 else 's'}"


def count_structures(path: Path | str, format: str | None = None) -> int | None:
    """Number of structures where that is cheap to tell, else None.

    Raises:
        StructureError: a file that is missing or cannot be read.
    """
    path, choice = split_frames(path)
    require_file(path)
    try:
        return chosen_count(choice, _count(path, format))
    except MekrrError:
        raise
    except Exception as error:
        raise StructureError(_trouble(path, 0, error)) from error


def _count(path: Path, format: str | None) -> int | None:
    if is_extended(path, format):
        with _open(path) as stream:
            return sum(1 for _ in blocks(stream))
    own, named = read_by_package(path, format), format_of_frames(path)
    if own == "deepmd":
        return count_deepmd(path)
    if own == "aselmdb" and plain_name(path) == path:
        with lmdb_database_of(path) as database:
            return int(database.count())
    if named == "traj":
        from ase.io.trajectory import Trajectory

        with Trajectory(str(path)) as trajectory:
            return len(trajectory)
    if named == "db":
        with database_of(path) as database:
            return int(database.count())
    return None


def require_file(path: Path) -> None:
    """Refuse what is not there, and what may never end.

    Raises:
        StructureError: says which.
    """
    path, _ = split_frames(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        advice = "; frames are chosen as file@12, file@-1 or file@::10" if "@" in path.name else ""
        raise StructureError(f"there is no file {path}{advice}") from None
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
    plain, own = plain_name(path), read_by_package(path, format)
    if is_extended(path, format):
        with _open(path) as stream:
            yield from read_xyz(stream, path, keep_unreadable)
    elif own == "mlab":
        with _open(path) as stream:
            yield from read_mlab(stream)
    elif own == "n2p2":
        units = N2p2Units.of(format or "")
        with _open(path) as stream:
            yield from read_n2p2(stream, units)
    elif own == "deepmd":
        yield from read_deepmd(path)
    elif plain != path:
        with tempfile.NamedTemporaryFile(suffix=plain.suffix) as copy, _binary(path) as stream:
            for piece in iter(lambda: stream.read(1 << 20), b""):
                copy.write(piece)
            copy.flush()
            yield from _frames(Path(copy.name), format or own or _format_of(plain), keep_unreadable)
    elif own == "vasp-xml":
        yield from read_vasprun(path)
    else:
        yield from _frames_of_ase(path, format, keep_unreadable)


def _frames_of_ase(path: Path, format: str | None, keep_unreadable: bool) -> Iterator[Atoms]:
    """What ASE reads; of its databases and trajectories frame by frame."""
    named: str | None = read_by_package(path, format) or format_of_frames(path)
    if named is None and format in (None, *_DATABASES):
        named = format or ("json" if path.suffix.lower() == ".json" else None)
    if named in _DATABASES:
        with _DATABASES[named](path) as database:
            for row in database.select():
                yield _kept(lambda row=row: atoms_of_row(row), f"row {row.id}", keep_unreadable)  # type: ignore[misc]
    elif keep_unreadable and format in (None, "traj") and named == "traj":
        from ase.io.trajectory import Trajectory

        with Trajectory(str(path)) as trajectory:
            for i in range(len(trajectory)):
                yield _kept(lambda i=i: trajectory[i], f"frame {i}", True)  # type: ignore[misc]
    else:
        given = format or named or _format_of(plain_name(path))
        yield from ase.io.iread(path, ":", format=given, do_not_split_by_at_sign=True)


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
    return "vasp-out" if "OUTCAR" in plain.name else None


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

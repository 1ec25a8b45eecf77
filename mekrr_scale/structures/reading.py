"""Reading structures: anything ASE reads, streamed, compressed or not.

ASE's own reading of a compressed extended xyz file is quadratically slow, since it seeks
backwards in the stream; here the text is cut into frames first.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast, final

import ase.db
import ase.io
from ase import Atoms

from mekrr_scale.errors import MekrrError, StructureError

_OPENERS: Mapping[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
_XYZ = {".xyz", ".extxyz", ".exyz"}
_FRAMES_AT_ONCE = 32
_MOST_EXPANSION, _SMALL = 200, 64 * 1024**2  # of compressed files: times their size, and bytes that are always fine
_MOST_ATOMS = 10**9  # of one frame
_PROPERTIES = re.compile(r'(?i)\bProperties="?([^\s"]+)')


def read_structures(paths: Path | str | Sequence[Path | str], format: str | None = None) -> Iterator[Atoms]:
    """Stream the structures of files in order, a few frames at a time.

    Args:
        format: ASE's name of the format, where the file name does not tell.

    Raises:
        StructureError: a file that is missing, empty or cannot be read.
    """
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        require_file(path)
        count = 0
        try:
            for atoms in _frames(path, format):
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
        if not 0 <= size <= _MOST_ATOMS:
            raise StructureError(f"{path}, line {number}: {line.strip()[:40]} is not a number of atoms of a frame")
        body = list(islice(stream, size + 1))
        if len(body) < size + 1:
            raise StructureError(f"{path} ends in the middle of a frame (line {number}: {size} atoms announced)")
        _check_columns(body, f"{path}, line {number + 1}")
        number += size + 1
        yield "".join([line, *body[:-1], body[-1] if body[-1].endswith("\n") else body[-1] + "\n"])


def _check_columns(body: Sequence[str], place: str) -> None:
    """Refuse a header that announces columns which are not there: they would cost memory without end.

    Raises:
        StructureError: names the line.
    """
    found = _PROPERTIES.search(body[0])
    if found is None or len(body) < 2:
        return
    counts = found[1].split(":")[2::3]
    there = len(body[1].split())
    if all(count.isdecimal() for count in counts) and sum(map(int, counts)) > there:
        raise StructureError(f"{place}: the header announces {sum(map(int, counts))} columns, {there} are there")


def _open(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(_binary(path), encoding="utf-8-sig")  # a mark at the beginning is passed over


def _binary(path: Path) -> io.BufferedReader:
    """The bytes of a file, decompressed."""
    opener = _OPENERS.get(path.suffix)
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

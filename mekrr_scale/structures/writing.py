"""Writing structures: in the format that the name tells, whole or not at all."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import ase.db
import ase.io
from ase import Atoms
from ase.io.trajectory import TrajectoryWriter

from mekrr_scale.errors import ConfigError
from mekrr_scale.files import replacing
from mekrr_scale.structures.databases import json_database_of, write_row
from mekrr_scale.structures.formats import format_of_frames, opener_of


def write_structures(path: Path | str, frames: Iterable[Atoms]) -> int:
    """Write structures as they come; returns how many. The file appears when all are in it.

    Extended xyz, compressed where the name ends in .gz, .xz or .bz2; ASE's trajectory for .traj, its database for .db.
    A file that is there stays as it was until then.
    """
    path = Path(path)
    count = 0
    with ExitStack() as opened:
        add: Callable[[Atoms], object] | None = None
        for atoms in frames:
            if add is None:  # only now: what the frames are read from may fail
                add = _adder(path, opened.enter_context(replacing(path)), opened)
            add(atoms)
            count += 1
    return count


def write_structure(path: Path | str, atoms: Atoms | Sequence[Atoms]) -> None:
    """Write a structure, or several (``check_written_format``), in any format of ASE's that its name tells."""
    from ase.io.formats import filetype

    path = Path(path)
    if format_of_frames(path) is not None:
        write_structures(path, [atoms] if isinstance(atoms, Atoms) else atoms)
        return
    format = filetype(path, read=False)
    with replacing(path) as temporary:
        if format == "json":
            with json_database_of(temporary) as database:
                for each in [atoms] if isinstance(atoms, Atoms) else atoms:
                    write_row(database, each)
        else:
            ase.io.write(temporary, atoms, format=format)


def check_written_format(path: Path | str, several: bool = False) -> None:
    """Refuse a file that ASE cannot write before work is wasted.

    Args:
        several: it is to hold more than one structure.

    Raises:
        ConfigError: its name tells no format, or one that ASE only reads, or one of a single structure.
    """
    from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat

    try:
        format = get_ioformat(filetype(path, read=False))
    except UnknownFileTypeError:
        format = None
    if format is not None and format.can_write and several and format.single:
        raise ConfigError(f"{path}: {format.description} holds one structure; for several name it .xyz, .traj or .db")
    if format is None or not format.can_write:
        raise ConfigError(f"ASE writes no format that {Path(path).name!r} stands for; name it .xyz, .cif, .vasp, ...")


def _adder(path: Path, temporary: Path, opened: ExitStack) -> Callable[[Atoms], object]:
    """What puts a structure behind the others."""
    format = format_of_frames(path)
    if format == "traj":
        return opened.enter_context(TrajectoryWriter(temporary, "w")).write  # type: ignore[no-any-return]
    if format == "db":
        temporary.unlink()  # a database makes its file itself
        database = opened.enter_context(ase.db.connect(temporary, type="db", use_lock_file=False))
        return partial(write_row, database)
    stream = _text(path, temporary, opened)
    return lambda atoms: ase.io.write(stream, atoms, format="extxyz")


def _text(path: Path, temporary: Path, opened: ExitStack) -> io.TextIOWrapper:
    """What takes text, and compresses it as a name says. Equal text becomes equal bytes."""
    opener = opener_of(path) or open
    if opener is not gzip.open:
        return opened.enter_context(opener(temporary, "wt", encoding="utf-8"))
    plain = opened.enter_context(temporary.open("wb"))  # gzip.open would keep the time and the temporary name
    packed = opened.enter_context(gzip.GzipFile("", "wb", fileobj=plain, mtime=0))
    return opened.enter_context(io.TextIOWrapper(packed, encoding="utf-8"))

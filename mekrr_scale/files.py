"""Files: atomic publishing, hashes, sizes as people write them, room for scratch."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import xxhash

from mekrr_scale.errors import ConfigError

if TYPE_CHECKING:
    JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None
else:
    JSON = object  # what checks at run time see of it: they do not follow a type that holds itself
Document: TypeAlias = Mapping[str, JSON]
HashName = Literal["sha256", "xxh3_128"]  # of models and downloads; of the store's shards
TEMPORARY = ".tmp-"  # how names of files begin that are not published yet
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_TEMPORARY_NAME = re.compile(re.escape(TEMPORARY) + r"([0-9a-f]{8})-(\d+)-[0-9a-f]{32}")
_DEAD_SECONDS = 600.0  # a file of a dead process is left alone for so long, one of an unknown process for a day
_UNKNOWN_SECONDS = 24 * 3600.0
_PIECE = 8 * 1024 * 1024
_UNITS = {"": 1, "B": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def publish(temporary: Path, path: Path) -> None:
    """Rename a synced file to its name, and make the rename durable."""
    os.replace(temporary, path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_text(path: Path, text: str) -> None:
    """Write a small file atomically."""
    temporary = temporary_path(path.parent, "")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_hash(path: Path, algorithm: HashName) -> str:
    """The hexadecimal hash of a file, read in pieces."""
    digest = hashlib.sha256() if algorithm == "sha256" else xxhash.xxh3_128()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(_PIECE), b""):
            digest.update(piece)
    return digest.hexdigest()


def parse_bytes(text: str | int) -> int:
    """A size such as ``512M`` or ``2GB`` in bytes.

    >>> parse_bytes("512M")
    536870912

    Raises:
        ConfigError: not a size.
    """
    plain = str(text).strip().upper().removesuffix("IB").removesuffix("B").strip()
    number, unit = (plain[:-1], plain[-1]) if plain[-1:] in ("K", "M", "G", "T") else (plain, "")
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        raise ConfigError(f"{text!r} is not a size; write 512M or 2G") from None
    if size < 0:
        raise ConfigError(f"{text!r} is negative; write a size such as 2G")
    return size


def default_scratch() -> Path:
    """Where scratch files go: the job's own folder on the node, where the batch system makes one."""
    for name in ("SLURM_TMPDIR", "JOB_TMPDIR", "TMPDIR"):
        if os.environ.get(name):
            return Path(os.environ[name])
    return Path(tempfile.gettempdir())


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def temporary_path(folder: Path, suffix: str) -> Path:
    """A name that tells who writes there, so that it can be swept when they are dead."""
    return folder / f"{TEMPORARY}{_HOST}-{os.getpid()}-{uuid.uuid4().hex}{suffix}"


def sweep(folder: Path) -> None:
    """Remove what dead processes of this user have left in a folder while they wrote."""
    with suppress(OSError), os.scandir(folder) as entries:
        for path in [Path(entry.path) for entry in entries if _stale(entry)]:
            path.unlink(missing_ok=True)


def _stale(entry: os.DirEntry[str]) -> bool:
    if not entry.name.startswith(TEMPORARY):
        return False
    found, state = _TEMPORARY_NAME.match(entry.name), entry.stat(follow_symlinks=False)
    age = time.time() - state.st_mtime
    if state.st_uid != os.getuid():
        return False
    if found is not None and found[1] == _HOST:
        return age > _DEAD_SECONDS and not _alive(int(found[2]))
    return age > _UNKNOWN_SECONDS


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

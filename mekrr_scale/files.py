"""Files: atomic publishing, hashes, sizes as people write them, room for scratch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from functools import cache
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
_SEAL = "seal"
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
    temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
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


def sealed(document: Document) -> dict[str, JSON]:
    """A document with a checksum over all of it, which ``is_whole`` looks at.

    >>> is_whole(sealed({"ridge": 1e-6})), is_whole({"ridge": 1e-6}), is_whole({**sealed({"ridge": 1e-6}), "ridge": 1})
    (True, None, False)
    """
    return {**document, _SEAL: _document_hash(document)}


def is_whole(document: Document) -> bool | None:
    """Whether a document is as it was sealed; None for one without a seal, as those of 0.1.0 are."""
    if _SEAL not in document:
        return None
    return document[_SEAL] == _document_hash(unsealed(document))


def unsealed(document: Document) -> dict[str, JSON]:
    """A document without its seal."""
    return {key: value for key, value in document.items() if key != _SEAL}


@cache
def warn_unsealed(path: Path) -> None:
    """Say once of a file that damage in it would not be seen."""
    logging.getLogger("mekrr_scale").warning(
        "%s is of 0.1.0, whose files have no checksum over all that they hold: damage in it might not be seen", path
    )


def _document_hash(document: Document) -> str:
    plain = json.loads(json.dumps(document))  # as a reader will have it: keys are texts, tuples are lists
    return xxhash.xxh3_128(json.dumps(plain, sort_keys=True).encode()).hexdigest()


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

"""Atomic publishing and hashing of files."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from mekrr_scale.store.format import BLOCK_BYTES, FORMAT, SCHEMA, TEMPORARY, UNITS, BigDataset, StoreHeader


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


def document(header: StoreHeader) -> dict[str, Any]:
    """What sidecars and manifests have in common."""
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "required_features": header.required_features,
        "header": header.to_dict(),
        "units": UNITS,
    }


def file_hash(path: Path) -> str:
    """xxh3-128 of a file, read in pieces."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(BLOCK_BYTES), b""):
            digest.update(piece)
    return digest.hexdigest()


def meta_hash(path: Path, big: Mapping[str, BigDataset], size: int) -> str:
    """xxh3-128 of the bytes of a file outside its big datasets."""
    digest = xxhash.xxh3_128()
    at = 0
    with path.open("rb") as stream:
        for place in sorted(big.values(), key=lambda b: b.offset):
            if not place.nbytes:
                continue
            stream.seek(at)
            _digest(stream, place.offset - at, digest)
            at = place.offset + place.nbytes
        stream.seek(at)
        _digest(stream, size - at, digest)
    return digest.hexdigest()


def _digest(stream: Any, length: int, digest: xxhash.xxh3_128) -> None:
    while length > 0:
        piece = stream.read(min(length, BLOCK_BYTES))
        if not piece:
            return
        digest.update(piece)
        length -= len(piece)

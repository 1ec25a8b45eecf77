"""The axes that a store's features are coordinates along: one file beside the shards, decided once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import safetensors
import safetensors.torch
from safetensors import SafetensorError

from mekrr_scale.arrays import Compression
from mekrr_scale.errors import StoreError
from mekrr_scale.files import JSON, Document, is_whole, sealed, temporary_path
from mekrr_scale.store.sidecars import sidecars_in

AXES = "compression.safetensors"
_KEY = "mekrr_scale"


def publish_axes(folder: Path, axes: Compression, asked: Document) -> Compression:
    """Write the axes of a store, unless another writer was first: what lies there counts.

    Args:
        asked: how they were asked for, which those who go on with the store have to ask for too, if not for the same
            axes by their hash (``like``).

    Raises:
        StoreError: the folder cannot be written to, or other axes were asked for in it.
    """
    path = folder / AXES
    if not path.exists() and sidecars_in(folder):
        raise StoreError(f"{folder} holds features that are not compressed; use another folder")
    tensors = {"mean": axes.mean.contiguous(), "basis": axes.basis.contiguous(), "spread": axes.spread.contiguous()}
    header = sealed({"species": list(axes.species), "hash": axes.hash, "asked": dict(asked)})
    temporary = temporary_path(folder, ".safetensors")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(tensors, temporary, metadata={_KEY: json.dumps(header)})
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        _name_once(temporary, path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"cannot write {path}: {error}; correct the permissions or free space") from error
    finally:
        temporary.unlink(missing_ok=True)
    return axes_asked_for(folder, asked) or axes


def axes_asked_for(folder: Path, asked: Document) -> Compression | None:
    """The axes of a store that goes on; None where there are none yet.

    Raises:
        StoreError: damaged, or they were asked for in another way.
    """
    if not (folder / AXES).exists():
        return None
    header = _header(folder / AXES)
    before = cast("Mapping[str, JSON]", header["asked"])
    if before != json.loads(json.dumps(asked)) and asked.get("like") != header["hash"]:
        raise StoreError(
            f"{folder} holds features compressed by another basis (asked for as {_said(before)}, now {_said(asked)}); "
            "ask for the same, or use another folder"
        )
    return read_axes(folder)


def read_axes(folder: Path, hash: str | None = None) -> Compression:
    """The axes of a store.

    Args:
        hash: that of its header.

    Raises:
        StoreError: missing, damaged, or others than the header's.
    """
    path = folder / AXES
    lost = "they are part of the store: copy them from where it came, or extract into a new folder"
    if not path.is_file():
        raise StoreError(f"there is no {path}, which holds the axes of the store's features; {lost}")
    header = _header(path)
    try:
        tensors = safetensors.torch.load_file(path)
        species = tuple(int(z) for z in cast("list[int]", header["species"]))
        found = Compression(species, tensors["mean"], tensors["basis"], tensors["spread"])
        whole = species[0] == 0 and found.mean.shape == found.spread.shape == (len(species), found.full)
        whole = whole and found.hash == header["hash"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StoreError(f"{path} is damaged ({error}); {lost}") from error
    if not whole:
        raise StoreError(f"{path} is damaged (its hash does not fit); {lost}")
    if hash is not None and found.hash != hash:
        raise StoreError(f"{path} holds another basis ({found.hash}) than that of the shards ({hash}); {lost}")
    return found


def _header(path: Path) -> Document:
    try:
        with safetensors.safe_open(path, framework="pt") as archive:
            header: Document = json.loads((archive.metadata() or {})[_KEY])
        if is_whole(header) and isinstance(header["asked"], dict):
            return header
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        pass
    raise StoreError(f"{path} is damaged; copy it from where the store came, or extract into a new folder")


def _name_once(temporary: Path, path: Path) -> None:
    """Give a file its name unless another has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        if not path.exists():
            os.replace(temporary, path)


def _said(asked: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(asked.items())) or "nothing"

"""Making a manifest, joining stores, and writing a store anew in other shards."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import xxhash

from mekrr_scale.errors import StoreError
from mekrr_scale.files import TEMPORARY, publish_text
from mekrr_scale.store.format import MANIFEST, SHARD, SIDECAR, ShardInfo, StoreHeader, document, read_sealed, sealed
from mekrr_scale.store.reader import FeatureStore
from mekrr_scale.store.shard import StructureRecord, records_of
from mekrr_scale.store.writer import ShardWriter

_STALE_SECONDS = 24 * 3600.0  # a writer syncs and renames within minutes


def finalize(folder: Path | str) -> FeatureStore:
    """Merge the sidecars of a folder into its manifest; what no sidecar names does not exist.

    Shards are listed in the order of their input. Temporary files older than a day are removed.

    Raises:
        StoreError: no shards, shards of different kinds, or two that hold the same structures.
    """
    folder = Path(folder)
    sidecars = sorted(folder.glob(f"*{SHARD}{SIDECAR}")) if folder.is_dir() else []
    if not sidecars:
        raise StoreError(f"{folder} holds no finished shard; run `mekrr-scale extract` first")
    documents = [read_sealed(sidecar) for sidecar in sidecars]
    header = StoreHeader.from_dict(documents[0]["header"])
    for sidecar, data in zip(sidecars, documents, strict=True):
        header.require(StoreHeader.from_dict(data["header"]), str(sidecar))
    shards = sorted(
        (ShardInfo.from_dict(data["shard"]) for data in documents), key=lambda info: (info.input, info.start, info.path)
    )
    for before, after in zip(shards, shards[1:], strict=False):
        if before.input == after.input and after.start < before.stop:
            raise StoreError(
                f"{before.path} and {after.path} both hold structure {after.start} of {before.input}: the input or "
                "--shard-size changed between two extractions. Extract into a new folder"
            )
    text = sealed({**document(header), "shards": [info.to_dict() for info in shards]})
    try:
        publish_text(folder / MANIFEST, text)
        for stray in folder.glob(f"{TEMPORARY}*"):
            if time.time() - stray.stat().st_mtime > _STALE_SECONDS:
                stray.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {folder / MANIFEST}: {error}; correct the permissions or free space") from error
    return FeatureStore(folder, level="size")


def merge(sources: Sequence[Path | str], target: Path | str) -> FeatureStore:
    """Join finished stores of the same kind in a new folder; shards are linked where possible.

    Raises:
        StoreError: stores of different kinds, or with structures in common.
    """
    stores = [FeatureStore(Path(source), level="size") for source in sources]
    if not stores:
        raise StoreError("there is nothing to merge; name at least one store")
    target = _new_folder(target)
    for store in stores:
        stores[0].header.require(store.header, str(store.path))
        for info in store.shards:
            for name in (info.path, info.path + SIDECAR):
                if (target / name).exists():
                    continue
                try:
                    os.link(store.path / name, target / name)
                except OSError:  # another file system: copy beside the name, then rename
                    temporary = target / f"{TEMPORARY}{name}"
                    shutil.copyfile(store.path / name, temporary)
                    os.replace(temporary, target / name)
    return finalize(target)


def repack(
    source: Path | str,
    target: Path | str,
    shard_bytes: int = 1024**3,
    keep: Callable[[StructureRecord], bool] = lambda record: True,
) -> FeatureStore:
    """Write a store anew with shards of another size, leaving out structures if asked to.

    Args:
        keep: which structures go into the new store.

    Raises:
        StoreError: a damaged source, or nothing left.
    """
    store = FeatureStore(Path(source))
    writer = ShardWriter(_new_folder(target), store.header)
    pending: list[StructureRecord] = []
    size = 0

    def flush() -> None:
        nonlocal pending, size
        key = xxhash.xxh3_128()
        for record in pending:
            key.update(record.id.to_bytes(8, "little"))
        start = pending[0].index
        writer.write(pending, f"repack {store.id[:16]}", key.hexdigest(), start, pending[-1].index + 1)
        pending, size = [], 0

    count = 0
    for info in store.shards:
        for record in records_of(store.open(info).arrays()):
            if not keep(record):
                continue
            pending.append(replace(record, index=count))
            count += 1
            size += record.features.nbytes + (0 if record.tangents is None else record.tangents.features.nbytes)
            if size >= shard_bytes:
                flush()
    if pending:
        flush()
    if not count:
        raise StoreError("no structure is left to write; loosen the filter")
    return finalize(target)


def _new_folder(path: Path | str) -> Path:
    folder = Path(path)
    if (folder / MANIFEST).exists():
        raise StoreError(f"{folder} is a finished store already; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder

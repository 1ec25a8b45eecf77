"""Checking a store on request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mekrr_scale.errors import StoreError
from mekrr_scale.files import TEMPORARY, file_hash
from mekrr_scale.store.documents import MANIFEST, SHARD, SIDECAR, again
from mekrr_scale.store.format import ShardInfo
from mekrr_scale.store.reader import FeatureStore
from mekrr_scale.store.sidecars import Sidecar


@dataclass(frozen=True)
class VerifyReport:
    """What was found: damaged shards with the reason, and files that belong to nothing."""

    checked: int
    damaged: tuple[str, ...]
    strays: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.damaged


def verify(path: Path | str, full: bool = True) -> VerifyReport:
    """Check every shard of a store: sizes and, if ``full``, the hash of every byte.

    Raises:
        StoreError: the manifest itself cannot be read.
    """
    store = FeatureStore(Path(path), level="size", checked=False)
    damaged = []
    for info in store.shards:
        said = _damage(store, info, full)
        if said:
            damaged.append(said)
    try:
        _ = store.compression
    except StoreError as error:
        damaged.append(str(error))
    listed = {info.path for info in store.shards} | set(store.superseded)
    listed |= {f"{name}{SIDECAR}" for name in listed} | {MANIFEST}
    ours = [p.name for p in sorted(store.path.iterdir()) if p.name.startswith(TEMPORARY) or SHARD in p.name]
    return VerifyReport(len(store.shards), tuple(damaged), tuple(name for name in ours if name not in listed))


def _damage(store: FeatureStore, info: ShardInfo, full: bool) -> str | None:
    """What is wrong with a shard or its sidecar, and the command that mends it."""
    file = store.path / info.path
    try:
        store.check(info)
        if full and file_hash(file, "xxh3_128") != info.xxh3_128:
            return f"{file}: its hash does not fit the manifest; {again(store.path)}"
        store.open(info)
    except (StoreError, OSError) as error:
        return str(error)
    try:
        Sidecar.read(file.with_name(f"{info.path}{SIDECAR}"))
    except StoreError as error:
        plain = str(error).split(";")[0]
        return (
            f"{plain}; write it anew with `mekrr-scale store finalize {store.path}`"
            if not info.excluded
            else str(error)
        )
    return None

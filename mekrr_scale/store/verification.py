"""Checking a store on request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mekrr_scale.errors import StoreError
from mekrr_scale.files import TEMPORARY, file_hash
from mekrr_scale.store.format import MANIFEST, SHARD, SIDECAR
from mekrr_scale.store.reader import FeatureStore


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
    store = FeatureStore(Path(path), level="size")
    damaged = []
    for info in store.shards:
        file = store.path / info.path
        if full and file_hash(file, "xxh3_128") != info.xxh3_128:
            damaged.append(f"{file}: its hash does not fit the manifest; delete it and extract again")
            continue
        try:
            store.open(info)
        except StoreError as error:
            damaged.append(str(error))
    listed = {info.path for info in store.shards}
    listed |= {f"{name}{SIDECAR}" for name in listed} | {MANIFEST}
    ours = [p.name for p in sorted(store.path.iterdir()) if p.name.startswith(TEMPORARY) or SHARD in p.name]
    return VerifyReport(len(store.shards), tuple(damaged), tuple(name for name in ours if name not in listed))

"""Sidecars: what stands beside each shard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mekrr_scale.files import TEMPORARY, publish_text
from mekrr_scale.store.documents import SHARD, SIDECAR, again
from mekrr_scale.store.format import ShardInfo, StoreHeader, document, header_and_shards, read_sealed, sealed
from mekrr_scale.store.origins import Origin, Origins


@dataclass(frozen=True)
class Sidecar:
    """A shard, what it is a part of, and where its structures came from."""

    folder: Path
    header: StoreHeader
    info: ShardInfo
    origins: Origins | None = None  # None: an older version wrote it, or the writer did not know

    @property
    def path(self) -> Path:
        return self.folder / f"{self.info.path}{SIDECAR}"

    @classmethod
    def read(cls, path: Path) -> Sidecar:
        """One that was written.

        Raises:
            StoreError: missing, damaged, of another version, or not what a sidecar is.
        """
        data = read_sealed(path, again(path.parent))
        header, (info,) = header_and_shards(path, data)
        origins = Origins.from_dict(data["origins"], info.structures) if "origins" in data else None
        return cls(path.parent, header, info, origins)

    def publish(self) -> None:
        """Write it, in place of an older one."""
        known = {} if self.origins is None else {"origins": self.origins.to_dict()}
        publish_text(self.path, sealed({**document(self.header), "shard": self.info.to_dict(), **known}))

    def each(self) -> list[Origin]:
        """Where each structure came from; of an older version's shard its input's name, and when it was written."""
        if self.origins is not None:
            return self.origins.each()
        name, time = self.info.input.split("#", maxsplit=1)[0], self.path.stat().st_mtime_ns
        return [Origin(name, "", time)] * self.info.structures


def sidecars_in(folder: Path) -> list[Path]:
    """Paths of the sidecars of a folder, in a fixed order; what killed writers left is none."""
    found = folder.glob(f"*{SHARD}{SIDECAR}") if folder.is_dir() else []
    return sorted(path for path in found if not path.name.startswith(TEMPORARY))

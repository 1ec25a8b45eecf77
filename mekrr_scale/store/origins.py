"""Where the structures of a shard came from and which geometries they are: what its sidecar says beside the shard.

Shards do not change when a file is extracted again; what tells an older result from a newer one stands here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mekrr_scale.errors import StoreError
from mekrr_scale.files import Document
from mekrr_scale.store.documents import MADE_UP, typed

if TYPE_CHECKING:
    from mekrr_scale.store.shard import StructureRecord

_WORD = np.dtype("<u8")


@dataclass(frozen=True)
class Origin:
    """What structures were read from, and when."""

    source: str = ""  # a file, or what made them; what stands there later is newer
    version: str = ""  # hash of what the source held and of how it was read; "": unknown
    time: int = 0  # nanoseconds since 1970, at the start of the latest extraction that found them so
    first: int = 0  # index in the input of the source's first structure, where several files were read


UNKNOWN = Origin()


@dataclass(frozen=True)
class Origins:
    """Of all structures of a shard, in its order."""

    geometries: NDArray[np.uint64]  # hashes that equal structures share, whatever their labels
    runs: tuple[tuple[Origin, int], ...]  # consecutive structures of the same origin, and how many

    @classmethod
    def of(cls, records: Sequence[StructureRecord]) -> Origins | None:
        """None where the geometry of a structure is not known."""
        hashes = [record.geometry for record in records]
        if None in hashes:
            return None
        runs = tuple((origin, len(list(part))) for origin, part in groupby(records, key=lambda record: record.origin))
        return cls(np.array(hashes, dtype=np.uint64), runs)

    def each(self) -> list[Origin]:
        """Structure by structure."""
        return [origin for origin, count in self.runs for _ in range(count)]

    def agrees(self, other: Origins, exactly: bool) -> bool:
        """Whether the origins are the same.

        Args:
            exactly: the time too.
        """
        ours, theirs = (
            [(origin if exactly else replace(origin, time=0), count) for origin, count in origins.runs]
            for origins in (self, other)
        )
        return ours == theirs

    def to_dict(self) -> Document:
        return {
            "geometries": base64.b64encode(self.geometries.astype(_WORD).tobytes()).decode(),
            "runs": [{**asdict(origin), "structures": count} for origin, count in self.runs],
        }

    @classmethod
    def from_dict(cls, data: Any, structures: int) -> Origins:
        """Of a document of a shard with so many structures.

        Raises:
            StoreError: it does not fit.
        """
        typed(data, "origins", str, "geometries")
        typed(data, "origins", list, "runs")
        try:
            hashes = np.frombuffer(base64.b64decode(data["geometries"], validate=True), dtype=_WORD)
        except (binascii.Error, ValueError):
            raise StoreError(f"the geometries of its structures are malformed; {MADE_UP}") from None
        runs = []
        for run in data["runs"]:
            typed(run, "an origin", str, "source", "version")
            typed(run, "an origin", int, "time", "structures")
            first = run.get("first", 0)  # which was not told before
            typed({"first": first}, "an origin", int, "first")
            runs.append((Origin(run["source"], run["version"], run["time"], first), run["structures"]))
        if len(hashes) != structures or sum(count for _, count in runs) != structures:
            raise StoreError(f"geometries or origins of more or fewer than its {structures} structures; {MADE_UP}")
        return cls(hashes.astype(np.uint64), tuple(runs))

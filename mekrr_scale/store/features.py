"""Features of the user's own: numpy arrays in, a store out."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Literal, cast

import numpy as np
import xxhash
from jaxtyping import Float, Int64
from numpy import ndarray
from numpy.typing import DTypeLike

from mekrr_scale.errors import ConfigError
from mekrr_scale.progress import LOGGER
from mekrr_scale.store.format import ShardInfo, StoreHeader
from mekrr_scale.store.manage import finalize
from mekrr_scale.store.origins import Origin
from mekrr_scale.store.shard import StructureRecord
from mekrr_scale.store.writer import ShardWriter


class FeatureWriter:
    """Write features of your own into a store, structure by structure.

    Features that an earlier writer put into the same folder count once: the newer energy where they differ.

    >>> import tempfile
    >>> with FeatureWriter(tempfile.mkdtemp(), "my-descriptors 1.0", dim=2) as writer:
    ...     writer.add(np.array([1, 8]), np.zeros((2, 2)), energy=-1.0)
    >>> writer.info[0].structures
    1

    Args:
        dtype: float32 or float64, by name or as numpy has it.

    Raises:
        ConfigError: another dtype.
        StoreError: a folder that holds other features, or cannot be written.
    """

    def __init__(
        self, folder: Path | str, name: str, dim: int, dtype: DTypeLike = "float32", shard_bytes: int = 256 * 1024**2
    ) -> None:
        backbone = {"name": name, "version": "", "weight_hash": "", "layer": "", "options": []}
        self.writer = ShardWriter(folder, StoreHeader(backbone, dim, _precision(dtype)))
        self.shard_bytes = shard_bytes
        self.info: list[ShardInfo] = []
        self._records: list[StructureRecord] = []
        self._count = 0
        self._origin = ""
        self._made = Origin("features", "", time.time_ns())
        self._seen: Counter[int] = Counter()
        self._bytes = 0

    def add(
        self,
        numbers: Int64[ndarray, " atoms"],
        features: Float[ndarray, "atoms dim"],
        energy: float = float("nan"),
        group: int = -1,
    ) -> None:
        """Add one structure; arrays are copied, so that theirs may be filled again.

        Args:
            numbers: atomic numbers.
            energy: total energy in eV; NaN if unknown.
            group: trajectory that it belongs to, kept together in cross-validation.

        Raises:
            StoreError: shapes that do not fit, or features that are not finite.
        """
        numbers, features = np.asarray(numbers).astype(np.int64), np.asarray(features).copy()
        digest = xxhash.xxh3_64(np.ascontiguousarray(numbers).tobytes())
        digest.update(np.ascontiguousarray(features).tobytes())
        self._seen[digest.intdigest()] += 1  # equal features of one run are structures of their own
        alike = xxhash.xxh3_64_intdigest(f"{digest.hexdigest()} {self._seen[digest.intdigest()]}".encode()) >> 1
        digest.update(np.float64(energy).tobytes())
        number = digest.intdigest() >> 1
        record = StructureRecord(
            numbers, features, number, self._count, energy, group=group, geometry=alike, origin=self._made
        )
        record.check(self.writer.header.dim)
        self._records.append(record)
        self._count += 1
        self._bytes += features.nbytes
        if self._bytes >= self.shard_bytes:
            self._flush()

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        if self._records:
            self._flush()
        for remark in finalize(self.writer.folder).remarks:
            LOGGER.warning("%s: %s", self.writer.folder, remark)

    def _flush(self) -> None:
        key = xxhash.xxh3_128_hexdigest(np.array([r.id for r in self._records]).tobytes())
        start = self._records[0].index
        self._origin = self._origin or f"features#{self._records[0].id:x}"
        self.info.append(self.writer.write(self._records, self._origin, f"{start}-{key}", start, self._count))
        self._records, self._bytes = [], 0


def _precision(dtype: DTypeLike) -> Literal["float32", "float64"]:
    """The name of what a store can hold.

    Raises:
        ConfigError: it is something else.
    """
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = ""
    if name not in ("float32", "float64"):
        raise ConfigError(f"features of dtype {dtype} cannot be written; give 'float32' or 'float64'")
    return cast(Literal["float32", "float64"], name)

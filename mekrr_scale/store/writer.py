"""Writing shards: arranged in memory, written beside the final name, checked, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import xxhash

from mekrr_scale.errors import StoreError
from mekrr_scale.files import file_hash, publish, temporary_path
from mekrr_scale.store.documents import ALIGNMENT, BIG, BLOCK_BYTES, MANIFEST, SCHEMA, SHARD, SIDECAR, WEIGHED
from mekrr_scale.store.format import (
    BigDataset,
    ShardInfo,
    StoreHeader,
    canonical,
    document,
    header_and_shards,
    meta_hash,
    read_sealed,
)
from mekrr_scale.store.origins import Origins
from mekrr_scale.store.shard import WEIGHTS, Arrays, StructureRecord, block_hashes, shard_arrays
from mekrr_scale.store.sidecars import Sidecar, sidecars_in
from mekrr_scale.version import __version__


class ShardWriter:
    """Publishes shards in a folder; many writers may share one, and any may be killed.

    A shard appears under its name only when it is complete and checked, its sidecar after it.
    """

    def __init__(self, folder: Path | str, header: StoreHeader) -> None:
        self.folder = Path(folder)
        self.header = header
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot create the store {self.folder}: {error}; choose a folder you may write to"
            ) from error
        found = header_in(self.folder)
        if found is not None:
            header.require(found, str(self.folder))

    def name(self, input_hash: str) -> str:
        """The file name of a shard: a hash of its input and of how features are made."""
        features = {name: value for name, value in self.header.to_dict().items() if name != "electrons"}
        key = canonical({"input": input_hash, "header": features, "schema": SCHEMA})
        return f"shard-{xxhash.xxh3_128_hexdigest(key.encode())}{SHARD}"

    def published(self, input_hash: str) -> bool:
        """Whether the shard of this input is there and has the bytes that it should have."""
        return self._found(input_hash) is not None

    def adopt(self, input_hash: str, input_name: str, start: int, stop: int, origins: Origins, renew: bool) -> bool:
        """Whether a shard is there and whole; its sidecar then says that it is of this input.

        Args:
            renew: whether it has to say too that it was found now.
        """
        found = self._found(input_hash)
        if found is None:
            return False
        info = replace(found.info, input=input_name, start=start, stop=stop)
        current = Sidecar(self.folder, self.header, info, origins)
        if info != found.info or found.origins is None or not origins.agrees(found.origins, renew):
            with _said(self.folder):
                current.publish()
        return True

    def _found(self, input_hash: str) -> Sidecar | None:
        """Of the shard of this input, if it is there and has the bytes that it should have."""
        path = self.folder / self.name(input_hash)
        if not path.is_file():
            return None
        try:
            found = Sidecar.read(path.with_name(path.name + SIDECAR))
        except StoreError:  # missing or damaged: the shard is made anew
            return None
        whole = found.info.bytes == path.stat().st_size and found.info.xxh3_128 == file_hash(path, "xxh3_128")
        return found if whole else None

    def write(
        self, records: Sequence[StructureRecord], input_name: str, input_hash: str, start: int, stop: int
    ) -> ShardInfo:
        """Write and publish one shard.

        Args:
            input_hash: of the structures; writing the same again is harmless.
            start, stop: range of the structures in the input, rejected ones counted.

        Raises:
            StoreError: records that do not fit, no space, or no permission.
        """
        if not records:
            raise StoreError("a shard needs at least one structure")
        for record in records:
            record.check(self.header.dim)
        header = self.header
        arrays = shard_arrays(records, header.dtype, bool(header.directions), header.half_tangents)
        path = self.folder / self.name(input_hash)
        temporary = temporary_path(self.folder, "")
        try:
            with _said(self.folder):
                big = self._write_hdf5(temporary, arrays)
                info = _describe(temporary, path.name, arrays, big, input_name, input_hash, start, stop)
                publish(temporary, path)
                Sidecar(self.folder, header, info, Origins.of(records)).publish()
        finally:
            temporary.unlink(missing_ok=True)
        return info

    def _write_hdf5(self, path: Path, arrays: Arrays) -> dict[str, BigDataset]:
        hashes = [block_hashes(arrays[name], BLOCK_BYTES) for name in BIG if name in arrays]
        first = np.cumsum([0, *map(len, hashes)])
        # The file is laid out in memory and written by plain calls: libhdf5 does not survive a full disk.
        with h5py.File(
            path,
            "w",
            driver="core",
            backing_store=False,
            libver=("v110", "v110"),
            alignment_threshold=ALIGNMENT,
            alignment_interval=ALIGNMENT,
        ) as file:
            for key, value in _attributes(self.header, WEIGHTS in arrays).items():
                file.attrs[key] = value
            for name, array in arrays.items():
                file.create_dataset(name, data=array)
            file.create_dataset("/block/xxh3", data=np.concatenate(hashes))
            big = {
                name: BigDataset(
                    offset=int(file[name].id.get_offset() or 0),
                    rows=array.shape[0],
                    columns=array.shape[1],
                    dtype=array.dtype.name,
                    first_block=int(first[i]),
                )
                for i, (name, array) in enumerate((n, arrays[n]) for n in BIG if n in arrays)
            }
            file.flush()
            image = file.id.get_file_image()
        with path.open("wb") as written:
            written.write(image)
            written.flush()
            os.fsync(written.fileno())
        for (name, place), expected in zip(big.items(), hashes, strict=True):
            back = np.fromfile(path, dtype=np.uint8, count=place.nbytes, offset=place.offset)
            if not np.array_equal(block_hashes(back, BLOCK_BYTES), expected):
                raise StoreError(f"{path}: {name} read back differs from what was written; the disk is failing")
        return big


@contextmanager
def _said(folder: Path) -> Iterator[None]:
    """Say what to do about a disk that takes no more."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write to the store {folder}: {error}. Free some space or correct the permissions and "
            "run the same command again; it goes on where it stopped"
        ) from error


def header_in(folder: Path) -> StoreHeader | None:
    """That of the store in a folder, from whatever there is not damaged."""
    for sidecar in sidecars_in(folder):
        try:
            return Sidecar.read(sidecar).header
        except StoreError:
            continue  # the extraction that made it makes it anew
    try:
        return header_and_shards(folder / MANIFEST, read_sealed(folder / MANIFEST))[0]
    except StoreError:
        return None


def _attributes(header: StoreHeader, weighed: bool) -> dict[str, str]:
    shared = document(header)
    if weighed:
        shared["required_features"] = [*shared["required_features"], WEIGHED]
    texts = {key: value if isinstance(value, str) else canonical(value) for key, value in shared.items()}
    backbone = {f"backbone_{key}": canonical(value) for key, value in header.backbone.items()}
    return {**texts, **backbone, "writer": f"mekrr-scale {__version__}"}


def _describe(
    temporary: Path,
    name: str,
    arrays: Arrays,
    big: dict[str, BigDataset],
    input_name: str,
    input_hash: str,
    start: int,
    stop: int,
) -> ShardInfo:
    size = temporary.stat().st_size
    counts = np.diff(arrays["/species/ptr"])
    return ShardInfo(
        path=name,
        bytes=size,
        xxh3_128=file_hash(temporary, "xxh3_128"),
        meta_xxh3_128=meta_hash(temporary, big, size),
        structures=len(arrays["/structure/id"]),
        atoms=len(arrays["/atom/species"]),
        directions=len(arrays.get("/tangent/kind", ())),
        energies=int(np.isfinite(arrays["/structure/energy"]).sum()),
        species={str(z): int(n) for z, n in zip(arrays["/species/z"], counts, strict=True)},
        input=input_name,
        input_hash=input_hash,
        start=start,
        stop=stop,
        big=big,
    )

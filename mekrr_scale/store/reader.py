"""Reading a store: checked before HDF5 sees a file, big arrays mapped into memory."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.typing import NDArray

from mekrr_scale.arrays import FeatureBatch
from mekrr_scale.distributed import share
from mekrr_scale.errors import StoreError
from mekrr_scale.files import file_hash
from mekrr_scale.store.format import (
    BLOCK_BYTES,
    MANIFEST,
    BigDataset,
    ShardInfo,
    StoreDocument,
    StoreHeader,
    check_version,
    meta_hash,
    read_sealed,
)
from mekrr_scale.store.shard import BIG, Arrays, batch_of, block_hashes

VerifyLevel = Literal["size", "lazy", "full"]

BATCH_ATOMS = 32768  # and tangent rows, of a batch
BATCH_STRUCTURES = 2048  # of a batch: each is a row of as many numbers as there are landmarks
_MAX_OPEN = 200  # shards: each takes a file handle, of which a process often has 1024
HELD_BYTES = 128 * 1024**2  # of arrays per structure, over all open shards


class Shard:
    """One open shard: arrays per structure in memory, those per atom mapped, features verified on first use."""

    def __init__(
        self, path: Path, info: ShardInfo, level: VerifyLevel, verified: dict[str, NDArray[np.bool_]] | None = None
    ) -> None:
        """Open and check a shard.

        Args:
            verified: blocks of each big dataset that were checked before, and "" once the rest was.
        """
        self.path = path
        self.info = info
        self._verified = {} if verified is None else verified
        _check_size(path, info)
        if level == "full" and file_hash(path, "xxh3_128") != info.xxh3_128:
            raise StoreError(f"{path} is damaged (its hash does not fit the manifest); extract it again")
        if level != "size" and "" not in self._verified:
            if meta_hash(path, info.big, info.bytes) != info.meta_xxh3_128:
                raise StoreError(f"{path} is damaged outside its features; delete it and run the extraction again")
            self._verified[""] = np.ones(1, dtype=np.bool_)
        self._mapped = _mapped(path)
        self.small = _read_small(path, self._mapped)
        self._hashes = self.small["/block/xxh3"]
        self._cuts: dict[tuple[int, bool], list[tuple[int, int]]] = {}
        self._check_blocks = level == "lazy"
        file = np.frombuffer(self._mapped, dtype=np.uint8)
        self._maps = {name: _view(file, place) for name, place in info.big.items()}

    @property
    def held_bytes(self) -> int:
        """Memory that the shard takes as long as it is open."""
        return sum(array.nbytes for name, array in self.small.items() if not name.startswith("/atom/"))

    def cuts(self, max_atoms: int, tangents: bool) -> list[tuple[int, int]]:
        """Ranges of structures of a bounded size; worked out once, they depend on the shard alone."""
        if (max_atoms, tangents) not in self._cuts:
            self._cuts[max_atoms, tangents] = list(_cuts(self, max_atoms, tangents))
        return self._cuts[max_atoms, tangents]

    def ahead(self, first: int, last: int, tangents: bool) -> None:
        """Have the system read what some structures take, while something else is computed."""
        pointers = {"/atom/features": "/structure/ptr", **({"/tangent/features": "/tangent/ptr"} if tangents else {})}
        for name, pointer in pointers.items():
            if name not in self.info.big or pointer not in self.small or not self.info.big[name].nbytes:
                continue
            place, bounds = self.info.big[name], self.small[pointer]
            width = place.nbytes // place.rows
            for a, b in zip(bounds[:, first].tolist(), bounds[:, last].tolist(), strict=True):
                start = (place.offset + a * width) // mmap.PAGESIZE * mmap.PAGESIZE
                if b > a:
                    self._mapped.madvise(mmap.MADV_WILLNEED, start, place.offset + b * width - start)

    def rows(self, name: str, first: int, last: int) -> Float[ndarray, "rows columns"]:
        """Rows of a big dataset, mapped from the file.

        Raises:
            StoreError: a block of them is damaged.
        """
        if self._check_blocks:
            self._verify(name, first, last)
        return self._maps[name][first:last]

    def arrays(self) -> Arrays:
        """All arrays, the big ones included."""
        return {**self.small, **{name: self.rows(name, 0, place.rows) for name, place in self.info.big.items()}}

    def _verify(self, name: str, first: int, last: int) -> None:
        place = self.info.big[name]
        if not place.nbytes:
            return
        width = place.nbytes // place.rows
        done = self._verified.setdefault(name, np.zeros(-(-place.nbytes // BLOCK_BYTES), dtype=bool))
        start, stop = first * width // BLOCK_BYTES, -(-last * width // BLOCK_BYTES)
        if done[start:stop].all():
            return
        data = self._maps[name].reshape(-1).view(np.uint8)
        for block in range(start, stop):
            if done[block]:
                continue
            piece = data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
            if block_hashes(piece, BLOCK_BYTES)[0] != self._hashes[place.first_block + block]:
                raise StoreError(f"{self.path}: block {block} of {name} is damaged; delete the file and extract again")
            done[block] = True


@dataclass(frozen=True, repr=False)
class FeatureStore:
    """A finished store. Iterating gives batches of consecutive structures; iterate as often as needed.

    Args:
        path: the folder.
        level: ``size``: sizes only; ``lazy``: metadata when a shard is opened, each block of
            features once, on first use; ``full``: whole files, every time one is opened.
        tangents: whether batches carry tangents.
        max_atoms: atoms (and tangent rows) of a batch at most, unless a structure has more.
        owned: names of the shards that iterating passes over; None for all. Counts are always those of
            the whole store.

    Raises:
        StoreError: no manifest, damage, an unknown version, or missing shards.
    """

    path: Path
    level: VerifyLevel = "lazy"
    tangents: bool = False
    max_atoms: int = BATCH_ATOMS
    owned: frozenset[str] | None = None
    manifest: StoreDocument = field(init=False, repr=False)
    header: StoreHeader = field(init=False)
    shards: tuple[ShardInfo, ...] = field(init=False, repr=False)
    _open: dict[str, Shard] = field(init=False, repr=False, compare=False, default_factory=dict)
    _verified: dict[str, dict[str, NDArray[np.bool_]]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        path = Path(self.path)
        if not path.is_dir():
            raise StoreError(f"there is no store {path}; make one with `mekrr-scale extract`")
        if not (path / MANIFEST).exists():
            raise StoreError(
                f"{path} has no {MANIFEST}: the extraction has not finished. Run it again (it goes on where it "
                "stopped), or `mekrr-scale store finalize` if all its parts are done"
            )
        manifest = read_sealed(path / MANIFEST)
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "manifest", manifest)
        object.__setattr__(self, "header", StoreHeader.from_dict(manifest["header"]))
        object.__setattr__(self, "shards", tuple(ShardInfo.from_dict(shard) for shard in manifest["shards"]))
        for info in self.shards:
            _check_size(path / info.path, info)

    def __repr__(self) -> str:
        made = f"{self.header.backbone.get('name')} {self.header.backbone.get('layer')}".strip()
        counts = f"{self.n_structures} structures, {self.n_atoms} atoms, {self.n_directions} directions"
        return f"FeatureStore({str(self.path)!r}): {counts}, {self.header.dim} features of {made}"

    @property
    def id(self) -> str:
        """sha256 of the manifest: equal for equal content."""
        return str(self.manifest["id"])

    @property
    def n_structures(self) -> int:
        return sum(shard.structures for shard in self.shards)

    @property
    def n_atoms(self) -> int:
        return sum(shard.atoms for shard in self.shards)

    @property
    def n_directions(self) -> int:
        return sum(shard.directions for shard in self.shards)

    @property
    def species(self) -> dict[int, int]:
        """Atoms by atomic number."""
        total: dict[int, int] = {}
        for shard in self.shards:
            for z, n in shard.species.items():
                total[int(z)] = total.get(int(z), 0) + n
        return dict(sorted(total.items()))

    def open(self, info: ShardInfo) -> Shard:
        """Open one shard, verified as the level asks for; it stays open while there is room."""
        if info.path not in self._open:
            shard = Shard(self.path / info.path, info, self.level, self._verified.setdefault(info.path, {}))
            held = sum(other.held_bytes for other in self._open.values())
            if held + shard.held_bytes > HELD_BYTES or len(self._open) >= _MAX_OPEN:
                return shard
            self._open[info.path] = shard
        return self._open[info.path]

    def __iter__(self) -> Iterator[FeatureBatch]:
        for info in self.shards:
            if self.owned is not None and info.path not in self.owned:
                continue
            shard = self.open(info)
            cuts = shard.cuts(self.max_atoms, self.tangents)
            for place, (first, last) in enumerate(cuts):
                if place + 1 < len(cuts):
                    shard.ahead(*cuts[place + 1], self.tangents)
                yield batch_of(shard.small, shard.rows, first, last, self.tangents)


def open_store(path: Path | str, tangents: bool = False) -> FeatureStore:
    """A finished store, by its folder.

    Args:
        tangents: whether batches carry tangents.

    Raises:
        StoreError: no manifest, damage, an unknown version, or missing shards.
    """
    return FeatureStore(Path(path), tangents=tangents)


def deal(
    stores: Sequence[FeatureStore], rank: int, size: int, done: frozenset[str] = frozenset()
) -> tuple[FeatureStore, ...]:
    """The stores with the shards of one rank: whole ones, balanced by their atoms and tangent rows.

    Args:
        done: hashes of shard files that nobody gets.
    """
    places = [(i, info) for i, store in enumerate(stores) for info in store.shards if info.xxh3_128 not in done]
    sizes = [sum(place.rows for place in info.big.values()) for _, info in places]
    mine = [places[item] for item in share(sizes, size)[rank]]
    return tuple(
        replace(store, owned=frozenset(info.path for place, info in mine if place == i))
        for i, store in enumerate(stores)
    )


def _cuts(shard: Shard, max_atoms: int, tangents: bool) -> Iterator[tuple[int, int]]:
    """Ranges of structures of a bounded size. They depend on the shard alone."""
    sizes = shard.small["/structure/n_atoms"].astype(np.int64)
    if tangents and "/tangent/structure_ptr" in shard.small:
        sizes = sizes * np.maximum(1, np.diff(shard.small["/tangent/structure_ptr"]))
    total, first = 0, 0
    for i, size in enumerate(sizes.tolist()):
        if i > first and (total + size > max_atoms or i - first >= BATCH_STRUCTURES):
            yield first, i
            total, first = 0, i
        total += size
    if first < len(sizes):
        yield first, len(sizes)


def _read_small(path: Path, mapped: mmap.mmap) -> Arrays:
    try:
        with h5py.File(path, "r") as file:
            attributes = {key: file.attrs[key] for key in ("format", "schema")}
            required = json.loads(str(file.attrs["required_features"]))
            check_version({**attributes, "required_features": required}, str(path))
            names: list[str] = []
            file.visititems(lambda name, node: names.append(f"/{name}") if isinstance(node, h5py.Dataset) else None)
            arrays = {name: _small(mapped, name, file[name]) for name in names if name not in BIG}
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise StoreError(f"{path} cannot be read as HDF5: {error}; delete it and extract again") from error
    missing = [name for name in ("/structure/ptr", "/structure/id", "/species/z", "/block/xxh3") if name not in arrays]
    if missing:
        raise StoreError(f"{path} lacks {', '.join(missing)}; delete it and extract again")
    return arrays


def _small(mapped: mmap.mmap, name: str, dataset: h5py.Dataset) -> NDArray[Any]:
    """Arrays per structure are read, those per atom only mapped."""
    offset = dataset.id.get_offset()
    if not name.startswith("/atom/") or offset is None:
        return np.asarray(dataset[()])
    count = int(np.prod(dataset.shape))
    return np.frombuffer(mapped, dtype=dataset.dtype, count=count, offset=offset).reshape(dataset.shape)


def _mapped(path: Path) -> mmap.mmap:
    """The file, copy-on-write: nothing is ever written, and torch takes the arrays without a warning."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _view(file: NDArray[np.uint8], place: BigDataset) -> NDArray[Any]:
    data = file[place.offset : place.offset + place.nbytes].view(place.dtype)
    return data.reshape(place.rows, place.columns)


def _check_size(path: Path, info: ShardInfo) -> None:
    """Before anything is mapped: a file that is too short would end the process with SIGBUS."""
    try:
        size = path.stat().st_size
    except OSError:
        raise StoreError(f"shard {path} is missing; run the extraction again, it makes what is not there") from None
    if size != info.bytes:
        raise StoreError(f"shard {path} has {size} bytes instead of {info.bytes}; delete it and extract again")

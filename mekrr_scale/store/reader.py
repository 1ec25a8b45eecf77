"""Reading a store: checked before HDF5 sees a file, big arrays mapped into memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from numpy.typing import NDArray

from mekrr_scale.arrays import Compression, FeatureBatch, RowKind
from mekrr_scale.distributed import share
from mekrr_scale.errors import StoreError, require_known
from mekrr_scale.files import file_hash, path_of
from mekrr_scale.store.axes import read_axes
from mekrr_scale.store.documents import BLOCK_BYTES, MANIFEST, OnDuplicate, StoreDocument, again, policy_of, typed
from mekrr_scale.store.format import BigDataset, ShardInfo, StoreHeader, header_and_shards, meta_hash, read_sealed
from mekrr_scale.store.hdf5 import read_small
from mekrr_scale.store.parts import Lack
from mekrr_scale.store.shard import Arrays, batch_of, block_hashes

VerifyLevel = Literal["size", "lazy", "full"]

BATCH_ATOMS = 32768  # and tangent rows, of a batch
BATCH_STRUCTURES = 2048  # of a batch: each is a row of as many numbers as there are landmarks
_MAX_OPEN = 200  # shards: each takes some memory for its arrays per structure
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
            raise StoreError(f"{path} is damaged (its hash does not fit the manifest); {again(path.parent)}")
        if level != "size" and "" not in self._verified:
            if meta_hash(path, info.big, info.bytes) != info.meta_xxh3_128:
                raise StoreError(f"{path} is damaged outside its features; {again(path.parent)}")
            self._verified[""] = np.ones(1, dtype=np.bool_)
        file = _mapped(path, info.bytes)
        self.small = read_small(path, file, info)  # structures that do not count included
        self.counting = ~np.isin(np.arange(len(self.small["/structure/id"])), info.excluded)
        self._hashes = self.small["/block/xxh3"]
        self._cuts: dict[tuple[int, bool], list[tuple[int, int]]] = {}
        self._check_blocks = level == "lazy"
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

    @property
    def z(self) -> NDArray[np.int64]:
        """Atomic numbers of the species, ascending."""
        return self.small["/species/z"].astype(np.int64)

    @property
    def atoms(self) -> NDArray[np.int64]:
        """How many of each species (rows) there are in each structure (columns)."""
        return np.diff(self.small["/structure/ptr"])

    @property
    def directions(self) -> NDArray[np.int64]:
        """How many each structure has."""
        none = np.zeros(len(self.small["/structure/id"]) + 1, dtype=np.int64)
        return np.diff(self.small.get("/tangent/structure_ptr", none))

    def holds(self, kind: RowKind) -> bool:
        """Whether any direction of a kind has a label."""
        if "/tangent/kind" not in self.small:
            return False
        known = (self.small["/tangent/kind"] == kind) & np.isfinite(self.small["/tangent/label"])
        return bool((known & self.counting.repeat(self.directions)).any())

    def ranges(self, at: int) -> list[tuple[int, int]]:
        """The rows of a structure's atoms, for each species from the first to one past the last."""
        pairs = self.small["/structure/ptr"][:, at : at + 2].tolist()
        return [(first, last) for first, last in pairs]

    def ahead(self, first: int, last: int, tangents: bool) -> None:
        """Have the system read what some structures take, while something else is computed."""
        pointers = {"/atom/features": "/structure/ptr", **({"/tangent/features": "/tangent/ptr"} if tangents else {})}
        for name, pointer in pointers.items():
            if name not in self.info.big or pointer not in self.small or not self.info.big[name].nbytes:
                continue
            place, bounds = self.info.big[name], self.small[pointer]
            width = place.nbytes // place.rows
            pairs = zip(bounds[:, first].tolist(), bounds[:, last].tolist(), strict=True)
            _read_ahead(self.path, [(place.offset + a * width, (b - a) * width) for a, b in pairs if b > a])

    def rows(self, name: str, first: int, last: int) -> Float[ndarray, "rows columns"]:
        """Rows of a big dataset, mapped from the file.

        Raises:
            StoreError: a block of them is damaged.
        """
        if self._check_blocks:
            self._verify(name, first, last)
        return self._maps[name][first:last]

    def batch(self, first: int, last: int, tangents: bool) -> FeatureBatch:
        """Those of consecutive structures that count."""
        found = batch_of(self.small, self.rows, first, last, tangents)
        return found.kept(torch.from_numpy(self.counting[first:last]))

    def counted(self, first: int, last: int) -> bool:
        """Whether any of consecutive structures counts."""
        return bool(self.counting[first:last].any())

    def arrays(self) -> Arrays:
        """All arrays, the big ones and structures that do not count included."""
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
                raise StoreError(f"{self.path}: block {block} of {name} is damaged; {again(self.path.parent)}")
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
        owned: names of the shards that iterating goes through; None for all. Counts are always those of
            the whole store.
        remarks: what was worth saying when the manifest was made.
        checked: whether the sizes of all shards are looked at when the store is opened.

    Raises:
        StoreError: no manifest, damage, an unknown version or level, or missing shards.
    """

    path: Path
    level: VerifyLevel = "lazy"
    tangents: bool = False
    max_atoms: int = BATCH_ATOMS
    owned: frozenset[str] | None = None
    remarks: tuple[str, ...] = ()
    checked: bool = True
    manifest: StoreDocument = field(init=False, repr=False)
    header: StoreHeader = field(init=False)
    shards: tuple[ShardInfo, ...] = field(init=False, repr=False)
    _open: dict[str, Shard] = field(init=False, repr=False, compare=False, default_factory=dict)
    _verified: dict[str, dict[str, NDArray[np.bool_]]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        path = Path(self.path)
        require_known("there is no level", self.level, get_args(VerifyLevel), StoreError)
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
        header, shards = header_and_shards(path / MANIFEST, manifest)
        object.__setattr__(self, "header", header)
        object.__setattr__(self, "shards", shards)
        for info in self.shards if self.checked else ():
            self.check(info)

    def __repr__(self) -> str:
        made = f"{self.header.backbone.get('name')} {self.header.backbone.get('layer')}".strip()
        counts = f"{self.n_structures} structures, {self.n_atoms} atoms, {self.n_directions} directions"
        return f"FeatureStore({str(self.path)!r}): {counts}, {self.header.dim} features of {made}"

    @property
    def id(self) -> str:
        """sha256 of the manifest: equal for equal content."""
        return str(self.manifest["id"])

    @cached_property
    def compression(self) -> Compression | None:
        """The axes that features are coordinates along; None where they are as the backbone gives them.

        Raises:
            StoreError: the file that holds them is missing or damaged.
        """
        at = self.header.compression
        return read_axes(self.path, str(at["hash"])) if at else None

    @property
    def own_shards(self) -> list[ShardInfo]:
        """Those that iterating goes through."""
        return [info for info in self.shards if self.owned is None or info.path in self.owned]

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
    def superseded(self) -> Mapping[str, int]:
        """Shards none of whose structures count any longer, and how many they hold."""
        typed({"superseded": {}, **self.manifest}, "the manifest", dict, "superseded")
        found = self.manifest.get("superseded", {})
        typed(found, "superseded", int, *found)
        return found

    @property
    def n_excluded(self) -> int:
        """Structures that do not count: copies, and those whose labels were corrected."""
        return sum(len(info.excluded) for info in self.shards) + sum(self.superseded.values())

    @property
    def on_duplicate(self) -> OnDuplicate:
        """What was said about labels that differ between sources."""
        return policy_of(self.manifest.get("on_duplicate"))

    @property
    def incomplete(self) -> Mapping[str, Lack]:
        """What is missing of the extractions that made it, by a hash of each; empty if nothing is.

        Raises:
            StoreError: the manifest is malformed there.
        """
        typed({"incomplete": {}, **self.manifest}, "the manifest", dict, "incomplete")
        return {version: Lack.from_dict(data) for version, data in self.manifest.get("incomplete", {}).items()}

    @property
    def species(self) -> dict[int, int]:
        """Atoms by atomic number."""
        total: dict[int, int] = {}
        for shard in self.shards:
            for z, n in shard.species.items():
                total[int(z)] = total.get(int(z), 0) + n
        return dict(sorted(total.items()))

    def holds(self, kind: RowKind) -> bool:
        """Whether any direction of a kind has a label, on whichever rank."""
        return any(self.open(info).holds(kind) for info in self.shards)

    def check(self, info: ShardInfo) -> None:
        """Refuse a shard that is missing or has not the size that it should have.

        Raises:
            StoreError: says which, and what to do.
        """
        _check_size(self.path / info.path, info)

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
        for shard in map(self.open, self.own_shards):
            cuts = [cut for cut in shard.cuts(self.max_atoms, self.tangents) if shard.counted(*cut)]
            for place, (first, last) in enumerate(cuts):
                if place + 1 < len(cuts):
                    shard.ahead(*cuts[place + 1], self.tangents)
                yield shard.batch(first, last, self.tangents)


def open_store(path: Path | str, tangents: bool = False) -> FeatureStore:
    """A finished store, by its folder.

    Args:
        tangents: whether batches carry tangents.

    Raises:
        StoreError: no manifest, damage, an unknown version, or missing shards; what is no path.
    """
    return FeatureStore(path_of(path, "a store or its folder", StoreError, "store"), tangents=tangents)


def deal(
    stores: Sequence[FeatureStore], rank: int, size: int, done: frozenset[str] = frozenset()
) -> tuple[FeatureStore, ...]:
    """The stores with the shards of one rank: whole ones, balanced by their atoms and tangent rows.

    Args:
        done: keys of shards that nobody gets.
    """
    places = [(i, info) for i, store in enumerate(stores) for info in store.shards if info.key not in done]
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


def _mapped(path: Path, size: int) -> NDArray[np.uint8]:
    """The file, copy-on-write: nothing is ever written. Unlike Python's own, torch's map keeps no file handle.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        raise StoreError(f"{path} cannot be read: {said}; correct its permissions or raise `ulimit -n`") from None


def _read_ahead(path: Path, pieces: Sequence[tuple[int, int]]) -> None:
    """Tell the system which pieces (offset, length) of a file will be needed; a wish, so that it may fail."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            for offset, length in pieces:
                os.posix_fadvise(handle, offset, length, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(handle)


def _view(file: NDArray[np.uint8], place: BigDataset) -> NDArray[Any]:
    data = file[place.offset : place.offset + place.nbytes].view(place.dtype)
    return data.reshape(place.rows, place.columns)


def _check_size(path: Path, info: ShardInfo) -> None:
    """Before anything is mapped: a file that is too short would end the process with SIGBUS."""
    try:
        size = path.stat().st_size
    except OSError:
        raise StoreError(f"shard {path} is missing; {again(path.parent)}") from None
    if size != info.bytes or not path.is_file():
        raise StoreError(f"shard {path} has {size} bytes instead of {info.bytes}; {again(path.parent)}")

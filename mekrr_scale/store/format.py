"""Headers and descriptions of shards, as sealed documents of the store format (docs/store-format.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

import xxhash

from mekrr_scale.errors import StoreError
from mekrr_scale.files import Document
from mekrr_scale.store.documents import (
    BIG,
    BLOCK_BYTES,
    COMPRESSED,
    COUNTS,
    FLOATS,
    FORMAT,
    KNOWN_FEATURES,
    MADE_UP,
    MANIFEST,
    SCHEMA,
    SHARD,
    SIDECAR,
    UNITS,
    HeaderDocument,
    ShardDocument,
    StoreDocument,
    typed,
)
from mekrr_scale.structures import differing_electrons


@dataclass(frozen=True)
class StoreHeader:
    """What all shards of a store share; features are comparable only if it agrees."""

    backbone: Document  # identity of the backbone, or of the user's own features
    dim: int
    dtype: Literal["float32", "float64"] = "float32"
    directions: Document = field(default_factory=dict)  # how tangent directions were drawn
    spec: Document = field(default_factory=dict)  # how to load the backbone again
    prior: Document = field(default_factory=dict)  # whose energies the prior's are; empty: the backbone's
    compression: Document = field(default_factory=dict)  # which axes features are coordinates along; empty: none
    electrons: Document = field(default_factory=dict)  # charge and spin that all structures have; empty: neutral

    def to_dict(self) -> HeaderDocument:
        data = cast(HeaderDocument, asdict(self))
        if not self.prior:
            del data["prior"]
        if not self.compression:
            del data["compression"]
        if not self.electrons:
            del data["electrons"]
        return data

    @classmethod
    def from_dict(cls, data: Any) -> StoreHeader:
        """Of a document, whose types are checked.

        Raises:
            StoreError: says what is not as it should be.
        """
        typed(data, "header", dict, "backbone", "directions", "spec")
        typed(data, "header", int, "dim")
        optional = ("prior", "compression", "electrons")
        typed({**{key: {} for key in optional}, **data}, "header", dict, *optional)
        typed(data, "header", str, "dtype")
        dtype: str = data["dtype"]
        if dtype not in FLOATS[:2] or data["dim"] < 1:
            raise StoreError(f"a header says dtype {dtype[:40]!r} and dim {data['dim']}; {MADE_UP}")
        prior = data.get("prior", {})
        precision: Literal["float32", "float64"] = "float64" if dtype == "float64" else "float32"
        axes = data.get("compression", {})
        if axes:
            typed(axes, "compression", str, "hash", "basis")
            typed(axes, "compression", int, "from")
        electrons = data.get("electrons", {})
        return cls(
            data["backbone"], int(data["dim"]), precision, data["directions"], data["spec"], prior, axes, electrons
        )

    @property
    def required_features(self) -> list[str]:
        return [
            "species-major",
            *(["tangents"] if self.directions else []),
            *(["half-tangents"] if self.half_tangents else []),
            *([COMPRESSED] if self.compression else []),
        ]

    @property
    def half_tangents(self) -> bool:
        """Whether tangents are float16 with a scale for each row."""
        return self.directions.get("dtype") == "float16"

    @property
    def axes(self) -> str:
        """The compression in words."""
        at = self.compression
        return f"{self.dim} of {at['from']} by basis {at['hash']} ({at['basis']})" if at else "none"

    def require(self, other: StoreHeader, where: str, drawn: bool = True) -> None:
        """Refuse features of another kind.

        Args:
            drawn: whether tangents have to be drawn alike, as in one folder.

        Raises:
            StoreError: names what differs.
        """
        added = ({"prior": header.prior, "compression": header.axes} for header in (self, other))
        mine, theirs = (
            json.loads(canonical({**header.to_dict(), **more}))
            for header, more in zip((self, other), added, strict=True)
        )
        for data in (mine, theirs):  # where files lie is no difference
            data["prior"].pop("where", None)
            data.pop("electrons", None)
            if not drawn:
                data.pop("directions")
        differing = [
            f"{key}: {theirs[key]} instead of {mine[key]}" for key in mine if key != "spec" and mine[key] != theirs[key]
        ]
        if differing_electrons(self.electrons, other.electrons):
            said = [header.electrons or {"charge": 0.0} for header in (other, self)]
            differing.append(f"electrons: {said[0]} instead of {said[1]}")
        if differing:
            raise StoreError(f"{where} holds features of another kind ({'; '.join(differing)}); use another folder")


@dataclass(frozen=True)
class BigDataset:
    """Where the bytes of a large dataset lie in its file."""

    offset: int
    rows: int
    columns: int
    dtype: str  # numpy's name
    first_block: int  # its first entry in /block/xxh3

    @property
    def nbytes(self) -> int:
        import numpy as np

        return self.rows * self.columns * int(np.dtype(self.dtype).itemsize)


@dataclass(frozen=True)
class ShardInfo:
    """What the manifest says of a shard."""

    path: str
    bytes: int
    xxh3_128: str  # of the whole file
    meta_xxh3_128: str  # of everything but the big datasets
    structures: int
    atoms: int
    directions: int
    energies: int  # structures with an energy
    species: Mapping[str, int]  # atoms by atomic number
    input: str  # name of what was read
    input_hash: str  # of the structures in it
    start: int  # index of its first structure in the input, rejected ones counted
    stop: int  # one past its last
    big: Mapping[str, BigDataset]
    excluded: tuple[int, ...] = ()  # places of structures that do not count; the counts above are of the others

    def to_dict(self) -> ShardDocument:
        data = cast(ShardDocument, asdict(self))
        if self.excluded:
            data["excluded"] = list(self.excluded)
        else:
            del data["excluded"]
        return data

    @property
    def key(self) -> str:
        """Tells shards apart by what counts in them."""
        if not self.excluded:
            return self.xxh3_128
        return f"{self.xxh3_128}-{xxhash.xxh3_64_hexdigest(canonical(self.excluded).encode())}"

    @classmethod
    def from_dict(cls, data: Any) -> ShardInfo:
        """Of a document, whose names, types and bounds are checked; what a later version adds is ignored.

        Raises:
            StoreError: says what is not as it should be.
        """
        typed(data, "shard", str, "path", "xxh3_128", "meta_xxh3_128", "input", "input_hash")
        typed(data, "shard", int, *COUNTS)
        typed(data, "shard", dict, "species", "big")
        path = data["path"]
        if Path(path).name != path or path.startswith(".") or not path.endswith(SHARD) or not path.isprintable():
            raise StoreError(f"{path!r} is no plain name of a shard; {MADE_UP}")
        typed({"excluded": [], **data}, path, list, "excluded")
        left_out = data.get("excluded", [])
        if not all(type(at) is int and at >= 0 for at in left_out):
            raise StoreError(f"{path}: the list of excluded structures is malformed; {MADE_UP}")
        for z, count in data["species"].items():
            if not (z.isascii() and z.isdigit() and 0 < int(z[:4]) < 119 and type(count) is int and count >= 0):
                raise StoreError(f"{path}: {str(count)[:20]} atoms of species {z[:20]!r}; {MADE_UP}")
        big = {name: _place(name, place, data) for name, place in data["big"].items()}
        plain: dict[str, Any] = {own.name: data.get(own.name) for own in fields(cls)}
        return cls(**{**plain, "big": big, "excluded": tuple(sorted(set(left_out)))})


def _place(name: str, place: Any, shard: Any) -> BigDataset:
    """Where a large dataset lies: in its file, and nowhere else."""
    typed(place, name, int, "offset", "rows", "columns", "first_block")
    typed(place, name, str, "dtype")
    if name not in BIG or place["dtype"] not in FLOATS or place["columns"] < 1:
        raise StoreError(f"{shard['path']}: {name[:40]} of {place['dtype'][:20]!r} is no large dataset; {MADE_UP}")
    found = BigDataset(place["offset"], place["rows"], place["columns"], place["dtype"], place["first_block"])
    if found.offset + found.nbytes > shard["bytes"]:
        raise StoreError(f"{shard['path']}: {name} would reach beyond the end of the file; {MADE_UP}")
    return found


def canonical(data: Any) -> str:
    """JSON with sorted keys and no spaces: equal content, equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sealed(data: Mapping[str, object]) -> str:
    """Canonical JSON with its own sha256 under ``id``."""
    return canonical({**data, "id": hashlib.sha256(canonical(data).encode()).hexdigest()})


def read_sealed(path: Path, remedy: str = "") -> StoreDocument:
    """Read a sealed document and check its seal and version.

    Args:
        remedy: what to do about a damaged one; by default to finalize the folder.

    Raises:
        StoreError: missing, damaged, or of a format that this version does not know.
    """
    remedy = remedy or f"rebuild it with `mekrr-scale store finalize {path.parent}`"
    try:
        if path.exists() and not path.is_file():
            raise StoreError(f"{path} is no file; {remedy}")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StoreError(f"there is no {path}") from None
    except UnicodeDecodeError:
        raise StoreError(f"{path} is damaged; {remedy}") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    try:
        data = json.loads(text)
        claimed = data.pop("id")
        found = hashlib.sha256(canonical(data).encode()).hexdigest()
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise StoreError(f"{path} is damaged; {remedy}") from None
    if claimed != found:
        raise StoreError(f"{path} is damaged (its sha256 does not fit); {remedy}")
    check_version(data, str(path))
    return cast(StoreDocument, {**data, "id": claimed})


def header_and_shards(path: Path, data: StoreDocument) -> tuple[StoreHeader, tuple[ShardInfo, ...]]:
    """Of a sidecar, which has one shard, or a manifest; names in it are those of files in its own folder.

    Raises:
        StoreError: names the file, and what in it is not as it should be.
    """
    listed: Any = data.get("shards") if path.name == MANIFEST else [data.get("shard")]
    try:
        typed(data, "the document", dict, "header")
        if not isinstance(listed, list):
            raise StoreError(f"its list of shards is {str(listed)[:40]!r}; {MADE_UP}")
        header, shards = StoreHeader.from_dict(data["header"]), tuple(ShardInfo.from_dict(shard) for shard in listed)
        if len({info.path for info in shards}) < len(shards):
            raise StoreError(f"a shard is listed twice; {MADE_UP}")
        if path.name != MANIFEST and path.name != f"{shards[0].path}{SIDECAR}":
            raise StoreError(f"it describes {shards[0].path}, another file; {MADE_UP}")
        if any(place.columns != header.dim for info in shards for place in info.big.values()):
            raise StoreError(f"features of another size than dim = {header.dim}; {MADE_UP}")
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from None
    return header, shards


def check_version(data: Mapping[str, object], where: str) -> None:
    """Refuse other formats, newer major versions and unknown required features.

    Raises:
        StoreError: says which.
    """
    if data.get("format") != FORMAT:
        raise StoreError(f"{where} is not of the format {FORMAT!r} but of {str(data.get('format'))[:40]!r}")
    schema, required = str(data.get("schema", ""))[:40], data.get("required_features", [])
    if schema.split(".")[0] != SCHEMA.split(".", maxsplit=1)[0]:
        raise StoreError(f"{where} has schema {schema!r}, this version reads {SCHEMA}; update mekrr-scale")
    names = [str(name)[:40] for name in required] if isinstance(required, list) else [str(required)[:40]]
    unknown = sorted(set(names) - KNOWN_FEATURES)
    if unknown:
        raise StoreError(f"{where} requires the features {unknown}, which this version lacks; update mekrr-scale")


def document(header: StoreHeader) -> StoreDocument:
    """What sidecars and manifests have in common."""
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "required_features": header.required_features,
        "header": header.to_dict(),
        "units": UNITS,
    }


def meta_hash(path: Path, big: Mapping[str, BigDataset], size: int) -> str:
    """xxh3-128 of the bytes of a file outside its big datasets."""
    digest = xxhash.xxh3_128()
    at = 0
    with path.open("rb") as stream:
        for place in sorted(big.values(), key=lambda b: b.offset):
            if not place.nbytes:
                continue
            stream.seek(at)
            _digest(stream, place.offset - at, digest)
            at = place.offset + place.nbytes
        stream.seek(at)
        _digest(stream, size - at, digest)
    return digest.hexdigest()


def _digest(stream: Any, length: int, digest: xxhash.xxh3_128) -> None:
    while length > 0:
        piece = stream.read(min(length, BLOCK_BYTES))
        if not piece:
            return
        digest.update(piece)
        length -= len(piece)

"""Names, versions and JSON documents of the store format (docs/store-format.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

import xxhash

from mekrr_scale.errors import StoreError
from mekrr_scale.files import Document

FORMAT = "mekrr-scale feature store"
SCHEMA = "1.0"
KNOWN_FEATURES = frozenset({"species-major", "tangents", "half-tangents"})  # what ``required_features`` may name
MANIFEST = "manifest.json"
SIDECAR = ".json"
SHARD = ".h5"
BLOCK_BYTES = 8 * 1024 * 1024
ALIGNMENT = 4096
UNITS = {"energy": "eV", "length": "angstrom", "forces": "eV/angstrom", "stress": "eV/angstrom^3", "features": "1"}


class HeaderDocument(TypedDict):
    """``StoreHeader`` as JSON holds it."""

    backbone: Document
    dim: int
    dtype: Literal["float32", "float64"]
    directions: Document
    spec: Document
    prior: NotRequired[Document]


class BigDocument(TypedDict):
    """``BigDataset`` as JSON holds it."""

    offset: int
    rows: int
    columns: int
    dtype: str
    first_block: int


class ShardDocument(TypedDict):
    """``ShardInfo`` as JSON holds it."""

    path: str
    bytes: int
    xxh3_128: str
    meta_xxh3_128: str
    structures: int
    atoms: int
    directions: int
    energies: int
    species: Mapping[str, int]
    input: str
    input_hash: str
    start: int
    stop: int
    big: Mapping[str, BigDocument]


class StoreDocument(TypedDict):
    """A sidecar, which has a shard, or a manifest, which has all of them."""

    format: str
    schema: str
    required_features: list[str]
    header: HeaderDocument
    units: Mapping[str, str]
    shard: NotRequired[ShardDocument]
    shards: NotRequired[list[ShardDocument]]
    id: NotRequired[str]


@dataclass(frozen=True)
class StoreHeader:
    """What all shards of a store share; features are comparable only if it agrees."""

    backbone: Document  # identity of the backbone, or of the user's own features
    dim: int
    dtype: Literal["float32", "float64"] = "float32"
    directions: Document = field(default_factory=dict)  # how tangent directions were drawn
    spec: Document = field(default_factory=dict)  # how to load the backbone again
    prior: Document = field(default_factory=dict)  # whose energies the prior's are; empty: the backbone's

    def to_dict(self) -> HeaderDocument:
        data = cast(HeaderDocument, asdict(self))
        if not self.prior:
            del data["prior"]
        return data

    @classmethod
    def from_dict(cls, data: HeaderDocument) -> StoreHeader:
        prior = data.get("prior", {})
        return cls(data["backbone"], int(data["dim"]), data["dtype"], data["directions"], data["spec"], prior)

    @property
    def required_features(self) -> list[str]:
        return [
            "species-major",
            *(["tangents"] if self.directions else []),
            *(["half-tangents"] if self.half_tangents else []),
        ]

    @property
    def half_tangents(self) -> bool:
        """Whether tangents are float16 with a scale for each row."""
        return self.directions.get("dtype") == "float16"

    def require(self, other: StoreHeader, where: str) -> None:
        """Refuse features of another kind.

        Raises:
            StoreError: names what differs.
        """
        mine, theirs = (json.loads(canonical({**header.to_dict(), "prior": header.prior})) for header in (self, other))
        for data in (mine, theirs):  # where files lie is no difference
            data["prior"].pop("where", None)
        differing = [
            f"{key}: {theirs[key]} instead of {mine[key]}" for key in mine if key != "spec" and mine[key] != theirs[key]
        ]
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

    def to_dict(self) -> ShardDocument:
        return cast(ShardDocument, asdict(self))

    @classmethod
    def from_dict(cls, data: ShardDocument) -> ShardInfo:
        plain: dict[str, Any] = {**data, "big": {name: BigDataset(**place) for name, place in data["big"].items()}}
        return cls(**plain)


def canonical(data: Any) -> str:
    """JSON with sorted keys and no spaces: equal content, equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sealed(data: Mapping[str, object]) -> str:
    """Canonical JSON with its own sha256 under ``id``."""
    return canonical({**data, "id": hashlib.sha256(canonical(data).encode()).hexdigest()})


def read_sealed(path: Path) -> StoreDocument:
    """Read a sealed document and check its seal and version.

    Raises:
        StoreError: missing, damaged, or of a format that this version does not know.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StoreError(f"there is no {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    try:
        data = json.loads(text)
        claimed = data.pop("id")
        found = hashlib.sha256(canonical(data).encode()).hexdigest()
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise StoreError(f"{path} is damaged; restore it, or rebuild it with `store finalize`") from None
    if claimed != found:
        raise StoreError(f"{path} is damaged (its sha256 does not fit); rebuild it with `store finalize`")
    check_version(data, str(path))
    return cast(StoreDocument, {**data, "id": claimed})


def check_version(data: Mapping[str, object], where: str) -> None:
    """Refuse other formats, newer major versions and unknown required features.

    Raises:
        StoreError: says which.
    """
    if data.get("format") != FORMAT:
        raise StoreError(f"{where} is not of the format {FORMAT!r} but of {data.get('format')!r}")
    major = str(data.get("schema", "")).split(".")[0]
    if major != SCHEMA.split(".", maxsplit=1)[0]:
        raise StoreError(f"{where} has schema {data.get('schema')!r}, this version reads {SCHEMA}; update mekrr-scale")
    unknown = sorted(set(cast(list[str], data.get("required_features", []))) - KNOWN_FEATURES)
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

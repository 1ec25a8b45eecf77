"""The JSON documents of the format (docs/store-format.md): their fields, and checks of the fields' types."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast, get_args

from mekrr_scale.errors import StoreError
from mekrr_scale.files import Document

FORMAT = "mekrr-scale feature store"
SCHEMA = "1.0"
EXCLUSIONS = "exclusions"  # a manifest requires it where structures of a shard do not count
WEIGHED = "weighed"  # required of a shard whose structures do not all count alike
COMPRESSED = "compressed"  # required where features are coordinates along axes
KNOWN_FEATURES = frozenset(
    {"species-major", "tangents", "half-tangents", COMPRESSED, EXCLUSIONS, WEIGHED}
)  # what may be required
MANIFEST = "manifest.json"
SIDECAR = ".json"
SHARD = ".h5"
BLOCK_BYTES = 8 * 1024 * 1024
ALIGNMENT = 4096
BIG = ("/atom/features", "/tangent/features")  # memory-mapped, hashed block by block
FLOATS = ("float32", "float64", "float16")
COUNTS = ("bytes", "structures", "atoms", "directions", "energies", "start", "stop")
_KINDS = {str: "a text", int: "a whole number", dict: "an object", list: "a list"}
MADE_UP = "no version of mekrr-scale writes this: get the store from where it came once more"
UNITS = {"energy": "eV", "length": "angstrom", "forces": "eV/angstrom", "stress": "eV/angstrom^3", "features": "1"}
OnDuplicate = Literal["error", "newest", "keep"]  # of labels of a geometry that differ between sources


class HeaderDocument(TypedDict):
    """``StoreHeader`` as JSON holds it."""

    backbone: Document
    dim: int
    dtype: str  # float32 or float64
    directions: Document
    spec: Document
    prior: NotRequired[Document]
    compression: NotRequired[Document]
    electrons: NotRequired[Document]


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
    excluded: NotRequired[list[int]]


class StoreDocument(TypedDict):
    """A sidecar, which has a shard, or a manifest, which has all of them."""

    format: str
    schema: str
    required_features: list[str]
    header: HeaderDocument
    units: Mapping[str, str]
    shard: NotRequired[ShardDocument]
    origins: NotRequired[Document]  # of a sidecar: what is known of each structure, beside the shard
    shards: NotRequired[list[ShardDocument]]
    superseded: NotRequired[Mapping[str, int]]  # shards none of whose structures count: how many they hold
    on_duplicate: NotRequired[str]  # which labels of a geometry count, where another choice would take others
    incomplete: NotRequired[Mapping[str, Document]]  # what is missing, by the version of what was extracted
    id: NotRequired[str]


def again(folder: Path) -> str:
    """What mends a shard or a sidecar."""
    return f"run the same `mekrr-scale extract` into {folder} again, it makes what is missing or damaged anew"


def policy_of(said: object) -> OnDuplicate:
    """What a document says of labels that differ between sources; ``error`` where it says nothing."""
    return cast(OnDuplicate, said) if said in get_args(OnDuplicate) else "error"


def typed(data: Any, where: str, kind: type, *names: str) -> None:
    """Refuse fields of another type, and numbers below zero."""
    if not isinstance(data, dict):
        raise StoreError(f"{where} is not an object of JSON; {MADE_UP}")
    for name in names:
        value: Any = data.get(name)
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            raise StoreError(f"{where}: {name} is {str(value)[:40]!r}, expected {_KINDS[kind]}; {MADE_UP}")

"""The arrays of one shard: records are arranged into them, and batches made of them; the names of both stand here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash
from ase import Atoms
from jaxtyping import Float, Float64, Int64, UInt8
from numpy import ndarray
from numpy.typing import NDArray
from torch import Tensor

from mekrr_scale.arrays import ISOLATED, DirectionLabels, FeatureBatch, RowKind, SpeciesRun, Tangents, config_hash
from mekrr_scale.errors import StoreError
from mekrr_scale.store.documents import MADE_UP
from mekrr_scale.store.origins import UNKNOWN, Origin
from mekrr_scale.structures import FrameWeights, Labels, geometry_hash

Arrays = dict[str, NDArray[Any]]
WEIGHTS = "/structure/weight"


@dataclass(frozen=True)
class RecordTangents:
    """Derivatives of a structure's features along directions, and their labels."""

    features: Float[ndarray, "directions atoms dim"]
    kind: UInt8[ndarray, " directions"]  # RowKind
    label: Float64[ndarray, " directions"]  # -u.F in eV/angstrom or V sigma:eps in eV; NaN: unknown
    prior: Float64[ndarray, " directions"]  # the same of the backbone's own potential; NaN: none


@dataclass(frozen=True)
class Place:
    """A geometry but for its elements."""

    positions: Float64[ndarray, "atoms 3"]  # angstrom
    cell: Float64[ndarray, "3 3"]
    pbc: UInt8[ndarray, "3"]


@dataclass(frozen=True)
class StructureRecord:
    """One structure as it goes into a store."""

    numbers: Int64[ndarray, " atoms"]
    features: Float[ndarray, "atoms dim"]
    id: int  # 63-bit hash of its content
    index: int  # its place in the input
    energy: float = float("nan")  # eV
    prior: float = float("nan")  # eV, of the backbone's own potential
    forces: Float64[ndarray, "atoms 3"] | None = None  # eV/angstrom
    stress: Float64[ndarray, "6"] | None = None  # eV/angstrom^3, Voigt
    group: int = -1  # trajectory it belongs to
    tangents: RecordTangents | None = None
    geometry: int | None = None  # 64-bit hash that equal structures share, whatever their labels; None: unknown
    origin: Origin = UNKNOWN  # where it came from
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)  # of its energy, force and stress rows
    config: str = ""  # configuration type; empty: none told
    place: Place | None = None  # where its atoms are; None: not known any more

    @classmethod
    def of(
        cls,
        atoms: Atoms,
        labels: Labels,
        features: Float[ndarray, "atoms dim"],
        id: int,
        index: int,
        prior: float = float("nan"),
        group: int = -1,
        tangents: RecordTangents | None = None,
        origin: Origin = UNKNOWN,
        weights: FrameWeights | None = None,
    ) -> StructureRecord:
        """That of a structure and what is known of it."""
        return cls(
            numbers=atoms.numbers.astype(np.int64),
            features=features,
            id=id,
            index=index,
            energy=float("nan") if labels.energy is None else labels.energy,
            prior=prior,
            forces=labels.forces,
            stress=labels.stress,
            group=group,
            tangents=tangents,
            geometry=geometry_hash(atoms),
            origin=origin,
            weights=FrameWeights.kinds if weights is None else weights.kinds,
            config="" if weights is None else weights.config,
            place=Place(atoms.positions, atoms.cell.array, np.asarray(atoms.pbc, dtype=np.uint8)),
        )

    def check(self, dim: int) -> None:
        """Refuse what does not fit together.

        Raises:
            StoreError: says what.
        """
        if self.features.shape != (len(self.numbers), dim):
            raise StoreError(
                f"structure {self.index}: features have shape {self.features.shape}, "
                f"expected ({len(self.numbers)}, {dim})"
            )
        if not np.isfinite(self.features).all():
            raise StoreError(f"structure {self.index}: features are not finite; check the backbone and the geometry")
        if len(self.numbers) == 0 or self.numbers.min() < 1 or self.numbers.max() > 118:
            raise StoreError(
                f"structure {self.index}: atomic numbers must lie between 1 and 118, and there must be atoms"
            )


def shard_arrays(records: Sequence[StructureRecord], dtype: str, tangents: bool, half: bool = False) -> Arrays:
    """Arrange structures species-major: atoms by species, then structure, then input order.

    Args:
        half: tangents in float16, each row over its largest magnitude, which is kept beside them.
    """
    numbers = np.concatenate([r.numbers for r in records])
    sizes = np.array([len(r.numbers) for r in records], dtype=np.int64)
    owner = np.repeat(np.arange(len(records)), sizes)
    source = np.concatenate([np.arange(n) for n in sizes])
    order = np.lexsort((source, owner, numbers))
    z = np.unique(numbers)
    counts = np.stack([np.bincount(owner[numbers == s], minlength=len(records)) for s in z])
    species_ptr = np.concatenate([[0], np.cumsum(counts.sum(1))])
    ranges = np.concatenate([np.zeros((len(z), 1), np.int64), np.cumsum(counts, 1)], 1) + species_ptr[:-1, None]
    arrays: Arrays = {
        "/atom/features": np.concatenate([r.features for r in records]).astype(dtype, copy=False)[order],
        "/atom/species": numbers[order].astype(np.uint8),
        "/atom/structure": owner[order].astype(np.int32),
        "/atom/source": source[order].astype(np.int32),
        "/species/z": z.astype(np.uint8),
        "/species/ptr": species_ptr.astype(np.int64),
        "/structure/ptr": ranges.astype(np.int64),
        "/structure/id": np.array([r.id for r in records], dtype=np.int64),
        "/structure/index": np.array([r.index for r in records], dtype=np.int64),
        "/structure/group": np.array([r.group for r in records], dtype=np.int64),
        "/structure/n_atoms": sizes.astype(np.int32),
        "/structure/energy": np.array([r.energy for r in records], dtype=np.float64),
        "/structure/prior": np.array([r.prior for r in records], dtype=np.float64),
    }
    if any(r.forces is not None for r in records):
        forces = [np.full((len(r.numbers), 3), np.nan) if r.forces is None else r.forces for r in records]
        arrays["/atom/forces"] = np.concatenate(forces)[order].astype(np.float64)
    if any(r.stress is not None for r in records):
        stress = [np.full(6, np.nan) if r.stress is None else r.stress for r in records]
        arrays["/structure/stress"] = np.stack(stress).astype(np.float64)
    if any(r.weights != FrameWeights.kinds for r in records):
        arrays[WEIGHTS] = np.array([r.weights for r in records], dtype=np.float64)
    if any(r.config for r in records):
        names = sorted({r.config for r in records} - {""})
        arrays["/structure/config"] = np.array([config_hash(r.config) for r in records], dtype=np.int64)
        arrays["/config/names"] = np.frombuffer(json.dumps(names).encode(), dtype=np.uint8)
    arrays |= _sample_arrays(records)
    if tangents:
        arrays |= _tangent_arrays(records, z, counts, dtype)
        if half:
            arrays |= _halved(arrays["/tangent/features"])
    return arrays


def _sample_arrays(records: Sequence[StructureRecord]) -> Arrays:
    """One geometry of a shard: of lowest energy per atom, among periodic ones where there are any.

    What is fitted to it carries it along, so that it can be checked without its training data.
    """
    known = [
        (i, r, r.place)
        for i, r in enumerate(records)
        if r.place is not None and np.isfinite(r.energy) and r.group != ISOLATED
    ]
    if not known:
        return {}
    i, record, place = min(known, key=lambda item: (-int(item[2].pbc.all()), item[1].energy / len(item[1].numbers)))
    return {
        "/sample/structure": np.array([i], dtype=np.int64),
        "/sample/numbers": record.numbers.astype(np.uint8),
        "/sample/positions": place.positions.astype(np.float64),
        "/sample/cell": place.cell.astype(np.float64),
        "/sample/pbc": place.pbc,
    }


def sample_place(small: Arrays) -> Place:
    """Of a shard that has a sample."""
    return Place(small["/sample/positions"], small["/sample/cell"], small["/sample/pbc"])


def _halved(rows: NDArray[Any]) -> Arrays:
    scale = np.abs(rows).max(1, initial=0.0).astype(np.float32)
    divisor = np.where(scale > 0, scale, np.float32(1))
    return {"/tangent/features": (rows / divisor[:, None]).astype(np.float16), "/tangent/scale": scale}


def whole_tangents(rows: NDArray[Any], scale: NDArray[Any] | None) -> NDArray[Any]:
    """Tangents as they were before ``half``, to a relative 5e-4 of each row's largest."""
    return rows if scale is None else rows.astype(np.float32) * scale[:, None]


def _tangent_arrays(
    records: Sequence[StructureRecord], z: Int64[ndarray, " species"], counts: NDArray[Any], dtype: str
) -> Arrays:
    """Tangents in the order of the features; within a structure direction by direction."""
    found = [r.tangents for r in records]
    directions = np.array([0 if t is None else len(t.kind) for t in found], dtype=np.int64)
    rows = counts * directions
    pieces = [
        np.ascontiguousarray(t.features[:, r.numbers == s]).reshape(-1, r.features.shape[1])
        for s in z
        for r, t in zip(records, found, strict=True)
        if t is not None
    ]
    dim = records[0].features.shape[1]
    start = np.concatenate([[0], np.cumsum(rows.sum(1))])[:-1]
    kept = [t for t in found if t is not None]
    empty = np.empty(0)
    return {
        "/tangent/features": np.concatenate(pieces or [np.empty((0, dim))]).astype(dtype, copy=False),
        "/tangent/ptr": np.concatenate([np.zeros((len(z), 1), np.int64), np.cumsum(rows, 1)], 1) + start[:, None],
        "/tangent/structure_ptr": np.concatenate([[0], np.cumsum(directions)]).astype(np.int64),
        "/tangent/kind": np.concatenate([t.kind for t in kept] or [empty]).astype(np.uint8),
        "/tangent/label": np.concatenate([t.label for t in kept] or [empty]).astype(np.float64),
        "/tangent/prior": np.concatenate([t.prior for t in kept] or [empty]).astype(np.float64),
    }


def records_of(arrays: Arrays) -> list[StructureRecord]:
    """The structures of a shard again, atoms in input order."""
    owner, source = arrays["/atom/structure"], arrays["/atom/source"]
    order = np.lexsort((source, owner))
    sizes = arrays["/structure/n_atoms"].astype(np.int64)
    ends = np.cumsum(sizes)
    configs = {config_hash(name): name for name in config_names(arrays)}
    records = []
    for i, (end, size) in enumerate(zip(ends, sizes, strict=True)):
        rows = order[end - size : end]
        records.append(
            StructureRecord(
                numbers=arrays["/atom/species"][rows].astype(np.int64),
                features=arrays["/atom/features"][rows],
                id=int(arrays["/structure/id"][i]),
                index=int(arrays["/structure/index"][i]),
                energy=float(arrays["/structure/energy"][i]),
                prior=float(arrays["/structure/prior"][i]),
                forces=_row(arrays, "/atom/forces", rows),
                stress=_row(arrays, "/structure/stress", i),
                group=int(arrays["/structure/group"][i]),
                tangents=_record_tangents(arrays, i, rows) if "/tangent/ptr" in arrays else None,
                weights=_weights(arrays, i),
                config=configs.get(int(arrays["/structure/config"][i]), "") if configs else "",
                place=sample_place(arrays) if i == int(arrays.get("/sample/structure", [-1])[0]) else None,
            )
        )
    return records


def config_names(small: Arrays) -> list[str]:
    """The configuration types that a shard's structures have.

    Raises:
        StoreError: they are no list of texts.
    """
    if "/config/names" not in small:
        return []
    try:
        names = json.loads(small["/config/names"].tobytes())
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise StoreError(f"the names of its configuration types are malformed; {MADE_UP}")
    return names


def _weights(arrays: Arrays, i: int) -> tuple[float, float, float]:
    if WEIGHTS not in arrays:
        return FrameWeights.kinds
    energy, forces, stress = arrays[WEIGHTS][i].tolist()
    return energy, forces, stress


def _row(arrays: Arrays, name: str, place: Any) -> NDArray[Any] | None:
    if name not in arrays or np.isnan(arrays[name][place]).all():
        return None
    return np.asarray(arrays[name][place])


def _record_tangents(arrays: Arrays, i: int, rows: Int64[ndarray, " atoms"]) -> RecordTangents | None:
    first, last = arrays["/tangent/structure_ptr"][i : i + 2]
    if last == first:
        return None
    scale = arrays.get("/tangent/scale")
    dtype = arrays["/tangent/features"].dtype if scale is None else np.float32
    features = np.empty((last - first, len(rows), arrays["/atom/features"].shape[1]), dtype)
    for s in range(len(arrays["/species/z"])):
        a, b = arrays["/structure/ptr"][s, i : i + 2]
        places = arrays["/atom/source"][a:b]
        c, d = arrays["/tangent/ptr"][s, i : i + 2]
        part = whole_tangents(arrays["/tangent/features"][c:d], None if scale is None else scale[c:d])
        features[:, places] = part.reshape(last - first, b - a, features.shape[2])
    label, prior = arrays["/tangent/label"][first:last], arrays["/tangent/prior"][first:last]
    return RecordTangents(features, arrays["/tangent/kind"][first:last], label, prior)


def batch_of(
    small: Arrays, big: Callable[[str, int, int], NDArray[Any]], first: int, last: int, tangents: bool
) -> FeatureBatch:
    """Consecutive structures of a shard.

    Args:
        small: its arrays but the big ones.
        big: rows of a big one, by its name, from the first to one past the last.
    """
    labels = _labels(small, first, last) if tangents and "/tangent/ptr" in small else None
    runs, sources = [], []
    for s, z in enumerate(small["/species/z"].tolist()):
        ptr = small["/structure/ptr"][s, first : last + 1]
        features = torch.from_numpy(big("/atom/features", int(ptr[0]), int(ptr[-1])))
        moved = None
        if labels is not None:
            pieces = small["/tangent/ptr"][s, first : last + 1]
            a, b = int(pieces[0]), int(pieces[-1])
            scale = small["/tangent/scale"][a:b] if "/tangent/scale" in small else None
            rows = whole_tangents(big("/tangent/features", a, b), scale)
            moved = Tangents(torch.from_numpy(rows), torch.from_numpy(pieces - pieces[0]))
        runs.append(SpeciesRun(int(z), features, torch.from_numpy(ptr - ptr[0]), moved))
        sources.append(torch.from_numpy(small["/atom/source"][ptr[0] : ptr[-1]]))
    part = slice(first, last)
    return FeatureBatch(
        runs=tuple(runs),
        n_atoms=torch.from_numpy(small["/structure/n_atoms"][part].astype(np.int64)),
        energy=torch.from_numpy(small["/structure/energy"][part].copy()),
        prior=torch.from_numpy(small["/structure/prior"][part].copy()),
        ids=torch.from_numpy(small["/structure/id"][part].copy()),
        groups=torch.from_numpy(small["/structure/group"][part].copy()),
        sources=tuple(sources),
        directions=labels,
        weights=_weights_of(small[WEIGHTS][part]) if WEIGHTS in small else None,
        configs=torch.from_numpy(small["/structure/config"][part].copy()) if "/structure/config" in small else None,
    )


def _weights_of(stored: Float64[ndarray, "structures 3"]) -> Float64[Tensor, "structures kinds"]:
    """Weights of all kinds of rows; rows of later ones, which no store holds, count 1."""
    found = torch.ones(len(stored), len(RowKind), dtype=torch.float64)
    found[:, : stored.shape[1]] = torch.from_numpy(stored)
    return found


def _labels(small: Arrays, first: int, last: int) -> DirectionLabels:
    ptr = small["/tangent/structure_ptr"][first : last + 1]
    part = slice(int(ptr[0]), int(ptr[-1]))
    return DirectionLabels(
        ptr=torch.from_numpy(ptr - ptr[0]),
        kind=torch.from_numpy(small["/tangent/kind"][part].astype(np.int64)),
        label=torch.from_numpy(small["/tangent/label"][part].copy()),
        prior=torch.from_numpy(small["/tangent/prior"][part].copy()),
    )


def block_hashes(array: NDArray[Any], block_bytes: int) -> NDArray[np.uint64]:
    """xxh3-64 of consecutive blocks of an array's bytes; the last may be shorter."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    starts = range(0, len(flat), block_bytes)
    return np.array([xxhash.xxh3_64_intdigest(flat[a : a + block_bytes].data) for a in starts], dtype=np.uint64)

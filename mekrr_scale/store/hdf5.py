"""What is read of a shard by HDF5: known datasets, laid out plainly in the file itself, of sizes that it can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mekrr_scale.errors import StoreError
from mekrr_scale.store.documents import BIG, BLOCK_BYTES, MADE_UP, again
from mekrr_scale.store.format import BigDataset, ShardInfo, check_version
from mekrr_scale.store.shard import WEIGHTS, Arrays

_KNOWN = {  # type, and the lengths of the axes: a number, or what it counts; whether it may be absent
    "/atom/species": ("u1", ("atoms",), False),
    "/atom/structure": ("i4", ("atoms",), False),
    "/atom/source": ("i4", ("atoms",), False),
    "/atom/forces": ("f8", ("atoms", 3), True),
    "/species/z": ("u1", ("species",), False),
    "/species/ptr": ("i8", ("species + 1",), False),
    "/structure/ptr": ("i8", ("species", "structures + 1"), False),
    "/structure/id": ("i8", ("structures",), False),
    "/structure/index": ("i8", ("structures",), False),
    "/structure/group": ("i8", ("structures",), False),
    "/structure/n_atoms": ("i4", ("structures",), False),
    "/structure/energy": ("f8", ("structures",), False),
    "/structure/prior": ("f8", ("structures",), False),
    "/structure/stress": ("f8", ("structures", 6), True),
    "/structure/weight": ("f8", ("structures", 3), True),
    "/structure/config": ("i8", ("structures",), True),
    "/config/names": ("u1", ("names",), True),
    "/sample/structure": ("i8", (1,), True),
    "/sample/numbers": ("u1", ("sample",), True),
    "/sample/positions": ("f8", ("sample", 3), True),
    "/sample/cell": ("f8", (3, 3), True),
    "/sample/pbc": ("u1", (3,), True),
    "/tangent/scale": ("f4", ("rows",), True),
    "/tangent/ptr": ("i8", ("species", "structures + 1"), False),
    "/tangent/structure_ptr": ("i8", ("structures + 1",), False),
    "/tangent/kind": ("u1", ("directions",), False),
    "/tangent/label": ("f8", ("directions",), False),
    "/tangent/prior": ("f8", ("directions",), False),
    "/block/xxh3": ("u8", ("blocks",), False),
}
_LAYOUTS = (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)


def read_small(path: Path, mapped: NDArray[np.uint8], info: ShardInfo) -> Arrays:
    """All arrays but the big ones: those per structure in memory, those per atom mapped.

    Raises:
        StoreError: not HDF5, of another version, with data elsewhere than in the file, or with arrays that do not
            fit together.
    """
    try:
        with h5py.File(path, "r") as file:
            attributes = {key: file.attrs[key] for key in ("format", "schema")}
            required = json.loads(str(file.attrs["required_features"]))
            check_version({**attributes, "required_features": required}, str(path))
            wanted = [name for name in _KNOWN if "/tangent/features" in info.big or not name.startswith("/tangent/")]
            found = {name: _dataset(file, name, info) for name in wanted}
            for name, place in info.big.items():
                _check_big(_dataset(file, name, info), name, place)
            arrays = {name: _array(mapped, name, data) for name, data in found.items() if data is not None}
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise StoreError(f"{path} cannot be read as HDF5: {str(error)[:200]}; {again(path.parent)}") from error
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from None
    missing = [name for name in wanted if name not in arrays and not _KNOWN[name][2]]
    if missing or BIG[0] not in info.big:
        raise StoreError(f"{path} lacks {', '.join(missing or BIG[:1])}; {again(path.parent)}")
    wrong = _misfit(arrays, info)
    if wrong:
        raise StoreError(f"{path}: {wrong}; {MADE_UP}")
    return arrays


def _dataset(file: h5py.File, name: str, info: ShardInfo) -> h5py.Dataset | None:
    """A dataset by its name; None if there is none.

    Raises:
        StoreError: its bytes are not plainly in the file.
    """
    node: Any = file
    for key in name.strip("/").split("/"):
        link = node.get(key, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise StoreError(f"{name} is a link to elsewhere; {MADE_UP}")
        node = node[key]
    if not isinstance(node, h5py.Dataset):
        return None
    made = node.id.get_create_plist()
    if made.get_layout() not in _LAYOUTS or made.get_external_count():
        raise StoreError(f"the data of {name} do not lie in the file as they are; {MADE_UP}")
    size = node.size or 0
    nbytes = size * node.dtype.itemsize
    if nbytes > info.bytes or node.id.get_storage_size() != nbytes:
        raise StoreError(f"{name} claims {size} numbers, which the file does not hold; {MADE_UP}")
    return node


def _check_big(data: h5py.Dataset | None, name: str, place: BigDataset) -> None:
    there = None if data is None else (data.shape, data.dtype.name, data.id.get_offset() or place.offset)
    if there != ((place.rows, place.columns), place.dtype, place.offset):
        raise StoreError(f"{name} is not what the manifest says; {MADE_UP}")


def _array(mapped: NDArray[np.uint8], name: str, data: h5py.Dataset) -> NDArray[Any]:
    kind, axes, _ = _KNOWN[name]
    if data.dtype != np.dtype(kind) or len(data.shape) != len(axes):
        raise StoreError(f"{name} has type {data.dtype} and shape {data.shape}; {MADE_UP}")
    offset = data.id.get_offset()
    if not name.startswith("/atom/") or offset is None:
        return np.asarray(data[()])
    return np.frombuffer(mapped, dtype=data.dtype, count=int(np.prod(data.shape)), offset=offset).reshape(data.shape)


def _misfit(arrays: Arrays, info: ShardInfo) -> str | None:
    """What does not fit together, so that nothing is read from beyond an array."""
    moved = info.big.get("/tangent/features")
    species, structures = len(arrays["/species/z"]), info.structures + len(info.excluded)
    blocks = max((place.first_block - (-place.nbytes // BLOCK_BYTES) for place in info.big.values()), default=0)
    directions = len(arrays.get("/tangent/kind", ()))
    sizes: Mapping[str, int] = {
        "atoms": info.big[BIG[0]].rows,
        "species": species,
        "species + 1": species + 1,
        "structures": structures,
        "structures + 1": structures + 1,
        "directions": directions,
        "rows": 0 if moved is None else moved.rows,
        "blocks": blocks,
        "names": len(arrays.get("/config/names", ())),
        "sample": len(arrays.get("/sample/numbers", ())),
    }
    for name, array in arrays.items():
        expected = tuple(axis if isinstance(axis, int) else sizes[axis] for axis in _KNOWN[name][1])
        if array.shape != expected:
            return f"{name} has shape {array.shape}, expected {expected}"
    of_sample = {name for name in _KNOWN if name.startswith("/sample/")}
    if of_sample & set(arrays) and not of_sample <= set(arrays):
        return "its sample is not whole"
    if WEIGHTS in arrays and not (np.isfinite(arrays[WEIGHTS]).all() and (arrays[WEIGHTS] >= 0).all()):
        return f"{WEIGHTS} are no weights"
    return _wrong_bounds(arrays, sizes["atoms"]) or (_wrong_tangents(arrays, moved.rows) if moved else None)


def _wrong_bounds(arrays: Arrays, atoms: int) -> str | None:
    z, counts = arrays["/species/z"].astype(int), np.diff(arrays["/structure/ptr"])
    if not counts.size or z.min() < 1 or z.max() > 118 or (np.diff(z) < 1).any():
        return "its species are not atomic numbers in order"
    if not _runs(arrays["/structure/ptr"], atoms) or (counts.sum(0) != arrays["/structure/n_atoms"]).any():
        return "/structure/ptr are no bounds of its atoms"
    return None


def _wrong_tangents(arrays: Arrays, rows: int) -> str | None:
    ptr, counts = arrays["/tangent/structure_ptr"], np.diff(arrays["/structure/ptr"])
    if not _runs(ptr[None], len(arrays["/tangent/kind"])) or not _runs(arrays["/tangent/ptr"], rows):
        return "/tangent/ptr are no bounds of its tangents"
    if (np.diff(arrays["/tangent/ptr"]) != counts * np.diff(ptr)).any():
        return "/tangent/ptr do not fit to the directions and atoms of its structures"
    return None


def _runs(bounds: NDArray[np.int64], total: int) -> bool:
    """Whether bounds cut rows into consecutive runs, row after row of the table, from the first to the last."""
    flat = bounds.reshape(-1)
    joined = (bounds[1:, 0] == bounds[:-1, -1]).all()
    return bool(joined and flat[0] == 0 and flat[-1] == total and (np.diff(flat) >= 0).all())

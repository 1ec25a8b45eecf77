"""Stores from elsewhere: names, links, shapes and odd values are refused in one line; faults name the remedy."""

from __future__ import annotations

import copy
import json
import os
import shutil
from itertools import cycle
from pathlib import Path

import h5py
import numpy as np
import pytest
import xxhash

from mekrr_scale.errors import MekrrError, StoreError
from mekrr_scale.files import file_hash, publish_text
from mekrr_scale.store import FeatureStore, FeatureWriter, finalize, merge, repack, verify
from mekrr_scale.store.documents import MANIFEST
from mekrr_scale.store.format import BigDataset, meta_hash, read_sealed, sealed
from mekrr_scale.store.sidecars import sidecars_in


@pytest.fixture
def folder(store, tmp_path):
    """A copy of a store with tangents, to be spoilt."""
    return Path(shutil.copytree(store, tmp_path / "spoilt"))


def resealed(path, change):
    """Change a document as somebody does who knows how it is sealed."""
    data = dict(read_sealed(path))
    del data["id"]
    change(data)
    publish_text(path, sealed(data))


def attempts(folder, target):
    """All that reads a store."""
    return (
        lambda: [batch.energy for batch in FeatureStore(folder, tangents=True)],
        lambda: merge([folder], target / "merged"),
        lambda: repack(folder, target / "packed"),
        lambda: verify(folder).damaged and _refuse(),
    )


def _refuse():
    raise StoreError("damaged")


@pytest.mark.parametrize(
    "name", ["../payload.h5", "/tmp/payload.h5", "a/../../payload.h5", "..", "", ".h5", "a\n.h5", "x"]
)
def test_names_stay_in_the_folder(folder, tmp_path, name):
    (tmp_path / "payload.h5").write_bytes(b"x" * 100)
    info = FeatureStore(folder).shards[0]
    resealed(folder / MANIFEST, lambda data: data["shards"][0].update(path=name))
    for attempt in attempts(folder, tmp_path):
        with pytest.raises(StoreError, match="plain name"):
            attempt()
    assert not (tmp_path / "merged").exists()
    sidecar = folder / f"{info.path}.json"
    resealed(sidecar, lambda data: data["shard"].update(path=name))
    (folder / MANIFEST).unlink()
    with pytest.raises(StoreError, match="plain name"):
        finalize(folder)
    assert (tmp_path / "payload.h5").read_bytes() == b"x" * 100


def test_a_sidecar_describes_its_own_shard(folder):
    first, second = sidecars_in(folder)[:2]
    shutil.copyfile(second, first)
    (folder / MANIFEST).unlink()
    with pytest.raises(StoreError, match="describes shard-.*another file"):
        finalize(folder)


def replaced(folder, change):
    """Change the HDF5 file of the first shard, with hashes that fit."""
    info = FeatureStore(folder).shards[0]
    path = folder / info.path
    with h5py.File(path, "a") as file:
        change(file, path)

    def described(shard):
        size = path.stat().st_size
        big = {name: BigDataset(**place) for name, place in shard["big"].items()}
        shard.update(bytes=size, xxh3_128=file_hash(path, "xxh3_128"), meta_xxh3_128=meta_hash(path, big, size))

    def of_manifest(data):
        described(next(shard for shard in data["shards"] if shard["path"] == info.path))

    resealed(folder / MANIFEST, of_manifest)
    resealed(folder / f"{info.path}.json", lambda data: described(data["shard"]))


def anew(name, **given):
    """Put a dataset in place of another."""

    def change(file, path):
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        file.create_dataset(name, **{"shape": shape, "dtype": dtype, **given})

    return change


def external(name):
    def change(file, path):
        secret = path.parent.parent / "secret.bin"
        secret.write_bytes(b"\1" * 10**6)
        anew(name, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])(file, path)

    return change


def virtual(name):
    def change(file, path):
        other = path.parent.parent / "other.h5"
        shape, dtype = file[name].shape, file[name].dtype
        with h5py.File(other, "w") as source:
            source["x"] = np.ones(shape, dtype)
        layout = h5py.VirtualLayout(shape=shape, dtype=dtype)
        layout[...] = h5py.VirtualSource(str(other), "x", shape=shape)
        del file[name]
        file.create_virtual_dataset(name, layout)

    return change


def linked(name, link):
    def change(file, path):
        with h5py.File(path.parent.parent / "linked.h5", "w") as source:
            source["x"] = file[name][()]
        del file[name]
        file[name] = link(path)

    return change


def valued(name, at, value):
    def change(file, path):
        file[name][at] = value

    return change


E, F = "/structure/energy", "/atom/features"
HOSTILE = {
    "external energies": external(E),
    "external features": external(F),
    "external tangents": external("/tangent/features"),
    "virtual energies": virtual(E),
    "virtual forces": virtual("/atom/forces"),
    "virtual features": virtual(F),
    "external link": linked(E, lambda path: h5py.ExternalLink(str(path.parent.parent / "linked.h5"), "x")),
    "external group": lambda file, path: (file.move("/structure", "/was"), file.__setitem__(
        "/structure", h5py.ExternalLink(str(path), "/was"))),
    "soft link": linked(E, lambda path: h5py.SoftLink("/structure/prior")),
    "chunks": anew(E, chunks=(1,)),
    "compressed bomb": anew(E, shape=(2**33,), chunks=(2**20,), compression="gzip"),
    "declared bomb": anew(E, shape=(2**40,)),
    "declared bomb of ids": anew("/structure/id", shape=(2**36, 2)),
    "text": anew(E, dtype=h5py.string_dtype()),
    "another type": anew(E, dtype="f4", data=None),
    "another type, with numbers": anew(E, dtype="f4", data=np.ones(5, "f4")),
    "another number of axes": anew("/structure/n_atoms", shape=(1, 5), data=np.ones((1, 5), "i4")),
    "features elsewhere in the file": lambda file, path: (
        file.create_dataset("/x", data=file[F][()]), file.__delitem__(F), file.move("/x", F)),
    "another shape": anew("/structure/n_atoms", shape=(1,)),
    "another size of stress": anew("/structure/stress", shape=(2, 2)),
    "bounds beyond the end": valued("/structure/ptr", (0, -1), 10**6),
    "bounds below zero": valued("/structure/ptr", (0, 0), -5),
    "bounds of tangents": valued("/tangent/ptr", (0, 1), 10**9),
    "bounds of directions": valued("/tangent/structure_ptr", -1, 10**9),
    "counts": valued("/structure/n_atoms", 0, 10**6),
    "an unknown element": valued("/species/z", 0, 200),
    "no hashes": anew("/block/xxh3", shape=(0,)),
    "a group": lambda file, path: (file.__delitem__(E), file.create_group(E)),
    "nothing": lambda file, path: file.__delitem__("/structure"),
}  # fmt: skip
OUTSIDE, ABSENT = (
    "do not lie in the file as they are; no version of mekrr-scale",
    "numbers, which the file does not hold",
)
REASONS = {
    "external": OUTSIDE,
    "virtual": OUTSIDE,
    "external link": "is a link to elsewhere",
    "chunks": OUTSIDE,
    "external group": "is a link to elsewhere",
    "soft": "is a link to elsewhere",
    "compressed": OUTSIDE,
    "declared": ABSENT,
    "text": ABSENT,
    "another type": ABSENT,
    "another type, with": "has type float32 and shape",
    "another number": r"has type int32 and shape \(1, 5\)",
    "features": "is not what the manifest says",
    "another shape": ABSENT,
    "another size": ABSENT,
    "bounds beyond": "ptr are no bounds of its atoms",
    "bounds below": "ptr are no bounds of its atoms",
    "bounds of": "ptr are no bounds of its tangents",
    "counts": "ptr are no bounds of its atoms",
    "an unknown": "its species are not atomic numbers in order",
    "no hashes": "/block/xxh3 has shape",
    "a group": "lacks /structure/energy",
    "nothing": "lacks /structure/ptr",
}  # fmt: skip; by the longest beginning of the kind


@pytest.mark.parametrize("kind", HOSTILE)
def test_hdf5_from_elsewhere(folder, tmp_path, kind):
    """Data outside of the file, declared sizes and bounds that lie: refused before they enter a fit."""
    replaced(folder, HOSTILE[kind])
    reason = REASONS[max((name for name in REASONS if kind.startswith(name)), key=len)]
    for attempt in attempts(folder, tmp_path)[::2]:
        with pytest.raises(StoreError, match=reason) as error:
            attempt()
        assert "\n" not in str(error.value)
    assert not verify(folder).ok


def paths_into(node, at=()):
    """Every place in a JSON document."""
    yield at
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from paths_into(value, (*at, key))


def _said(folder, finalized):
    """What the errors of reading a store say, if any."""
    found = []
    attempts = (
        lambda: [batch.energy for batch in FeatureStore(folder)],
        lambda: FeatureStore(folder).n_excluded,
        lambda: FeatureStore(folder).incomplete,
        lambda: finalize(folder) if finalized else None,
    )
    for attempt in attempts:
        try:
            attempt()
        except MekrrError as error:
            found.append(str(error))
    return found


def test_odd_values_in_sealed_documents(folder, tmp_path):
    """Whatever stands anywhere in a manifest or sidecar with a valid seal: read as before, or one line."""
    with FeatureWriter(tmp_path / "s", "mine", dim=2) as writer:
        writer.add(np.array([1, 8]), np.ones((2, 2)), energy=1.0)
    small = tmp_path / "s"
    odd = cycle([None, -1, 2**70, 1.5, "x", "../x.h5", [], [[1]], {}, {"a": 1}, True])
    tried, said = 0, []
    for path in (small / MANIFEST, *sidecars_in(small)):
        text = path.read_text()
        whole = {key: value for key, value in json.loads(text).items() if key != "id"}
        if path.name == MANIFEST:  # what only some have
            lack = {"source": "a.xyz", "count": 3, "done": [1], "own": 2, "structures": 3}
            whole |= {"superseded": {"shard-a.h5": 3}, "incomplete": {"a": lack}, "on_duplicate": "keep"}
        for at in paths_into(whole):
            for value in [next(odd) for _ in range(3)]:
                data = copy.deepcopy(whole)
                if at:
                    place = data
                    for key in at[:-1]:
                        place = place[key]
                    place[at[-1]] = value
                else:
                    data = value
                path.write_text(sealed(data) if isinstance(data, dict) else json.dumps(data))
                tried += 1
                said += _said(small, path.name != MANIFEST)
        path.write_text(text)
    finalize(small)
    assert tried > 150
    assert len(said) > 150
    assert not [text for text in said if "\n" in text]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("structures", -1, "a whole number"),
        ("atoms", True, "a whole number"),
        ("bytes", 1.0, "a whole number"),
        ("xxh3_128", 5, "a text"),
        ("input", None, "a text"),
    ],
)
def test_fields_of_another_type_are_named(folder, name, value, expected):
    resealed(folder / MANIFEST, lambda data: data["shards"][0].update({name: value}))
    with pytest.raises(StoreError, match=f"shard: {name} is '{value}', expected {expected}"):
        FeatureStore(folder)


@pytest.mark.parametrize("byte", range(12))
def test_every_damage_of_features_is_told_when_they_are_read(folder, byte):
    """Whichever way the hash of a block changes."""
    info = FeatureStore(folder).shards[0]
    with (folder / info.path).open("r+b") as file:
        file.seek(info.big["/atom/features"].offset + byte)
        (before,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([before ^ 1]))
    with pytest.raises(StoreError, match="block 0 of /atom/features is damaged"):
        list(FeatureStore(folder))
    list(FeatureStore(folder, level="size"))  # asks for no hashes


def test_the_hash_of_what_is_small_leaves_out_what_is_big(tmp_path):
    """The bytes outside of the big datasets, one of which is empty, in the order of the file."""
    data = np.random.default_rng(0).bytes(200)
    path = tmp_path / "file"
    path.write_bytes(data)
    empty, first, last = (
        BigDataset(offset=offset, rows=rows, columns=4, dtype="float32", first_block=0)
        for offset, rows in ((10, 0), (40, 2), (120, 3))
    )
    expected = xxhash.xxh3_128(data[:40] + data[72:120] + data[168:]).hexdigest()
    assert meta_hash(path, {"last": last, "empty": empty, "first": first}, 200) == expected


def test_pipes_and_folders_are_no_documents(tmp_path):
    with FeatureWriter(tmp_path / "s", "mine", dim=2) as writer:
        writer.add(np.array([1]), np.ones((1, 2)), energy=1.0)
    (tmp_path / "s" / MANIFEST).unlink()
    os.mkfifo(tmp_path / "s" / MANIFEST)  # reading one would wait for ever
    with pytest.raises(StoreError, match="no file"):
        FeatureStore(tmp_path / "s")

"""The store's promises: atomic, resumable, verified; what is damaged is refused, never read wrong."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mekrr_scale.errors import ConfigError, StoreError
from mekrr_scale.files import publish_text
from mekrr_scale.pipeline import ExtractPlan, extract
from mekrr_scale.store import FeatureStore, FeatureWriter, ShardWriter, StructureRecord, finalize, merge, repack, verify
from mekrr_scale.store.format import StoreHeader, canonical, read_sealed, sealed

ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def fill(folder, seed=0, count=30, dim=6, shard_bytes=500, dtype="float32"):
    generator = np.random.default_rng(seed)
    added = []
    with FeatureWriter(folder, "mine", dim, dtype, shard_bytes) as writer:
        for i in range(count):
            n = int(generator.integers(1, 8))
            numbers = generator.choice([1, 8, 29], n)
            features = generator.normal(size=(n, dim)).astype(dtype)
            writer.add(numbers, features, float(i), group=i // 3)
            added.append((numbers, features))
    return added


def contents(store):
    """Everything a reader hands out, as plain arrays."""
    found = []
    for batch in store:
        for run, source in zip(batch.runs, batch.sources, strict=True):
            found += [run.features.numpy().copy(), run.ptr.numpy(), source.numpy()]
        found += [batch.energy.numpy(), batch.prior.numpy(), batch.ids.numpy(), batch.groups.numpy()]
        if batch.directions is not None:
            found += [getattr(batch.directions, name).numpy() for name in ("ptr", "kind", "label", "prior")]
            found += [run.tangents.features.numpy().copy() for run in batch.runs]
    return found


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip_and_order(tmp_path, dtype):
    added = fill(tmp_path / "s", dtype=dtype)
    store = FeatureStore(tmp_path / "s")
    assert len(store.shards) > 3
    assert store.n_structures == 30
    assert store.n_atoms == sum(len(z) for z, _ in added)
    at = 0
    for batch in store:
        for i in range(batch.n_structures):
            numbers, features = added[at]
            rebuilt = np.zeros_like(features)
            for run, source in zip(batch.runs, batch.sources, strict=True):
                part = slice(int(run.ptr[i]), int(run.ptr[i + 1]))
                assert (numbers[source[part]] == run.z).all()
                rebuilt[source[part]] = run.features[part]
            assert np.array_equal(rebuilt, features)
            assert float(batch.energy[i]) == at
            assert int(batch.groups[i]) == at // 3
            at += 1
    assert at == 30


def test_plain_h5py_reads_a_shard(store):
    """The layout of DESIGN section 4: contiguous, aligned, species-major, with CSR bounds."""
    opened = FeatureStore(store)
    path = store / opened.shards[0].path
    with h5py.File(path) as file:
        features = file["/atom/features"]
        assert features.chunks is None
        assert features.compression is None
        assert features.id.get_offset() % 4096 == 0
        assert file["/tangent/features"].id.get_offset() % 4096 == 0
        assert (np.diff(file["/atom/species"][()].astype(int)) >= 0).all()
        z, ptr, bounds = file["/species/z"][()], file["/species/ptr"][()], file["/structure/ptr"][()]
        assert (bounds[:, 0] == ptr[:-1]).all()
        assert (bounds[:, -1] == ptr[1:]).all()
        for s in range(len(z)):
            assert (file["/atom/species"][ptr[s] : ptr[s + 1]] == z[s]).all()
            owners = file["/atom/structure"][ptr[s] : ptr[s + 1]]
            assert (np.bincount(owners, minlength=bounds.shape[1] - 1) == np.diff(bounds[s])).all()
        assert file["/structure/energy"].dtype == np.float64
        assert file["/block/xxh3"].dtype == np.uint64
        assert file.attrs["schema"] == "1.0"
        assert "species-major" in file.attrs["required_features"]
        assert json.loads(file.attrs["units"])["energy"] == "eV"


def test_same_input_same_bytes(tmp_path):
    for name in ("a", "b"):
        fill(tmp_path / name)
    a, b = FeatureStore(tmp_path / "a"), FeatureStore(tmp_path / "b")
    assert a.id == b.id
    for info in a.shards:
        assert (a.path / info.path).read_bytes() == (b.path / info.path).read_bytes()


def test_merge_and_repack(tmp_path, store):
    fill(tmp_path / "a", seed=1)
    fill(tmp_path / "b", seed=2, count=11)
    joined = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "ab")
    assert joined.n_structures == 41
    assert verify(tmp_path / "ab").ok
    packed = repack(store, tmp_path / "packed", 10**9)
    assert len(packed.shards) == 1
    original = FeatureStore(store, tangents=True)
    one = list(FeatureStore(tmp_path / "packed", tangents=True))[0]
    assert one.n_structures == original.n_structures
    energies = torch.cat([batch.energy for batch in original])
    assert torch.equal(one.energy, energies)
    assert torch.equal(one.directions.label, torch.cat([batch.directions.label for batch in original]))
    again = repack(tmp_path / "packed", tmp_path / "again", 10**9)
    assert same(contents(again), contents(packed))
    few = repack(store, tmp_path / "few", 10**9, keep=lambda record: len(record.numbers) < 4)
    assert 0 < few.n_structures < original.n_structures


def test_refusals(tmp_path, store):
    with pytest.raises(StoreError, match="there is no store"):
        FeatureStore(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="has not finished"):
        FeatureStore(tmp_path / "empty")
    with pytest.raises(StoreError, match="no finished shard"):
        finalize(tmp_path / "empty")
    fill(tmp_path / "a")
    with pytest.raises(StoreError, match="dim: 4 instead of 6|dim"):
        FeatureWriter(tmp_path / "a", "mine", 4)
    fill(tmp_path / "other", dim=4)
    with pytest.raises(StoreError, match="another kind"):
        merge([tmp_path / "a", tmp_path / "other"], tmp_path / "joined")
    assert not (tmp_path / "joined").exists()  # refused before anything is written
    with pytest.raises(StoreError, match="nothing to merge"):
        merge([], tmp_path / "joined2")
    with pytest.raises(StoreError, match="finished store already"):
        repack(tmp_path / "a", tmp_path / "other")
    with pytest.raises(StoreError, match="no structure is left"):
        repack(tmp_path / "a", tmp_path / "none", keep=lambda record: False)
    writer = FeatureWriter(tmp_path / "w", "mine", 3)
    for numbers, features, message in (
        ([1], np.zeros((1, 2)), "expected"),
        ([1], np.full((1, 3), np.nan), "not finite"),
        ([0], np.zeros((1, 3)), "between 1 and 118"),
    ):
        with pytest.raises(StoreError, match=message):
            writer.add(np.array(numbers), features)


def test_an_array_that_is_filled_again(tmp_path):
    """What was added stays, whatever becomes of the arrays; a tensor's view too."""
    numbers, features, tensor = np.array([1, 8]), np.empty((2, 3), np.float32), torch.empty(2, 3)
    with FeatureWriter(tmp_path / "s", "mine", 3) as writer:
        for value in range(4):
            numbers[:], features[:] = value + 1, value
            writer.add(numbers, features, energy=float(value))
            tensor[:] = 10 + value
            writer.add(numbers, tensor.numpy(), energy=10.0 + value)
    for batch in FeatureStore(tmp_path / "s"):
        energies = batch.energy.tolist()
        assert batch.n_structures == 8
        for run in batch.runs:
            expected = [e for e in energies for _ in range(2) if e % 10 + 1 == run.z]
            assert run.features[:, 0].tolist() == expected


@pytest.mark.parametrize("dtype", [np.float64, np.dtype("float64"), "float64", "f8", float])
def test_dtypes_of_features(tmp_path, dtype):
    assert FeatureWriter(tmp_path / "s", "mine", 3, dtype).writer.header.dtype == "float64"


@pytest.mark.parametrize("dtype", ["float16", np.int64, "double precision"])
def test_dtypes_that_no_features_have(tmp_path, dtype):
    with pytest.raises(ConfigError, match="give 'float32' or 'float64'"):
        FeatureWriter(tmp_path / "s", "mine", 3, dtype)
    assert not (tmp_path / "s").exists()


def test_versions(tmp_path):
    fill(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    data = read_sealed(path)
    data.pop("id")
    for change, message in (
        ({"schema": "2.0"}, "schema '2.0'"),
        ({"required_features": ["species-major", "chunked-zstd"]}, "chunked-zstd"),
        ({"format": "something else"}, "not of the format"),
    ):
        publish_text(path, sealed({**data, **change}))
        with pytest.raises(StoreError, match=message):
            FeatureStore(tmp_path / "a")
    publish_text(path, sealed({**data, "schema": "1.7", "a_later_key": 1}))
    assert FeatureStore(tmp_path / "a").n_structures == 30
    path.write_text(canonical({**data, "id": "0" * 64}))
    with pytest.raises(StoreError, match="damaged"):
        FeatureStore(tmp_path / "a")
    finalize(tmp_path / "a")  # the remedy that the message names
    assert FeatureStore(tmp_path / "a").n_structures == 30


def test_unknown_extra_datasets_are_ignored(tmp_path):
    """A later minor version may add datasets; files that carry them are read as before."""
    fill(tmp_path / "a", shard_bytes=10**9)
    before = contents(FeatureStore(tmp_path / "a"))
    info = FeatureStore(tmp_path / "a").shards[0]
    path = tmp_path / "a" / info.path
    with h5py.File(path, "a") as file:
        file["/later/idea"] = np.arange(3)
    level_full_would_refuse = FeatureStore.__dataclass_fields__["level"].default
    assert level_full_would_refuse == "lazy"
    sidecar = path.with_name(path.name + ".json")
    data = read_sealed(sidecar)
    data.pop("id")
    from mekrr_scale.files import file_hash
    from mekrr_scale.store.format import meta_hash

    data["shard"]["bytes"] = path.stat().st_size
    data["shard"]["xxh3_128"] = file_hash(path, "xxh3_128")
    data["shard"]["meta_xxh3_128"] = meta_hash(path, info.big, path.stat().st_size)
    publish_text(sidecar, sealed(data))
    assert same(contents(finalize(tmp_path / "a")), before)


def test_overlapping_inputs_of_unknown_geometry(tmp_path):
    """The same structure counts once; others in its place are refused, as nothing tells what they are."""
    header = StoreHeader({"name": "x"}, 2)
    writer = ShardWriter(tmp_path / "s", header)
    records = [StructureRecord(np.array([1]), np.zeros((1, 2), np.float32), i, i) for i in range(4)]
    writer.write(records[:3], "in", "a", 0, 3)
    writer.write(records[2:], "in", "b", 2, 4)
    store = finalize(tmp_path / "s")
    assert store.n_structures == 4
    assert sorted(torch.cat([batch.ids for batch in store]).tolist()) == [0, 1, 2, 3]
    writer.write([replace(records[1], id=9, energy=1.0), records[3]], "in", "c", 1, 4)
    with pytest.raises(StoreError, match="both hold structure 1"):
        finalize(tmp_path / "s")


def test_strays_are_reported_and_do_no_harm(tmp_path):
    fill(tmp_path / "a")
    (tmp_path / "a" / ".tmp-123").write_bytes(b"left by a killed writer")
    (tmp_path / "a" / "shard-unlisted.h5").write_bytes(b"junk")
    assert set(verify(tmp_path / "a").strays) == {".tmp-123", "shard-unlisted.h5"}
    assert FeatureStore(tmp_path / "a").n_structures == 30
    old = time.time() - 2 * 24 * 3600
    os.utime(tmp_path / "a" / ".tmp-123", (old, old))
    finalize(tmp_path / "a")
    assert not (tmp_path / "a" / ".tmp-123").exists()


def test_damage_is_detected_or_harmless(store, tmp_path):
    """300 flipped bits and truncations anywhere in a store, read in a process with a time-out."""
    folder = tmp_path / "work"
    shutil.copytree(store, folder)
    script = tmp_path / "fuzz.py"
    script.write_text(FUZZ)
    result = subprocess.run(
        [sys.executable, script, folder, "300"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        cwd=ROOT,
        env=ENV,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    counts = json.loads(result.stdout.splitlines()[-1])
    assert counts["wrong"] == 0
    assert counts["detected"] + counts["harmless"] == 300
    assert counts["detected"] > 200


FUZZ = """
import json, random, signal, sys
from pathlib import Path
import numpy as np
from mekrr_scale.errors import StoreError
from mekrr_scale.pipeline import ExtractPlan, extract
from mekrr_scale.store import FeatureStore
from tests.store.test_store import contents, same

folder, cases = Path(sys.argv[1]), int(sys.argv[2])
reference = contents(FeatureStore(folder, tangents=True))
files = [p for p in sorted(folder.iterdir()) if p.name == "manifest.json" or p.suffix == ".h5"]
generator = random.Random(0)
counts = {"detected": 0, "harmless": 0, "wrong": 0}

def hang(*_):
    raise SystemExit("the reader hangs")

signal.signal(signal.SIGALRM, hang)
for case in range(cases):
    path = generator.choice(files)
    original = path.read_bytes()
    if case % 3 == 0:
        damaged = original[: generator.randrange(len(original))]
    else:
        changed = bytearray(original)
        for _ in range(generator.choice([1, 1, 1, 8])):
            changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
        damaged = bytes(changed)
    path.write_bytes(damaged)
    signal.alarm(20)
    try:
        found = contents(FeatureStore(folder, tangents=True))
        counts["harmless" if same(found, reference) else "wrong"] += 1
    except StoreError:
        counts["detected"] += 1
    signal.alarm(0)
    path.write_bytes(original)
print(json.dumps(counts))
"""


def test_half_tangents(toy_file, spec, tmp_path):
    """Float16 with a scale per row: half the size, close to a part in a thousand, stable when repacked."""
    plan = ExtractPlan(spec, derivatives=5, strain=True, tangent_dtype="same")
    whole = extract(toy_file, tmp_path / "whole", plan).store
    half = extract(toy_file, tmp_path / "half", replace(plan, tangent_dtype="float16")).store
    assert "half-tangents" in half.header.required_features
    big = [sum(info.big["/tangent/features"].nbytes for info in store.shards) for store in (whole, half)]
    assert big[1] * 2 == big[0]
    pairs = zip(replace(whole, tangents=True), replace(half, tangents=True), strict=True)
    for first, second in pairs:
        for a, b in zip(first.runs, second.runs, strict=True):
            error = (a.tangents.features - b.tangents.features).abs().amax(1)
            assert bool((error <= 6e-4 * a.tangents.features.abs().amax(1) + 1e-12).all())
    packed = repack(tmp_path / "half", tmp_path / "packed")
    for first, second in zip(replace(half, tangents=True), replace(packed, tangents=True), strict=True):
        for a, b in zip(first.runs, second.runs, strict=True):
            assert torch.equal(a.tangents.features, b.tangents.features)
    with pytest.raises(StoreError, match="another kind"):
        extract(toy_file, tmp_path / "half", plan)


def test_tangents_are_halved_where_nobody_says_else(toy_structures, spec, tmp_path):
    """Of float32 by default, not of float64; a store that was begun otherwise (by 0.1.0) goes on as it is."""
    plan = ExtractPlan(spec, derivatives=1)
    assert extract(toy_structures[:4], tmp_path / "half", plan).store.header.half_tangents
    assert not extract(
        toy_structures[:4], tmp_path / "exact", replace(plan, dtype="float64")
    ).store.header.half_tangents
    extract(toy_structures[:4], tmp_path / "begun", replace(plan, tangent_dtype="same"))
    more = extract(toy_structures[:8], tmp_path / "begun", plan)
    assert not more.store.header.half_tangents
    assert more.store.n_structures == 8


def test_a_store_of_many_shards_takes_few_file_handles(tmp_path, monkeypatch):
    """Beyond a number of open shards each is opened anew in every pass, yet its blocks are checked once."""
    from mekrr_scale.store import reader

    generator = np.random.default_rng(0)
    with FeatureWriter(tmp_path / "many", "mine", dim=4, shard_bytes=1) as writer:
        for i in range(30):
            writer.add(np.array([1, 8]), generator.normal(size=(2, 4)).astype(np.float32), energy=float(i))
    store = FeatureStore(tmp_path / "many")
    assert len(store.shards) == 30
    monkeypatch.setattr(reader, "_MAX_OPEN", 3)
    before = len(os.listdir("/proc/self/fd"))
    first = [batch.energy.tolist() for batch in store]
    assert len(os.listdir("/proc/self/fd")) - before <= 4
    checked = []
    hashes = reader.block_hashes
    monkeypatch.setattr(reader, "block_hashes", lambda *given: checked.append(given) or hashes(*given))
    assert [batch.energy.tolist() for batch in store] == first
    assert checked == []

"""Faults of a store, and what mends them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mekrr_scale.errors import StoreError
from mekrr_scale.pipeline import ExtractPlan, extract
from mekrr_scale.store import FeatureWriter, finalize, verify
from mekrr_scale.store.documents import MANIFEST
from mekrr_scale.store.sidecars import sidecars_in

ROOT = Path(__file__).parents[2]


def test_a_damaged_sidecar_is_mended(toy_file, spec, tmp_path):
    """Whichever it is: extract goes on, and says the same as finalize and verify; each names what mends it."""
    plan = ExtractPlan(spec, shard_bytes=3000)
    whole = extract(toy_file, tmp_path / "s", plan).store
    for sidecar in (sidecars_in(whole.path)[0], sidecars_in(whole.path)[-1]):
        for damage in (b"", b"{}", b"\xff\xfe", sidecar.read_bytes()[:-9]):
            text = sidecar.read_bytes()
            sidecar.write_bytes(damage)
            report = verify(whole.path)
            assert not report.ok
            assert "store finalize" in report.damaged[0]
            assert finalize(whole.path).id == whole.id  # the manifest knows what stood there
            assert verify(whole.path).ok
            sidecar.write_bytes(damage)
            (whole.path / MANIFEST).unlink()
            with pytest.raises(StoreError, match=r"damaged.*run the same `mekrr-scale extract`"):
                finalize(whole.path)
            with pytest.raises(StoreError, match="store finalize|extract"):
                verify(whole.path)
            assert extract(toy_file, whole.path, plan).store.id == whole.id
            assert json.loads(sidecar.read_text())["shard"] == json.loads(text)["shard"]
    for sidecar in sidecars_in(whole.path):  # all of them
        sidecar.write_bytes(b"")
    assert extract(toy_file, whole.path, plan).store.id == whole.id
    other = ExtractPlan(spec, dtype="float64")
    for sidecar in sidecars_in(whole.path):
        sidecar.write_bytes(b"")
    with pytest.raises(StoreError, match="another kind"):  # the manifest tells what is in the folder
        extract(toy_file, whole.path, other)


def test_every_fault_of_a_shard_names_what_mends_it(toy_file, spec, tmp_path):
    plan = ExtractPlan(spec, shard_bytes=3000)
    whole = extract(toy_file, tmp_path / "s", plan).store
    path = whole.path / whole.shards[0].path
    text = path.read_bytes()

    def flipped(at):
        data = bytearray(text)
        data[at] ^= 4
        return bytes(data)

    places = [0, 60, len(text) // 2, len(text) - 1, whole.shards[0].big["/atom/features"].offset + 5]
    for damage in (None, b"", text[:-1], text + b"x", *map(flipped, places)):
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage)
        report = verify(whole.path)
        assert len(report.damaged) == 1
        assert "run the same `mekrr-scale extract`" in report.damaged[0]
        assert extract(toy_file, whole.path, plan).store.id == whole.id
        assert verify(whole.path).ok
        assert path.read_bytes() == text
    (whole.path / MANIFEST).write_text("{")
    with pytest.raises(StoreError, match=f"mekrr-scale store finalize {whole.path}"):
        verify(whole.path)
    assert finalize(whole.path).id == whole.id


def test_many_shards_with_few_file_handles(tmp_path):
    """`ulimit -n 64` and 60 shards: what cannot stay open is opened again."""
    with FeatureWriter(tmp_path / "many", "mine", dim=2, shard_bytes=1) as writer:
        for i in range(60):
            writer.add(np.array([1, 8]), np.full((2, 2), float(i)), energy=float(i))
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "from mekrr_scale.store import FeatureStore, merge, repack, verify\n"
        "store = FeatureStore(sys.argv[1])\n"
        "for _ in range(2): kept = list(store)\n"
        "print(sum(float(batch.energy.sum()) for batch in kept), verify(sys.argv[1]).ok)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "many"],
        capture_output=True, text=True, timeout=300, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.split() == ["1770.0", "True"], done.stderr[-500:]

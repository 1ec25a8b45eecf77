"""What is wrong in a store is said by name, with what to do."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mekrr_scale.errors import StoreError
from mekrr_scale.files import publish_text
from mekrr_scale.store import FeatureStore, FeatureWriter, finalize, merge
from mekrr_scale.store.documents import MANIFEST
from mekrr_scale.store.format import read_sealed, sealed


@pytest.fixture
def folder(store, tmp_path):
    return Path(shutil.copytree(store, tmp_path / "spoilt"))


def first(data):
    return data["shards"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["shards"].append(5), "shard is not an object of JSON"),
        (lambda data: data.update(shards="x"), "its list of shards is 'x'"),
        (lambda data: data["header"].update(dim=0), "a header says dtype 'float64' and dim 0"),
        (lambda data: data["header"].update(dtype="int8"), "a header says dtype 'int8' and dim 16"),
        (lambda data: data["header"].update(dim=99), "features of another size than dim = 99"),
        (lambda data: data["shards"].append(first(data)), "a shard is listed twice"),
        (lambda data: first(data)["species"].update({"0": 1}), "1 atoms of species '0'"),
        (lambda data: first(data)["species"].update({"6": -1}), "-1 atoms of species '6'"),
        (lambda data: first(data)["big"].update({"/x": first(data)["big"]["/atom/features"]}), "/x of 'float64' is no"),
        (lambda data: first(data).update(excluded=[-1]), "the list of excluded structures is malformed"),
        (lambda data: first(data)["big"]["/atom/features"].update(offset=2**40), "reach beyond the end of the file"),
        (lambda data: data.update(format="other"), "other"),
    ],
)
def test_manifests(folder, change, message):
    data = dict(read_sealed(folder / MANIFEST))
    del data["id"]
    change(data)
    publish_text(folder / MANIFEST, sealed(data))
    with pytest.raises(StoreError, match=message) as error:
        len(list(FeatureStore(folder, tangents=True)))
    assert str(folder / MANIFEST) in str(error.value)


@pytest.mark.parametrize("change", ["missing", "longer", "shorter"])
def test_shards_that_are_not_what_they_were(folder, tmp_path, change):
    path = folder / FeatureStore(folder).shards[0].path
    content = path.read_bytes()
    path.unlink()
    if change != "missing":
        path.write_bytes(content + b"x" if change == "longer" else content[:-1])
    message = "is missing" if change == "missing" else f"bytes instead of {len(content)}"
    with pytest.raises(StoreError, match=f"shard .*{path.name}.* {message}; run the same `mekrr-scale extract`"):
        list(FeatureStore(folder))
    if change == "missing":
        with pytest.raises(StoreError, match=f"shard .*{path.name} is missing"):
            finalize(folder)
        with pytest.raises(StoreError, match=f"{path.name}.* is missing"):
            merge([folder], tmp_path / "merged")


def test_a_disk_that_gives_back_other_bytes(tmp_path, monkeypatch):
    real = np.fromfile

    def flipped(*args, **given):
        found = real(*args, **given)
        found[0] ^= 1
        return found

    monkeypatch.setattr(np, "fromfile", flipped)
    message = "features read back differs from what was written; the disk is failing"
    with pytest.raises(StoreError, match=message), FeatureWriter(tmp_path / "s", "mine", dim=2) as writer:
        writer.add(np.array([1, 8]), np.ones((2, 2)), energy=1.0)
    assert not list((tmp_path / "s").glob("*.h5"))

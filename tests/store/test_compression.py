"""Compressed stores: axes decided once, parts and resumption, repacking, merging, damage, the command line."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.backbones import load_backbone
from mekrr_scale.errors import ConfigError, StoreError
from mekrr_scale.pipeline import ExtractPlan, extract
from mekrr_scale.store import FeatureStore, Reduction, finalize, merge, open_store, repack, verify

AXES = "compression.safetensors"


@pytest.fixture(scope="module")
def plan(spec):
    return ExtractPlan(spec, derivatives=2, dtype="float64", shard_bytes=9_000, compress=6)


@pytest.fixture(scope="module")
def small(toy_structures, plan, tmp_path_factory):
    return extract(toy_structures, tmp_path_factory.mktemp("stores") / "small", plan).store


def labelled(atoms):
    """With labels of its own."""
    found = atoms.copy()
    results = {"energy": -3.0, "free_energy": -3.0, "forces": np.zeros((len(found), 3))}
    found.calc = SinglePointCalculator(found, **results)
    return found


def rows(store):
    """Features of all atoms, by structure, and their tangents."""
    found = {}
    for batch in replace(store, tangents=True):
        for run in batch.runs:
            for i, number in enumerate(batch.ids.tolist()):
                a, b = run.ptr[i : i + 2]
                c, d = run.tangents.ptr[i : i + 2]
                if b > a:
                    found[number, run.z] = run.features[a:b].clone(), run.tangents.features[c:d].clone()
    return found


def test_extracted_features_are_coordinates_of_the_backbones(small, toy_structures, plan, tmp_path):
    axes = small.compression
    assert (small.header.dim, axes.dim, axes.full) == (6, 6, 16)
    assert small.header.compression == {"basis": "species", "from": 16, "hash": axes.hash}
    assert "compressed" in small.manifest["required_features"]
    whole = extract(toy_structures, tmp_path / "whole", replace(plan, compress=None)).store
    assert whole.header.backbone == small.header.backbone
    expected, found = rows(whole), rows(small)
    assert found.keys() == expected.keys()
    for (number, z), (features, moved) in expected.items():
        torch.testing.assert_close(found[number, z][0], axes.apply(z, features), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found[number, z][1], axes.apply_tangent(z, moved), rtol=1e-10, atol=1e-12)
    lost = sum(float((axes.restore(z, axes.apply(z, h)) - h).square().sum()) for (_, z), (h, _) in expected.items())
    each = {z: torch.cat([h for (_, other), (h, _) in expected.items() if other == z]) for _, z in expected}
    assert lost < 0.05 * sum(float((h - h.mean(0)).square().sum()) for h in each.values())


def test_parts_and_resumption_take_the_axes_that_are_there(small, toy_structures, plan, tmp_path):
    folder = tmp_path / "parts"
    first = extract(toy_structures, folder, replace(plan, part=(2, 3)))
    decided = (folder / AXES).read_bytes()
    assert first.store is None
    for index in (1, 3):
        extract(toy_structures, folder, replace(plan, part=(index, 3)))
    assert (folder / AXES).read_bytes() == decided
    joined = finalize(folder)
    assert joined.header == small.header
    assert {info.path: info.xxh3_128 for info in joined.shards} == {i.path: i.xxh3_128 for i in small.shards}
    gone = joined.shards[1].path
    (folder / gone).unlink()
    again = extract(toy_structures, folder, plan)
    assert again.written < again.resumed + again.written
    assert (folder / AXES).read_bytes() == decided
    assert {info.xxh3_128 for info in again.store.shards} == {info.xxh3_128 for info in small.shards}
    more = extract([labelled(toy_structures[0])], folder, replace(plan, on_duplicate="newest"))  # and for new ones
    assert more.store.header == small.header


def test_other_axes_in_the_same_folder_are_refused(small, toy_structures, plan, spec, tmp_path):
    folder = tmp_path / "copied"
    shutil.copytree(small.path, folder)
    for change in ({"compress": 7}, {"compress": None, "residual": 1e-3}, {"basis": "common"}):
        with pytest.raises(StoreError, match="compressed by another basis .asked for as basis species, dim 6, now "):
            extract(toy_structures, folder, replace(plan, **change))
    with pytest.raises(StoreError, match=r"another kind .*compression: 6 of 16 by basis .* instead of none"):
        extract(toy_structures, folder, replace(plan, compress=None))
    extract(toy_structures[:4], tmp_path / "plain", replace(plan, compress=None))
    with pytest.raises(StoreError, match="holds features that are not compressed"):
        extract(toy_structures[:4], tmp_path / "plain", plan)
    assert not (tmp_path / "plain" / AXES).exists()
    with pytest.raises(ConfigError, match="16 numbers cannot be compressed to 16"):
        extract(toy_structures, tmp_path / "none", replace(plan, compress=16))
    with pytest.raises(StoreError, match="is not compressed"):
        extract(toy_structures, tmp_path / "none", replace(plan, compress=str(tmp_path / "plain")))


def test_elements_that_the_sample_has_not_get_common_axes(small, spec, plan, tmp_path):
    ammonia = labelled(molecule("NH3"))
    store = extract([ammonia], tmp_path / "n", replace(plan, compress=str(small.path))).store
    h = load_backbone(spec).to(dtype=torch.float64).features(ammonia)[:1]
    (run,) = (run for batch in store for run in batch.runs if run.z == 7)
    torch.testing.assert_close(run.features, small.compression.apply(0, h), rtol=1e-10, atol=1e-12)


def test_repack_compresses_what_counts(store, tmp_path):
    opened = FeatureStore(store)
    found = repack(store, tmp_path / "r", 20_000, reduction=Reduction(residual=1e-2), tangent_dtype="float16")
    axes = found.compression
    assert 1 <= axes.dim < 16
    assert found.n_structures == opened.n_structures
    assert found.header.half_tangents
    whole, few = rows(opened), rows(found)
    for (number, z), (features, moved) in whole.items():
        torch.testing.assert_close(few[number, z][0], axes.apply(z, features), rtol=1e-10, atol=1e-12)
        exact = axes.apply_tangent(z, moved)
        torch.testing.assert_close(
            few[number, z][1].double(), exact, rtol=0, atol=6e-4 * float(exact.abs().amax()) if len(exact) else 0
        )
    each = {z for _, z in whole}
    for z in each:
        moved = torch.cat([t for (_, other), (_, t) in whole.items() if other == z])
        kept = axes.apply_tangent(z, moved)
        assert float(kept.square().sum()) >= (1 - 1e-2) * float(moved.square().sum())
    before = (tmp_path / "r" / AXES).read_bytes()
    (tmp_path / "r" / "manifest.json").unlink()  # as if it had been killed at its end
    assert (
        repack(store, tmp_path / "r", 20_000, reduction=Reduction(residual=1e-2), tangent_dtype="float16").id
        == found.id
    )
    assert (tmp_path / "r" / AXES).read_bytes() == before
    with pytest.raises(StoreError, match="is compressed already"):
        repack(found.path, tmp_path / "twice", reduction=Reduction(3))
    again = repack(found.path, tmp_path / "again")
    assert again.compression.hash == axes.hash
    assert Reduction(like=again.path).asked() == {"like": axes.hash}


def test_merging_needs_one_basis(small, toy_structures, plan, tmp_path):
    like = replace(plan, compress=str(small.path))
    other = labelled(toy_structures[0])
    other.rattle(0.05, seed=1)
    more = extract([other], tmp_path / "more", like).store
    extract([other], tmp_path / "more", replace(like, compress=tmp_path / "more"))  # its own axes are what it has
    joined = merge([small.path, more.path], tmp_path / "joined")
    assert joined.n_structures == small.n_structures + 1
    assert joined.compression.hash == small.compression.hash
    assert verify(joined.path).ok
    alone = extract(toy_structures[:8], tmp_path / "alone", plan).store
    with pytest.raises(
        StoreError, match=f"compression: 6 of 16 by basis {alone.compression.hash} .species. instead of"
    ):
        merge([small.path, alone.path], tmp_path / "never")


def test_damaged_and_missing_axes(small, tmp_path):
    folder = tmp_path / "copied"
    shutil.copytree(small.path, folder)
    whole = (folder / AXES).read_bytes()
    (folder / AXES).write_bytes(whole[:-9] + bytes([whole[-9] ^ 64]) + whole[-8:])
    report = verify(folder)
    assert not report.ok
    assert "is damaged" in report.damaged[0]
    (folder / AXES).write_bytes(whole[:100])
    with pytest.raises(StoreError, match="is damaged"):
        _ = FeatureStore(folder).compression
    (folder / AXES).unlink()
    with pytest.raises(StoreError, match="which holds the axes of the store's features"):
        _ = FeatureStore(folder).compression


def test_reductions_that_say_too_much_or_too_little():
    assert Reduction.given(None, None, "species") is None
    assert Reduction.given("64", None, "common") == Reduction(64, basis="common")
    for given, said in [
        ((None, None, "common"), "a common basis of what"),
        ((3, 0.1, "species"), "by a number of coordinates, by a residual, or like another store"),
        ((-3, None, "species"), "give a positive number"),
        ((None, 2.0, "species"), "give a part between 0 and 1"),
    ]:
        with pytest.raises(ConfigError, match=said):
            Reduction.given(*given)


def test_the_command_line(run, toy_file, checkpoint, store):
    options = ("--backbone", "schnet", "--checkpoint", checkpoint, "--derivatives", "2", "--dtype", "float64")
    code, _, err = run("extract", toy_file, "-o", "small", *options, "--compress", "6")
    assert (code, "6 of 16 numbers for a feature" in err) == (0, True), err
    code, out, _ = run("store", "info", "small", "--json")
    assert json.loads(out)["compressed"].startswith("6 of 16 by basis ")
    assert run("store", "repack", store, "-o", "few", "--residual", "1e-2", "--basis", "common")[0] == 0
    assert open_store("few").compression.common
    assert run("store", "repack", store, "-o", "like", "--compress", "small")[0] == 0
    assert open_store("like").compression.hash == open_store("small").compression.hash
    code, _, err = run("store", "repack", store, "-o", "no", "--compress", "99")
    assert (code, "give a number from 1 to 15" in err) == (2, True)

"""What is extracted again counts once: copies, corrections, conflicts; parts that lack; folders that hold others."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.errors import ConfigError, StoreError
from mekrr_scale.files import temporary_path
from mekrr_scale.pipeline import ExtractPlan, FitPlan, LandmarkPlan, Validation, extract, fit
from mekrr_scale.solvers import Direct
from mekrr_scale.store import FeatureStore, FeatureWriter, ShardWriter, finalize, merge, repack, verify
from mekrr_scale.store.documents import MANIFEST
from mekrr_scale.store.format import read_sealed
from mekrr_scale.structures import LabelKeys, geometry_hash


@pytest.fixture(scope="module")
def frames():
    """Seven waters with energies and forces that say which is which."""
    generator = np.random.default_rng(1)
    found = []
    for i in range(7):
        atoms = Atoms("OH2", generator.normal(scale=0.1, size=(3, 3)) + [[0, 0, 0], [0, 0.8, 0.6], [0, -0.8, 0.6]])
        found.append(labelled(atoms, -10.0 - i, generator.normal(size=(3, 3))))
    return found


def labelled(atoms, energy, forces=None):
    atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, **({} if forces is None else {"forces": forces}))
    return atoms


def changed(atoms, energy):
    return labelled(atoms, energy, atoms.calc.results.get("forces"))


def written(path, frames):
    ase.io.write(path, frames, format="extxyz")
    return path


@pytest.fixture
def plan(spec):
    return ExtractPlan(spec, derivatives=2, shard_bytes=3 * 3 * 16 * 4 * 3)  # three structures in a shard


def energies(store):
    return sorted(torch.cat([batch.energy for batch in store]).tolist())


def rows(store):
    """Sums over all that a reader gives, in any order of the structures."""
    batches = list(replace(store, tangents=True))
    return [
        sum(float(run.features.double().sum()) for batch in batches for run in batch.runs),
        sum(float(run.tangents.features.double().square().sum()) for batch in batches for run in batch.runs),
        sum(float(batch.directions.label.square().sum()) for batch in batches),
    ]


def test_a_corrected_energy_replaces_the_wrong_one(tmp_path, frames, plan):
    """In any frame, and in any order of the file; going back is a correction too."""
    path = written(tmp_path / "a.xyz", [*frames[:2], changed(frames[2], -512.0), *frames[3:]])
    extract(path, tmp_path / "s", plan)
    before = {p.name: p.read_bytes() for p in (tmp_path / "s").glob("*.h5")}
    written(path, frames)
    report = extract(path, tmp_path / "s", plan)
    assert energies(report.store) == sorted(-10.0 - i for i in range(7))
    assert any("labels corrected" in said and "1 structure," in said for said in report.warnings)
    assert all((tmp_path / "s" / name).read_bytes() == data for name, data in before.items())  # shards do not change
    fresh = extract(path, tmp_path / "fresh", plan).store
    np.testing.assert_allclose(rows(report.store), rows(fresh), rtol=1e-12)
    assert report.store.n_atoms == fresh.n_atoms
    assert report.store.n_directions == fresh.n_directions
    assert report.store.species == fresh.species
    assert sum(info.energies for info in report.store.shards) == 7
    assert verify(tmp_path / "s").ok
    assert verify(tmp_path / "s").strays == ()
    written(path, frames[::-1])  # another order: every shard is new
    assert energies(extract(path, tmp_path / "s", plan).store) == energies(fresh)
    written(path, [changed(frames[0], -77.0), *frames[1:]])
    assert energies(extract(path, tmp_path / "s", plan).store)[0] == -77.0
    written(path, frames)  # the shards of this are there: they are the newest again
    again = extract(path, tmp_path / "s", plan)
    assert again.written == 0
    assert energies(again.store) == energies(fresh)


def test_corrected_forces_and_units(tmp_path, frames, plan):
    path = written(tmp_path / "a.xyz", frames)
    wrong = replace(plan, keys=LabelKeys(energy_unit="kcal/mol"))
    extract(path, tmp_path / "s", wrong)
    assert energies(extract(path, tmp_path / "s", plan).store) == sorted(-10.0 - i for i in range(7))
    assert energies(extract(path, tmp_path / "s", wrong).store)[0] > -1
    written(path, [labelled(a, a.get_potential_energy(), 2 * a.get_forces()) for a in frames])
    report = extract(path, tmp_path / "s", plan)
    assert report.store.n_structures == 7
    fresh = extract(path, tmp_path / "fresh", plan).store
    np.testing.assert_allclose(rows(report.store), rows(fresh), rtol=1e-12)
    bare = [labelled(a, a.get_potential_energy()) for a in frames[:-1]]  # their forces were wrong: none now
    assert extract(written(path, [*bare, frames[-1]]), tmp_path / "s", plan).store.n_directions == 2


def test_a_longer_file(tmp_path, frames, plan):
    path = written(tmp_path / "md.xyz", frames[:4])
    extract(path, tmp_path / "s", plan)
    written(path, frames)
    report = extract(path, tmp_path / "s", plan)
    assert (report.written, report.resumed) == (4, 3)
    assert energies(report.store) == sorted(-10.0 - i for i in range(7))
    assert len(report.store.shards) == 3
    assert list(report.store.superseded.values()) == [1]
    shifted = written(path, frames[2:])  # the beginning was cut off
    report = extract(shifted, tmp_path / "s", plan)
    assert report.store.n_structures == 7
    assert any("no longer in" in said and "2 structures" in said for said in report.warnings)


def test_copies_within_a_file_count_once(tmp_path, frames, plan):
    path = written(tmp_path / "a.xyz", [*frames[:4], frames[1], changed(frames[2], -99.0)])
    report = extract(path, tmp_path / "s", plan)
    assert energies(report.store) == [-99.0, -13.0, -11.0, -10.0]
    assert any("duplicates" in said for said in report.warnings)
    parts = tmp_path / "parts"
    for i in (2, 1):
        extract(path, parts, replace(plan, part=(i, 2)))
    assert finalize(parts).id == report.store.id  # whatever the order of the writers


def test_conflicts_between_files(tmp_path, frames, plan):
    a = written(tmp_path / "a.xyz", frames[:4])
    b = written(tmp_path / "b.xyz", [frames[2], changed(frames[3], -50.0), *frames[4:]])
    extract(a, tmp_path / "s", plan)
    with pytest.raises(StoreError, match=r"other labels.* 1 structure, .*a\.xyz.*b\.xyz.*-13 and -50.*--on-duplicate"):
        extract(b, tmp_path / "s", plan)
    with pytest.raises(StoreError, match=r"other labels.*Say which are right, e.g. `mekrr-scale store finalize .*keep"):
        finalize(tmp_path / "s")
    newest = finalize(tmp_path / "s", "newest")
    assert energies(newest) == [-50.0, -16.0, -15.0, -14.0, -12.0, -11.0, -10.0]
    assert finalize(tmp_path / "s").id == newest.id  # what was decided is known
    kept = finalize(tmp_path / "s", "keep")
    assert energies(kept) == [-50.0, -16.0, -15.0, -14.0, -13.0, -12.0, -12.0, -11.0, -10.0]  # the copy in b too
    both = extract([a, b], tmp_path / "both", replace(plan, on_duplicate="keep")).store
    assert energies(both) == energies(kept)
    with pytest.raises(StoreError, match="other labels"):
        extract([a, b], tmp_path / "refused", plan)
    twice = written(tmp_path / "twice.xyz", [*frames[:3], frames[1]])
    report = extract(twice, tmp_path / "twice", replace(plan, on_duplicate="keep"))
    assert energies(report.store) == [-12.0, -11.0, -11.0, -10.0]
    assert any("1 structure, all of them count" in said for said in report.warnings)
    extract(written(twice, frames[:3]), tmp_path / "twice", replace(plan, on_duplicate="keep"))
    assert finalize(tmp_path / "twice", "keep").n_structures == 3  # the file's latest version has no copy
    richer = written(tmp_path / "c.xyz", [labelled(frames[0], -10.0)])  # the same energy, no forces: no conflict
    joined = extract([richer, a], tmp_path / "rich", plan).store
    assert joined.n_structures == 4
    assert joined.n_directions == 8


def test_merge(tmp_path, frames, plan):
    a, b = written(tmp_path / "a.xyz", frames[:4]), written(tmp_path / "b.xyz", frames[2:])
    extract(a, tmp_path / "m1", plan)
    extract(b, tmp_path / "m2", plan)
    joined = merge([tmp_path / "m1", tmp_path / "m2"], tmp_path / "m")
    assert energies(joined) == sorted(-10.0 - i for i in range(7))
    assert any("2 structures" in said for said in joined.remarks)
    assert finalize(tmp_path / "m").id == joined.id
    again = merge([tmp_path / "m", tmp_path / "m1", tmp_path / "m"], tmp_path / "mm")
    assert energies(again) == energies(joined)
    extract(written(b, [changed(frames[2], -50.0), *frames[3:]]), tmp_path / "m3", plan)
    with pytest.raises(StoreError, match="merge .*--on-duplicate newest"):
        merge([tmp_path / "m1", tmp_path / "m3"], tmp_path / "conflict")
    newest = merge([tmp_path / "m1", tmp_path / "m3"], tmp_path / "conflict", "newest")  # into what the other left
    assert -50.0 in energies(newest)
    assert -12.0 not in energies(newest)
    chosen = merge([tmp_path / "conflict", tmp_path / "m1"], tmp_path / "later", "newest")
    assert energies(chosen) == energies(newest)
    (tmp_path / "m2" / MANIFEST).unlink()
    with pytest.raises(StoreError, match="shards of something else"):
        merge([tmp_path / "m1"], tmp_path / "m2")
    corrected = merge([tmp_path / "m", tmp_path / "m3"], tmp_path / "same source", "newest")
    assert energies(corrected) == energies(newest)


def test_repack_leaves_out_what_does_not_count(tmp_path, frames, plan):
    path = written(tmp_path / "a.xyz", [changed(frames[0], -1.0), *frames[1:]])
    extract(path, tmp_path / "s", plan)
    store = extract(written(path, frames), tmp_path / "s", plan).store
    packed = repack(tmp_path / "s", tmp_path / "packed")
    assert (packed.n_structures, packed.n_excluded) == (7, 0)
    np.testing.assert_allclose(rows(packed), rows(store), rtol=1e-12)
    twice = merge([tmp_path / "s", tmp_path / "packed"], tmp_path / "twice")  # they know one another
    assert energies(twice) == energies(store)
    (tmp_path / "packed" / MANIFEST).unlink()
    with pytest.raises(StoreError, match="shards of something else"):
        repack(tmp_path / "twice", tmp_path / "packed")


def test_a_fit_takes_what_counts(tmp_path, frames, plan):
    """A store that was corrected gives the model of one that was right from the start; kept sums notice."""
    small = FitPlan(
        landmarks=LandmarkPlan(count=12),
        baseline="composition",
        solver=Direct((1e-6,)),
        validation=Validation(folds=2, uncertainty=False),
    )
    path = written(tmp_path / "a.xyz", [*frames[:3], changed(frames[3], -512.0), *frames[4:]])
    extract(path, tmp_path / "s", plan)
    simple = replace(small, kernel=replace(small.kernel, length_scales="4.0", alphas=(1.0,)), standardize="none")
    fit(tmp_path / "s", simple, sums=tmp_path / "sums")
    extract(written(path, frames), tmp_path / "s", plan)
    extract(path, tmp_path / "fresh", plan)
    found, expected = fit(tmp_path / "s", small), fit(tmp_path / "fresh", small)
    assert torch.allclose(found.model.coefficients, expected.model.coefficients, rtol=1e-5, atol=1e-7)
    assert not found.warnings or "count twice" not in " ".join(found.warnings)
    both = fit([tmp_path / "s", tmp_path / "fresh"], small)
    assert any("7 geometries are in" in said and "store merge" in said for said in both.warnings)
    with pytest.raises(ConfigError, match="no longer have"):
        fit(tmp_path / "s", simple, sums=tmp_path / "sums")


def test_features_of_the_users_own(tmp_path):
    """Written again they count once; equal features of one run are structures of their own."""
    generator = np.random.default_rng(0)
    features = [generator.normal(size=(2, 3)).astype(np.float32) for _ in range(5)]
    features[3] = features[2]

    def write(values, count=5):
        with FeatureWriter(tmp_path / "s", "mine", dim=3, shard_bytes=50) as writer:
            for feature, value in zip(features[:count], values, strict=False):
                writer.add(np.array([1, 8]), feature, energy=value)
        return FeatureStore(tmp_path / "s")

    assert energies(write([5.0, 1.0, 2.0, 3.0, 4.0], 4)) == [1.0, 2.0, 3.0, 5.0]
    assert energies(write([0.0, 1.0, 2.0, 3.0, 4.0])) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_what_a_geometry_is():
    """Labels, decimals and a molecule's box are no part of it; elements, order, cell and periodicity are."""
    crystal = Atoms("CuAu", [[0, 0, 0], [0, 0, 2.5]], cell=[4, 4, 5], pbc=True)
    reference = geometry_hash(crystal)
    for name, value in (("positions", crystal.positions + 4e-6), ("positions", crystal.positions - 0.0)):
        other = crystal.copy()
        setattr(other, name, value)
        assert geometry_hash(other) == reference
    for change in (
        lambda a: a.translate([0, 0, 1e-4]),
        lambda a: a.set_pbc([True, True, False]),
        lambda a: a.set_cell([4, 4, 5.001]),
        lambda a: a.set_chemical_symbols(["Au", "Cu"]),
    ):
        other = crystal.copy()
        change(other)
        assert geometry_hash(other) != reference
    free, boxed = Atoms("O"), Atoms("O", cell=[9, 9, 9])
    assert geometry_hash(free) == geometry_hash(boxed)
    assert geometry_hash(Atoms("O", [[-1e-9, 0, 0]])) == geometry_hash(free)  # minus zero


def test_parts_that_are_missing(tmp_path, frames, plan):
    path = written(tmp_path / "a.xyz", frames)
    one = replace(plan, shard_bytes=1)
    for i in (1, 3):
        extract(path, tmp_path / "s", replace(one, part=(i, 3)))
    with pytest.raises(
        StoreError, match=r"part 2/3 of a\.xyz not done \(5 of 7 structures are there\).*allow-incomplete"
    ):
        finalize(tmp_path / "s")
    partial = finalize(tmp_path / "s", allow_incomplete=True)
    assert partial.n_structures == 5
    small = FitPlan(landmarks=LandmarkPlan(count=6), baseline="composition", validation=Validation(folds=2))
    report = fit(tmp_path / "s", small)
    assert any("not complete" in said and "2/3" in said for said in report.warnings)
    joined = merge([tmp_path / "s"], tmp_path / "m")
    assert joined.incomplete == partial.incomplete
    assert finalize(tmp_path / "m").incomplete  # a later finalize does not forget
    assert repack(tmp_path / "s", tmp_path / "packed").incomplete
    extract(path, tmp_path / "apart", replace(one, part=(2, 3)))  # a part in a folder of its own
    assert "parts 1/3, 3/3" in next(iter(finalize(tmp_path / "apart", allow_incomplete=True).incomplete.values())).said
    together = merge([tmp_path / "s", tmp_path / "apart"], tmp_path / "together")
    assert together.n_structures == 7
    assert not together.incomplete
    extract(path, tmp_path / "s", replace(one, part=(2, 3)))
    whole = finalize(tmp_path / "s")
    assert not whole.incomplete
    assert whole.id == extract(path, tmp_path / "whole", one).store.id
    assert not list((tmp_path / "whole").glob("*.part"))


def test_a_killed_extraction_is_not_taken_for_all(tmp_path, frames, plan, monkeypatch):
    """One process that died leaves word; what it lacks is made by any division."""
    path = written(tmp_path / "a.xyz", frames)
    write, written_shards = ShardWriter.write, []

    def dies(writer, *given):
        if written_shards:
            raise KeyboardInterrupt
        written_shards.append(write(writer, *given))
        return written_shards[-1]

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            extract(path, tmp_path / "s", plan)
    with pytest.raises(StoreError, match="part 1/1 of a.xyz not done"):
        finalize(tmp_path / "s")
    other = written(tmp_path / "b.xyz", [changed(frames[0], -90.0)])
    other_file = written(tmp_path / "c.xyz", [labelled(Atoms("O", [[0, 0, 0]]), -1.0, np.zeros((1, 3)))])
    report = extract(other_file, tmp_path / "s", plan)  # side by side with others it makes a store, and says so
    assert report.store.n_structures == 4
    assert any("a.xyz not done" in said for said in report.warnings)
    with pytest.raises(StoreError, match="other labels"):
        extract(other, tmp_path / "s", plan)
    for i in (1, 2):
        extract(path, tmp_path / "s", replace(plan, part=(i, 2)))
    store = finalize(tmp_path / "s", "newest", allow_incomplete=True)
    assert store.n_structures == 8
    assert [lack.source for lack in store.incomplete.values()] == []


def test_shards_close_by_work(tmp_path, frames, plan):
    """A kill loses a bounded amount of work; small stores are cut as before, and parts and resumption cut alike."""
    path = written(tmp_path / "a.xyz", frames)
    free = replace(plan, shard_bytes=2**30, shard_work=0)
    plain = extract(path, tmp_path / "plain", free).store
    default = extract(path, tmp_path / "default", replace(plan, shard_bytes=2**30)).store
    assert default.id == plain.id
    assert len(plain.shards) == 1
    bound = replace(free, shard_work=2 * 3 * (1 + 3 * 2))  # two structures of three atoms and two directions
    cut = extract(path, tmp_path / "cut", bound).store
    assert [info.structures for info in cut.shards] == [2, 2, 2, 1]
    for i in (3, 1, 2):
        extract(path, tmp_path / "parts", replace(bound, part=(i, 3)))
    assert finalize(tmp_path / "parts").id == cut.id
    assert extract(path, tmp_path / "cut", bound).written == 0


@pytest.mark.parametrize("given", [{"shard_work": -1}, {"seed": -1}, {"part": (1, 10**6)}, {"shard_bytes": "inf"}])
def test_plans_that_cannot_be(given):
    with pytest.raises(ConfigError):
        ExtractPlan(**given)


def test_temporary_files_of_running_writers_stay(tmp_path, frames, plan):
    path = written(tmp_path / "a.xyz", frames[:2])
    extract(path, tmp_path / "s", plan)
    mine = temporary_path(tmp_path / "s", "")
    dead = mine.with_name(mine.name.replace(f"-{os.getpid()}-", "-99999999-"))
    other = mine.with_name(".tmp-0123456789abcdef")
    old = time.time() - 3 * 24 * 3600
    for name in (mine, dead, other):
        name.write_text("x")
        os.utime(name, (old, old))
    finalize(tmp_path / "s")
    assert mine.exists()  # this process lives, however long ago it wrote there
    assert not dead.exists()
    assert not other.exists()


def test_stores_of_before_know_no_geometry(tmp_path, frames, plan):
    """Sidecars of 0.1.0: the same structures and the same features in corrected files are found all the same."""
    path = written(tmp_path / "a.xyz", frames)
    extract(path, tmp_path / "s", plan)
    strip(tmp_path / "s")
    before = finalize(tmp_path / "s")
    assert (before.n_structures, before.n_excluded) == (7, 0)
    written(path, [changed(frames[0], -77.0), *frames[1:]])
    report = extract(path, tmp_path / "s", plan)
    assert energies(report.store) == sorted([-77.0, *(-10.0 - i for i in range(1, 7))])
    strip(tmp_path / "s")
    written(path, [changed(frames[0], -78.0), *frames[1:]])
    extract(path, tmp_path / "t", plan)
    strip(tmp_path / "t")
    assert energies(merge([tmp_path / "s", tmp_path / "t"], tmp_path / "m"))[0] == -78.0


def strip(folder):
    """Sidecars as 0.1.0 wrote them."""
    from mekrr_scale.files import publish_text
    from mekrr_scale.store.format import sealed

    for sidecar in folder.glob("*.h5.json"):
        data = read_sealed(sidecar)
        publish_text(sidecar, sealed({key: value for key, value in data.items() if key not in ("id", "origins")}))


def test_ordinary_manifests_have_nothing_new(store):
    data = json.loads((store / MANIFEST).read_text())
    assert set(data) == {"format", "schema", "required_features", "header", "units", "shards", "id"}
    assert "excluded" not in data["shards"][0]

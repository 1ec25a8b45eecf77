"""What was said to count is remembered; structures that do not count are in nothing that is told of a store."""

from __future__ import annotations

from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.errors import StoreError
from mekrr_scale.pipeline import ExtractPlan, FitPlan, extract, fit
from mekrr_scale.store import configs_of, finalize, isolated_atoms, names_of, repack


def frame(symbols, positions, energy, config):
    atoms = Atoms(symbols, positions, info={"config_type": config})
    atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


def copper(energy, config):
    return frame("Cu", np.zeros((1, 3)), energy, config)


@pytest.fixture
def corrected(tmp_path, spec):
    """A free atom of which two files say other energies; the later is right. Beside it molecules."""
    rng = np.random.default_rng(0)
    others = [
        frame("Cu2", [[0, 0, 0], [0, 0, 2.2 + 0.1 * i]] + rng.normal(scale=0.05, size=(2, 3)), -7.0 - 0.1 * i, "dimer")
        for i in range(8)
    ]
    ase.io.write(tmp_path / "a.xyz", [copper(-50.0, "wrong"), *others], format="extxyz")
    ase.io.write(tmp_path / "b.xyz", [copper(-3.5, "free")], format="extxyz")
    files = [tmp_path / "a.xyz", tmp_path / "b.xyz"]
    return extract(files, tmp_path / "s", ExtractPlan(spec, on_duplicate="newest")).store


def test_isolated_atoms_that_do_not_count_are_no_references(corrected):
    assert isolated_atoms(corrected) == {29: [-3.5]}
    plan = FitPlan(landmarks=5, baseline="isolated", validation=2, kernel={"length_scales": 1.0})
    report = fit(corrected, plan)
    assert report.model.baseline.energies.tolist() == [-3.5]
    assert any("1 isolated atom (Cu)" in said for said in report.remarks)


def test_configuration_types_are_those_of_what_counts(corrected):
    assert configs_of(corrected) == ("dimer", "free")


def test_a_structure_is_named_where_it_counts(tmp_path, spec):
    """The same frame in two files, of which the later one counts."""
    twice = frame("Cu2", [[0, 0, 0], [0, 0, 2.2]], -7.0, "dimer")
    ase.io.write(tmp_path / "a.xyz", [twice, frame("Cu2", [[0, 0, 0], [0, 0, 2.3]], -7.1, "dimer")], format="extxyz")
    ase.io.write(tmp_path / "b.xyz", [copper(-3.5, "free"), twice], format="extxyz")
    for name in ("a.xyz", "b.xyz"):
        store = extract(tmp_path / name, tmp_path / "s", ExtractPlan(spec, on_duplicate="newest")).store
    named = names_of([store], [int(number) for batch in store for number in batch.ids])
    places = (("a.xyz", 1), ("b.xyz", 0), ("b.xyz", 1))
    assert set(named.values()) == {f"structure {place} of {tmp_path / name}" for name, place in places}


@pytest.fixture
def rivals(tmp_path):
    """Two files with the same dimers, of which the later one has other energies."""
    dimers = [("Cu2", [[0, 0, 0], [0, 0, 2.2 + 0.1 * i]]) for i in range(4)]
    for name, energy in (("a.xyz", -7.0), ("b.xyz", -8.0)):
        ase.io.write(tmp_path / name, [frame(*dimer, energy, "dimer") for dimer in dimers], format="extxyz")
    return [tmp_path / "a.xyz", tmp_path / "b.xyz"]


def energies(store):
    return sorted(energy for batch in store for energy in batch.energy.tolist())


def test_copies_that_are_kept_stay_without_a_conflict(tmp_path, spec):
    """A later finalize and a repack do not forget; where nothing is kept twice the manifest says nothing."""
    twice = [frame("Cu2", [[0, 0, 0], [0, 0, z]], -7.0, "dimer") for z in (2.2, 2.3, 2.2)]
    ase.io.write(tmp_path / "a.xyz", twice, format="extxyz")
    kept = extract(tmp_path / "a.xyz", tmp_path / "s", ExtractPlan(spec, on_duplicate="keep")).store
    assert kept.n_structures == 3
    assert finalize(kept.path).id == kept.id
    packed = repack(kept.path, tmp_path / "packed")
    assert packed.n_structures == finalize(packed.path).n_structures == 3
    assert repack(tmp_path / "packed", tmp_path / "again").n_structures == 3
    once = finalize(kept.path, "error")
    assert once.n_structures == 2
    assert repack(once.path, tmp_path / "once").n_structures == 2
    assert "on_duplicate" not in finalize(once.path, "newest").manifest


def test_a_structure_that_is_extracted_again_is_no_copy(tmp_path, spec):
    """In shards of another size, or with other groups: where copies count, it counts once, and copies beside it do."""
    twice = [frame("Cu2", [[0, 0, 0], [0, 0, z]], -7.0, "dimer") for z in (2.2, 2.3, 2.2)]
    for place, atoms in enumerate(twice):
        atoms.info["run"] = str(place % 2)
    ase.io.write(tmp_path / "a.xyz", twice, format="extxyz")
    plan = ExtractPlan(spec, on_duplicate="keep")
    for way in (plan, replace(plan, shard_bytes=1), plan, replace(plan, group_key="run")):
        assert extract(tmp_path / "a.xyz", tmp_path / "s", way).store.n_structures == 3
    for runs in ("010", "011"):  # of structures in memory the version says nothing of groups
        for atoms, run in zip(twice, runs, strict=True):
            atoms.info["run"] = run
        found = extract(twice, tmp_path / "m", replace(plan, group_key="run")).store
        assert found.n_structures == 3
        assert len({group for batch in found for group in batch.groups.tolist()}) == 2


def test_an_extraction_remembers_that_copies_count(tmp_path, spec):
    """Where it is not told anything, it is as before, also with another file."""
    for name, z in (("a.xyz", 2.2), ("b.xyz", 2.4)):
        twice = [frame("Cu2", [[0, 0, 0], [0, 0, z]], -7.0, "dimer")] * 2
        ase.io.write(tmp_path / name, twice, format="extxyz")
    extract(tmp_path / "a.xyz", tmp_path / "s", ExtractPlan(spec, on_duplicate="keep"))
    assert extract(tmp_path / "a.xyz", tmp_path / "s", ExtractPlan(spec)).store.n_structures == 2
    both = [tmp_path / "a.xyz", tmp_path / "b.xyz"]
    assert extract(both, tmp_path / "s", ExtractPlan(spec)).store.n_structures == 4


@pytest.mark.parametrize("told", ["frame", "plan"])
def test_isolated_atoms_of_weight_zero_are_no_references(tmp_path, spec, told):
    """Be it the frame's own, or that of its configuration type; in files of their own they are found as before."""
    lone = [copper(-3.5, "free"), copper(-50.0, "wrong")]
    lone[1].positions += 1.0  # no copy of the first
    dimers = [frame("Cu2", [[0, 0, 0], [0, 0, 2.2 + 0.1 * i]], -7.0 - 0.1 * i, "dimer") for i in range(8)]
    if told == "frame":
        lone[1].info["config_weight"] = 0.0
    store = extract([*lone, *dimers], tmp_path / "s", ExtractPlan(spec)).store
    rows = {"config_weights": {"wrong": 0.0}} if told == "plan" else {}
    plan = FitPlan(landmarks=5, baseline="isolated", validation=2, kernel={"length_scales": 1.0}, rows=rows)
    assert fit(store, plan).model.baseline.energies.tolist() == [-3.5]
    assert isolated_atoms(store) == {29: [-3.5, -50.0]}


def test_parts_know_what_they_were_told(tmp_path, spec, rivals):
    plan = ExtractPlan(spec, shard_bytes=1)
    for folder, said in (("newest", "newest"), ("keep", "keep"), ("silent", "error")):
        for i in (1, 2):
            extract(rivals, tmp_path / folder, replace(plan, part=(i, 2), on_duplicate=said))
    assert energies(finalize(tmp_path / "newest")) == [-8.0] * 4
    assert energies(finalize(tmp_path / "keep")) == [-8.0] * 4 + [-7.0] * 4
    with pytest.raises(
        StoreError, match=r"structure 0 of \S*a\.xyz and structure 0 of \S*b\.xyz .*Say which are right"
    ):
        finalize(tmp_path / "silent")
    assert energies(finalize(tmp_path / "newest", "keep")) == [-8.0] * 4 + [-7.0] * 4
    assert len(energies(finalize(tmp_path / "newest"))) == 8  # what was said last
    extract(rivals, tmp_path / "newest", replace(plan, part=(1, 2), on_duplicate="newest"))
    assert energies(finalize(tmp_path / "newest")) == [-8.0] * 4

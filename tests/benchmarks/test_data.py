"""Benchmarks refuse data that are absent, keep no leftovers, and test on what was not fitted."""

import lzma
import shutil
import sys

import ase.io
import pytest

from benchmarks import __main__ as command
from benchmarks import bpa_forces, data, energies_and_forces, kept, scaling
from benchmarks.data import LeakError, Subset
from mekrr_scale.pipeline import ExtractPlan
from mekrr_scale.store import FeatureStore

# those that need none of the development data, or another library before them
FREE = {
    "kernel_rows",
    "store_reading",
    "molecular_dynamics",
    "messages",
    "subnormals",
    "training_steps",
    "few_rows",
    "ranks",
    "restarts",
    "gpu",
}
FREE |= {"franken_comparison", "falkon_library", "extraction", "large_cells", "compiled", "engines", "lammps_md"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of data, and an empty cache."""
    found = tmp_path / "data"
    found.mkdir()
    monkeypatch.setenv("BENCHMARK_DATA", str(found))
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    return found


@pytest.mark.parametrize("name", sorted(set(command.NAMES) - FREE))
def test_absent_data_are_refused(name, folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", name])
    assert command.main() == 1
    told = capsys.readouterr()
    assert f"{folder}: give the folder that holds it, as --data FOLDER or in BENCHMARK_DATA" in told.err
    assert "|" not in told.out  # no table
    assert not list(folder.parent.glob("cache/*/manifest.json"))  # nor anything under the name of what is absent


def test_folder_of_data_can_be_given(folder, tmp_path, monkeypatch, capsys):
    other = tmp_path / "elsewhere"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "falkon_iterations", "--data", str(other)])
    assert command.main() == 1
    assert f"train.xyz.xz is not in {other}" in capsys.readouterr().err


def test_another_version_plan_or_file_has_another_key(tmp_path, monkeypatch):
    first = kept.key(ExtractPlan(), "data")
    assert kept.key(ExtractPlan(), "data") == first
    assert kept.key(ExtractPlan(derivatives=8), "data") != first
    assert kept.key(ExtractPlan(), "other data") != first
    with monkeypatch.context() as patch:
        patch.setattr(kept, "__version__", "0.0.7")
        kept.made_by.cache_clear()
        assert kept.key(ExtractPlan(), "data") != first
    (tmp_path / "mekrr_scale").mkdir()
    (tmp_path / "mekrr_scale" / "code.py").write_text("x = 1")
    with monkeypatch.context() as patch:
        patch.setattr(kept, "ROOT", tmp_path)
        kept.made_by.cache_clear()
        other_code = kept.key(ExtractPlan(), "data")
        (tmp_path / "mekrr_scale" / "code.py").write_text("x = 2")
        kept.made_by.cache_clear()
        assert len({first, other_code, kept.key(ExtractPlan(), "data")}) == 3
    kept.made_by.cache_clear()


def test_store_is_kept_for_the_same_file_alone(folder, toy_structures, spec):
    plan, path = ExtractPlan(spec), folder / "toy.xyz"
    ase.io.write(path, toy_structures[:4], format="extxyz")
    first, seconds = data.extracted(path, "toy", plan)
    again, none = data.extracted(path, "toy", plan)
    assert (first.path, first.n_structures) == (again.path, 4)
    assert seconds > 0
    assert none is None  # no time is told for what was made before
    ase.io.write(path, toy_structures[4:10], format="extxyz")
    other, _ = data.extracted(path, "toy", plan)
    assert (other.n_structures, first.path == other.path) == (6, False)


def test_structure_in_two_sets_is_found(toy_structures):
    data.apart(training=toy_structures[:8], test=toy_structures[8:])
    moved = toy_structures[2].copy()
    moved.info["name"] = "a copy"
    with pytest.raises(LeakError, match="1 structures are both in training and in test"):
        data.apart(training=toy_structures[:8], test=[*toy_structures[8:], moved])


def test_parts_of_a_subset_are_disjoint(store):
    whole = Subset.of(FeatureStore(store))
    rest, held = whole.parts(0.25, 0, "split")
    assert (len(rest), len(held), len(rest.hashes() | held.hashes())) == (18, 6, 24)
    twice = Subset([*whole.items, *whole.items], whole.folder)
    with pytest.raises(LeakError, match="the part to fit and in the part held out"):
        twice.parts(0.25, 0, "split")


@pytest.fixture
def bpa(folder, toy_structures, monkeypatch):
    """Twenty-four frames in the place of 3BPA's, six of them to test on."""
    path = folder / bpa_forces.FILE
    path.parent.mkdir()
    with lzma.open(path, "wt") as stream:
        ase.io.write(stream, toy_structures, format="extxyz")
    monkeypatch.setattr(bpa_forces, "TESTED", 6)
    return path


def test_frames_to_fit_are_not_those_to_test(bpa):
    training, test = (ase.io.read(path, ":") for path in (bpa_forces.frames(18), bpa_forces.test_frames()))
    assert (len(training), len(test)) == (18, 6)
    data.apart(training=training, test=test)
    fewer = ase.io.read(bpa_forces.frames(5), ":")
    assert [len(a) for a in fewer] == [len(a) for a in training[:5]]


def test_more_frames_than_there_are_beside_the_test_are_refused(bpa):
    with pytest.raises(ValueError, match="has 18 frames for 19, not 19"):
        bpa_forces.frames(19)


def test_forces_are_tested_on_what_was_held_out(folder, toy_structures):
    path = folder / "toy.xyz.xz"
    with lzma.open(path, "wt") as stream:
        ase.io.write(stream, toy_structures, format="extxyz")
    fitted, held = (ase.io.read(part, ":") for part in energies_and_forces.split("toy", 20))
    assert (len(fitted), len(held)) == (15, 5)
    with lzma.open(path, "wt") as stream:  # another file of that name: nothing of before is taken
        ase.io.write(stream, toy_structures[:8], format="extxyz")
    assert len(ase.io.read(energies_and_forces.split("toy", 20)[0], ":")) == 6


def test_sizes_that_the_data_do_not_have_are_refused(store, monkeypatch):
    monkeypatch.setattr(scaling, "store", lambda name: FeatureStore(store))
    with pytest.raises(ValueError, match="w_be/W_train has 24 structures, 200 were asked for"):
        scaling.measured("direct", "real", 200)


def test_sizes_that_the_data_have_are_those_of_the_table(store, tmp_path, monkeypatch):
    whole = FeatureStore(shutil.copytree(store, tmp_path / "whole"))
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path))
    monkeypatch.setattr(scaling, "store", lambda name: whole)
    assert scaling.thinned(7).n_structures == 7
    assert scaling.thinned(24).n_atoms == whole.n_atoms

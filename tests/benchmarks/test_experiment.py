"""Runs of paper experiments: found again by what made them, and by nothing else; no structure tests what it taught."""

import json
import sys
from dataclasses import replace

import pytest

from benchmarks import kept
from benchmarks.data import AbsentDataError, LeakError
from benchmarks.papers import common
from benchmarks.papers.common import Experiment, disjoint, parted, without
from benchmarks.papers.elements import Sets as ElementSets
from benchmarks.papers.mekrr import Sets
from mekrr_scale.transfer import read_examples


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """An experiment as the command line makes it, everything that it writes in a folder of the test."""
    monkeypatch.setattr(common, "ROOT", tmp_path)
    monkeypatch.setattr(common, "PAPERS", tmp_path / "papers")
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "papers").mkdir()
    monkeypatch.setenv("BENCHMARK_DATA", str(data))

    def parsed(*flags):
        monkeypatch.setattr(sys, "argv", ["toy", "--figures", str(tmp_path / "figures"), *flags])
        return Experiment.parse("toy")

    return parsed


def write(experiment, key, value):
    experiment.run(key, lambda: {"force_rmse": value})


def test_a_quick_run_finds_nothing_that_was_left(parse):
    first = parse("--quick")
    write(first, "a", 1.0)
    (first.folder / "stores").mkdir()
    again = parse("--quick")
    assert again.folder != first.folder
    assert not list(again.folder.iterdir())
    assert again.run("a", lambda: {"force_rmse": 2.0})["force_rmse"] == 2.0


def test_finished_runs_are_of_the_same_data_and_code(parse, monkeypatch, tmp_path):
    first = parse()
    write(first, "a", 1.0)
    assert parse().run("a", lambda: {"force_rmse": 2.0})["force_rmse"] == 1.0
    with monkeypatch.context() as patch:
        patch.setattr(kept, "made_by", lambda: "0.0.7")
        assert parse().run("a", lambda: {"force_rmse": 2.0})["force_rmse"] == 2.0
    (tmp_path / "data" / "more.xyz.xz").write_bytes(b"other structures")
    assert parse().folder != first.folder


def test_plan_is_what_the_scripts_say(parse, monkeypatch, tmp_path):
    script = tmp_path / "papers" / "toy.py"

    script.write_text("STEPS = 600")
    module = type(sys)("benchmarks.papers.toy")
    module.__file__ = str(script)
    monkeypatch.setitem(sys.modules, "benchmarks.papers.toy", module)
    first = parse().folder
    assert parse().folder == first
    script.write_text("STEPS = 700")
    assert parse().folder != first


def test_records_are_taken_where_they_are_asked_for_alone(parse, tmp_path):
    first = parse()
    write(first, "a", 1.0)
    first.finish()
    told = json.loads((tmp_path / "papers" / "records" / "toy.json").read_text())
    assert (told["made_by"], told["runs"]["a"]["force_rmse"]) == (kept.made_by(), 1.0)
    (tmp_path / "data" / "more.xyz.xz").write_bytes(b"other structures")
    assert parse("--recorded").run("a", lambda: {"force_rmse": 2.0})["force_rmse"] == 1.0
    assert not list(parse().folder.glob("*.json"))  # not left as if it had been run here
    assert parse().run("a", lambda: {"force_rmse": 2.0})["force_rmse"] == 2.0


def test_what_is_run_beside_records_joins_them(parse, tmp_path, monkeypatch):
    first = parse()
    write(first, "a", 1.0)
    first.finish()
    before = kept.made_by()
    monkeypatch.setattr(kept, "made_by", lambda: "later")
    second = parse("--recorded")
    second.finish()
    path = tmp_path / "papers" / "records" / "toy.json"
    assert json.loads(path.read_text())["made_by"] == before  # nothing was run
    write(second, "b", 2.0)
    second.finish()
    told = json.loads(path.read_text())
    assert {key: run["force_rmse"] for key, run in told["runs"].items()} == {"a": 1.0, "b": 2.0}
    assert (told["made_by"], told["others_made_by"]) == ("later", [before])


def test_records_of_the_first_version_are_read(parse, tmp_path):
    path = tmp_path / "papers" / "records" / "toy.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"a": {"force_rmse": 3.0}}))
    assert parse("--recorded").kept("a") == {"force_rmse": 3.0}


def test_absent_data_are_refused(parse):
    with pytest.raises(AbsentDataError, match="mlearn/Si_train.xyz.xz is not in"):
        parse().structures("mlearn/Si_train.xyz.xz", "transfer/Si.xyz.xz")
    assert len(parse("--quick").structures("mlearn/Si_train.xyz.xz", "transfer/h2co_ccsdt.xyz.xz")) > 0


@pytest.fixture(scope="module")
def examples(toy_structures):
    return read_examples(toy_structures)


def test_copies_are_in_one_part_alone(examples):
    twice = [*examples, *(replace(example, id=-example.id) for example in examples[:6])]
    parts = parted(twice, (0.3, 0.2))
    disjoint(**{str(place): part for place, part in enumerate(parts)})
    assert sum(map(len, parts)) < len(twice)
    assert len(parts[0]) == round(0.3 * len(twice))  # what is tested stays what it was
    assert without(twice, examples[:6]) == examples[6:]


@pytest.mark.parametrize("make", [Sets, lambda rest, test: ElementSets(rest, [], test)])
def test_sets_with_a_common_structure_are_refused(make, examples):
    make(examples[:6], examples[6:])
    with pytest.raises(LeakError, match="2 structures are both in"):
        make(examples[:8], examples[6:])

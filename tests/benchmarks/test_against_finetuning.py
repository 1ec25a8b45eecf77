"""The comparison with fine-tuning: what is run and chosen, what it costs, and where curves cross."""

import itertools
import json
from dataclasses import replace

import ase.io
import pytest

from benchmarks import sets
from benchmarks.against_finetuning import command, running, tables
from benchmarks.against_finetuning.points import FROZEN, Franken, Kernel, OnTuned, Point, Tuned, kernels
from benchmarks.sets import DataSet
from mekrr_scale.backbones import BackboneEnergies, BackboneSpec, load_backbone
from mekrr_scale.structures import read_structures
from mekrr_scale.transfer import errors_on, read_examples

POINTS = [
    Point("toy", 4, method, "7net-0")
    for method in (Kernel("scalars", 4, 20), Tuned(2, 1e-3, "interaction4", 2), OnTuned(), Franken())
]


@pytest.fixture
def toy(tmp_path, monkeypatch, toy_structures):
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path))
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    small = [atoms for atoms in toy_structures if len(atoms) <= 3]
    ase.io.write(tmp_path / "small.xyz", small, format="extxyz")
    monkeypatch.setitem(sets.SETS, "toy", DataSet("toy", ("small.xyz",), tested=2, directions=2))
    return tmp_path


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.kind)
def test_a_point_passes_to_its_process_whole(point, toy):
    assert Point.of(json.loads(json.dumps(point.to_dict()))) == point
    assert len({point.key, replace(point, frames=5).key, replace(point, network="7net-l3i5").key}) == 3


def test_networks_are_tuned_tested_and_kept(toy):
    """Errors are those of the kept network on frames that it has not seen; a kernel on its features costs both."""
    point = replace(POINTS[1], frames=6)
    found = running.run(point)
    kept = load_backbone(BackboneSpec("sevennet", checkpoint=str(running.checkpoint_of(point))))
    again = errors_on(BackboneEnergies(kept), read_examples(read_structures(point.data.test_frames())))
    assert found["errors"]["force_mae"] == pytest.approx(again.force_mae, rel=1e-4)
    assert [found["validation"]["step"], found["chosen_by"]] in [[step, forces] for step, _, forces in found["history"]]
    behind = running.run(replace(point, method=OnTuned(point.method, Kernel("scalars", 2, 20))))
    assert {name: behind["cpu"][name] for name in found["cpu"]} == found["cpu"]
    assert set(behind["cpu"]) == {*found["cpu"], "extraction", "fit"}
    assert min(behind["cpu"].values()) > 0
    assert behind["errors"]["force_mae"] != found["errors"]["force_mae"]


def test_cost_of_a_training_that_was_ended_is_that_of_all_its_steps(monkeypatch):
    clock = itertools.count(0.0, 30.0)
    monkeypatch.setattr(running, "cpu_seconds", lambda: next(clock))
    steps = running.Steps()
    steps.stage("train", 100, "steps")  # at 30 s
    steps.advance(40)  # of an earlier run
    for _ in range(60):
        steps.advance(1)
    assert steps.whole(100) == pytest.approx(30.0 * 100 / 60)


def made(point):
    """A runner's answer: more steps are better, the higher rate is worse held out than validation says."""
    at = point.method
    if not isinstance(at, Tuned):
        return {
            "errors": {"energy_mae": 1.0, "force_mae": 50.0, "force_rmse": 70.0},
            "chosen_by": 60.0,
            "cpu": {"fit": 9},
        }
    frozen = 10.0 * (1 + FROZEN.index(at.frozen)) if at.frozen else 0.0
    error = 1000.0 / at.steps + (5.0 if at.rate > 5e-4 else 0.0) + frozen
    errors = {"energy_mae": 1.0, "force_mae": error + 40.0 * (at.rate < 5e-4), "force_rmse": error}
    return {"errors": errors, "chosen_by": error, "cpu": {"training": 10.0 * at.steps}}


@pytest.fixture
def comparison(toy):
    asked = []

    def runner(point):
        asked.append(point.method)
        return made(point)

    found = command.Comparison(toy / "lines.jsonl", "7net-0", (10, 40, 160), (1e-3, 3e-4), runner)
    return found, asked


def test_rate_and_frozen_level_are_chosen_by_validation_and_nothing_runs_twice(comparison):
    compared, asked = comparison
    compared.of("toy", 4, ["finetune", "on tuned"])
    assert asked[:4] == [Tuned(40, 1e-3), Tuned(40, 3e-4), Tuned(10, 3e-4), Tuned(160, 3e-4)]
    assert asked[4:8] == [*(Tuned(40, 3e-4, block) for block in FROZEN), Tuned(160, 3e-4, FROZEN[0])]
    assert asked[8:] == [OnTuned(Tuned(160, 3e-4), Kernel())]
    compared.of("toy", 4, ["finetune", "on tuned"])
    assert len(asked) == 9


def test_a_method_that_fails_stops_no_other(toy, monkeypatch, capsys):
    def runner(point):
        if isinstance(point.method, Franken):
            raise RuntimeError("toy 4: ended with code 1")
        return made(point)

    monkeypatch.setattr(command, "in_process", runner)
    monkeypatch.setattr(command, "SETS", sets.SETS)
    monkeypatch.setenv("FRANKEN_PYTHON", "python")
    given = ["--sets", "toy", "--frames", "4", "--network", "7net-0", "--results", str(toy / "lines.jsonl")]
    with pytest.raises(SystemExit, match="1 failed, which the same command tries again: toy 4: ended with code 1"):
        command.main([*given, "--figure", str(toy / "figure.png")])
    told = capsys.readouterr()
    assert "failed: toy 4: ended with code 1" in told.err
    assert all(one in told.out for one in ("kernel, chosen by", "everything learns", "kernel on the tuned network"))


def test_kernel_points_grow_and_are_all_run(comparison):
    compared, asked = comparison
    compared.of("toy", 4, ["kernel"])
    assert asked == kernels("toy", 4, 3)
    assert {method.directions for method in asked} == {6, "all"}
    assert "all" not in {method.directions for method in kernels("toy", 100, 3)}


def test_tables_tell_what_methods_take_and_where_they_cross(comparison):
    compared, _ = comparison
    compared.of("toy", 4, ["kernel", "finetune"])
    records = compared.known("toy", 4)
    header, rows = tables.choices(records)
    by_method = {row[2]: dict(zip(header, row, strict=True)) for row in rows}
    everything = by_method["fine-tuning, everything learns"]
    assert everything["taken"] == "160 steps, lr 0.0003, all learns"  # by validation: held out the other rate is better
    assert everything["of all tried"] == 10 * (40 + 40 + 10 + 160)
    assert everything["force MAE against the kernel's"] == round((1000 / 160 + 40) / 50, 2)
    assert everything["CPU time against the kernel's"] == round(1600 / 9, 2)
    assert by_method["fine-tuning, best frozen level"]["taken"].endswith(f"frozen up to {FROZEN[0]}")
    _, rows = tables.crossings(records)
    assert rows[0][:3] == ["toy", 4, 9]


def panel(*points):
    kernel = {"kind": "kernel", "errors": {"force_mae": 50.0}, "chosen_by": 1.0, "cpu_seconds": 9.0}
    tuned = [
        {"kind": "finetune", "options": {"frozen": None}, "errors": {"force_mae": error}, "cpu_seconds": seconds}
        for seconds, error in points
    ]
    return [kernel, *tuned]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (((100.0, 100.0), (10000.0, 25.0)), 1000.0),  # half of the way in both logarithms
        (((100.0, 40.0), (10000.0, 25.0)), 100.0),
        (((100.0, 100.0), (10000.0, 51.0)), float("inf")),
    ],
)
def test_time_after_which_a_method_has_the_error_of_the_kernel(points, expected):
    assert tables.reached(panel(*points)) == pytest.approx(expected)


def test_points_are_run_in_processes_and_shown(toy, monkeypatch, capsys):
    monkeypatch.setattr(command, "in_process", made)
    monkeypatch.setattr(command, "SETS", sets.SETS)
    given = ["--sets", "toy", "--frames", "4", "--network", "7net-0", "--results", str(toy / "lines.jsonl")]
    given += ["--figure", str(toy / "figure.png")]
    command.main([*given, "--methods", "finetune", "--point", '{"steps": 7}'])
    assert "7 steps, lr 0.001, all learns" in capsys.readouterr().out
    command.main([*given, "--methods", "kernel"])
    told = capsys.readouterr().out
    assert "kernel, chosen by cross-validation" in told
    assert "fine-tuning, everything learns" in told
    assert (toy / "figure.png").stat().st_size > 1000


def test_a_process_that_fails_is_told():
    with pytest.raises(RuntimeError, match="nowhere 4, 3 steps.*ended with code 1"):
        command.in_process(Point("nowhere", 4, Tuned(3, 1e-3), "7net-0"))

"""Every benchmark that needs no development data, and the core of those that do, run small on toy features."""

import lzma
import re
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT

from benchmarks import (
    coverage_of_intervals,
    crossover,
    falkon_iterations,
    franken_comparison,
    gpu,
    hcoo_accuracy,
    kernel_rows,
    large_cells,
    mlearn_exact,
    nve,
    ranks,
    restarts,
    scaling,
    sizes,
    store_reading,
    tangents_of_some,
    uncertainty,
)
from benchmarks.data import structures, synthetic
from mekrr_scale.models import Model
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan, evaluate_store, fit
from mekrr_scale.structures import build_graph

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """One for all of these tests, and nothing that was left by others."""
    folder = tmp_path_factory.getbasetemp() / "benchmarks"
    monkeypatch.setenv("BENCHMARK_CACHE", str(folder))
    return folder


@pytest.fixture
def toy():
    """Features of random environments to fit, and others to test on."""
    return synthetic(60, 6, 8), synthetic(20, 6, 8, seed=1)


def rows_of(text):
    """Rows of the Markdown tables in a text, without headers."""
    rows = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in text.splitlines() if line[:1] == "|"]
    ruled = {i for i, row in enumerate(rows) if row[0].startswith("---")}
    return [row for i, row in enumerate(rows) if not ruled & {i, i + 1}]


def test_kernel_rows(capsys, monkeypatch):
    """A row for every processor, number of threads and kind of rows."""
    monkeypatch.setattr(kernel_rows, "THREADS", (1,))
    monkeypatch.delenv("BENCHMARK_BEFORE", raising=False)
    kernel_rows.main(6, 20, rounds=1)
    rows = rows_of(capsys.readouterr().out)
    listed = [
        [what, d, t] for d in ("64", "256") for t in ("float64", "float32") for what in ("energies", "derivatives")
    ]
    processors = list(dict.fromkeys(row[0] for row in rows))
    assert processors in (["AVX-512", "AVX2"], ["as it is"])
    assert [row[:5] for row in rows] == [[processor, "1", *what] for processor in processors for what in listed]
    for row in rows:
        assert float(row[7].split()[0]) == pytest.approx(100 * float(row[5]) / float(row[6]), rel=0.05, abs=1)


def test_store_reading_compares_with_maps_made_once(capsys):
    store_reading.main(200)
    rows = rows_of(capsys.readouterr().out)
    assert len(rows) == 4
    for row in rows:
        assert float(row[3].split()[0]) == pytest.approx(100 * float(rows[0][1]) / float(row[1]), rel=0.05, abs=1)


def test_scaling_tells_measured_peaks(capsys):
    """Of processes of their own: one that has run before has memory to spare, which no peak shows."""
    scaling.measure_all("toy", "synthetic", [200], [400, 1200])
    text = capsys.readouterr().out
    rows = rows_of(text)
    assert [int(row[0]) for row in rows] == [200, 400, 1200]
    assert float(rows[-1][4]) > 2 * 1200**2 * 8 / 1e6  # a Gram matrix and its factor, seen in memory
    assert "Exact, memory ~ n^" in text


def test_crossover_tells_the_peak_of_the_solution(toy, monkeypatch):
    train, test = toy
    monkeypatch.setattr(crossover, "grown", lambda n: train)
    monkeypatch.setattr(crossover, "training_and_test", lambda *_: (train, test))
    found = {solver: crossover.one_fit(solver, 60, m) for solver, m in (("exact", 0), ("direct", 30), ("falkon", 30))}
    for figures in found.values():
        assert figures["memory"] >= 0
        assert figures["seconds"] > 0
        assert 0 < figures["rmse"] < 1e3
    assert found["falkon"]["rmse"] == pytest.approx(found["exact"]["rmse"], rel=1)


def test_falkon_iterations(toy, monkeypatch, capsys):
    monkeypatch.setattr(falkon_iterations, "training_and_test", lambda *_: toy)
    falkon_iterations.main(40)
    rows = rows_of(capsys.readouterr().out)
    assert len(rows) == 9 + 12
    for row in rows[:9]:
        assert row[2] == f"not in {row[3]}" or int(row[2]) <= int(row[3]) <= 400
    for _, _, _, result, ratio in rows[9:]:
        assert result != "SUCCESS" or float(ratio) == pytest.approx(1.0, abs=0.01)


def test_mlearn_exact(toy, monkeypatch, capsys):
    monkeypatch.setattr(mlearn_exact, "REPEATS", 1)
    monkeypatch.setattr(mlearn_exact, "RIDGES", (1e-8, 1e-6, 1e-4))
    monkeypatch.setattr(mlearn_exact, "store", lambda name: toy[1])
    mlearn_exact.main(toy[1].n_atoms)  # all atoms: the exact solution itself
    ratios = re.findall(r"direct / exact: ([\d.]+)", capsys.readouterr().out)
    assert [float(ratio) for ratio in ratios] == pytest.approx([1, 1], abs=0.02)


def test_hcoo_accuracy(toy, monkeypatch, capsys):
    kernel = KernelPlan(length_scales="4x")
    plan = replace(hcoo_accuracy.CHOSEN, kernel=kernel, baseline="composition", landmarks=LandmarkPlan(count=40))
    monkeypatch.setattr(hcoo_accuracy, "training_and_test", lambda *_: toy)
    monkeypatch.setattr(hcoo_accuracy, "variants", lambda: [("small", "conv3", plan)])
    hcoo_accuracy.main()
    (row,) = rows_of(capsys.readouterr().out)
    expected = evaluate_store(fit(toy[0], plan).model, toy[1]).metrics()
    assert [float(row[3]), float(row[4])] == pytest.approx([expected["energy_mae"], expected["energy_rmse"]], rel=1e-2)


def test_sizes_compare_plan_and_peak():
    found = sizes.energies("direct", 300, 40)
    planned, measured, ratio = sizes.compared(found)[3:]
    assert (planned, measured) == (found["planned_mb"], found["mb"])
    assert ratio == pytest.approx(planned / measured)
    assert 0.3 < ratio < 3
    assert found["seconds"] > 0


def test_ranks():
    assert ranks.seconds_of_a_pass(300) > 0


def test_restarts_begin_with_a_plan_that_can_be_read():
    config = tomllib.loads(restarts.CONFIG.format(store="store"))
    assert config.pop("store") == ["store"]
    plan = FitPlan(**{**config, "baseline": config["baseline"]["kinds"]})
    assert (plan.solver.name, plan.solver.max_steps, plan.validation.folds) == ("falkon", 500, 0)


def test_gpu_small_on_a_cpu(capsys):
    gpu.fit("cpu", 400, 32, 16)
    assert "fit of 400 structures x 64 atoms, d = 16, M = 32" in capsys.readouterr().out


def test_large_cells_measure_what_halos_cost():
    """One piece is the whole; eight have most of a small cell each."""
    atoms = large_cells.copper(3)
    graph, side = build_graph(atoms, 4.0), float(atoms.cell[0, 0])
    assert large_cells.edges_of_pieces(graph, side, 1, 3) == 1
    near, far = (large_cells.edges_of_pieces(graph, side, 2, hops) for hops in (1, 3))
    assert 1 < near < far <= 8


def test_franken_ratios_compare_further_trials_with_further_trials(monkeypatch, capsys):
    ours = {"extraction": 60.0, "first": 9.0, "further": 2.0, "path": 1.0, "memory": 500.0}
    ours |= {"force_mae": 80.0, "energy_mae": 1.0}
    theirs = {"first": 200.0, "further": 50.0, "memory": 600.0, "force_mae": 180.0, "energy_mae": 3.0}
    monkeypatch.setattr(franken_comparison, "_measured", lambda side, *_: {"here": ours, "franken": theirs}[side])
    monkeypatch.setattr(franken_comparison.importlib.util, "find_spec", lambda _: True)
    franken_comparison.main()
    rows = rows_of(capsys.readouterr().out)
    assert rows[-1][4] == "50; 25 with folds; first 2.9"


def test_uncertainty_counts_what_is_within(toy):
    train, test = toy
    model = fit(train, replace(uncertainty.ENERGIES, landmarks=LandmarkPlan(count=40), baseline="composition")).model
    found = evaluate_store(model, test, uncertainty=True)
    count, within, wide, _ = uncertainty.table_row(found)
    error = abs(found.energy_predicted - found.energy)
    assert (count, within) == (20, round(float((error <= found.energy_uncertainty).mean()), 3))
    assert wide >= within


def test_coverage_by_splits_and_alarms(toy, monkeypatch, capsys):
    """Random parts and blocks hold no structure of what is fitted; every set that is drawn is counted."""
    monkeypatch.setattr(coverage_of_intervals, "store", lambda name: toy[0])
    monkeypatch.setattr(
        coverage_of_intervals, "PLAN", replace(uncertainty.ENERGIES, landmarks=40, baseline="composition")
    )
    monkeypatch.setattr(coverage_of_intervals, "DRAWN", {5: 2})
    monkeypatch.setattr(coverage_of_intervals, "SPLITS", 2)
    for name in ("toy", "water_pbe0ts/train"):
        for fitted, held in coverage_of_intervals.splits(name):
            assert not fitted.hashes() & held.hashes()
            assert len(fitted) + len(held) == 60
    coverage_of_intervals.main(("toy", "water_pbe0ts/train"))
    rows = rows_of(capsys.readouterr().out)
    assert [row[0] for row in rows[:2]] == ["toy, random", "water_pbe0ts/train, blocks"]
    assert [int(row[1]) for row in rows[:2]] == [36, 32]
    assert [row[1:3] for row in rows[2:]] == [["5", "4"], ["all", "2"]] * 2
    for row in rows[:2]:
        assert 0.0 < float(row[2]) <= float(row[3]) <= 1.0
    for row in rows[2:]:
        assert int(row[3]) <= int(row[2])
        assert (float(row[6]) > 1) == (int(row[3]) > 0)


def test_nve_tells_the_settings_of_its_run(model_file, toy_structures, monkeypatch):
    monkeypatch.setattr(nve, "relax", lambda atoms, *_, **__: atoms)
    case = nve.Case("toy, schnet", lambda: (Model.load(model_file), toy_structures[1].copy()), 0.5, 60.0, 0.01)
    name, atoms, timestep, length, temperature, _, seconds, _ = nve.run(case)
    assert (name, atoms, timestep, length) == ("toy, schnet", 5, "0.5", "0.01")
    assert temperature.endswith("(60)")
    assert len(seconds.split()) == nve.PARTS


def test_nve_of_the_docs_is_that_of_the_script():
    section = DOCS.read_text(encoding="utf-8").partition("## NVE")[2].partition("\n## ")[0]
    shown = {row[0]: (float(row[2]), float(row[3]), row[4].partition("(")[2]) for row in rows_of(section)}
    assert shown == {case.name: (case.timestep, case.length, f"{case.start_at:g})") for case in nve.CASES}


def test_tangents_of_some(tmp_path, monkeypatch, capsys):
    """A line for each way, and what energies alone are worth: between nothing and a frame with forces."""
    pytest.importorskip("sevenn")
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path))
    monkeypatch.setattr(tangents_of_some, "PLAN", FitPlan(KernelPlan(length_scales="4x"), LandmarkPlan(count=20)))
    rng = np.random.default_rng(0)
    for name, count in (("toy", 20), ("held", 5)):
        frames = []
        for _ in range(count):
            atoms = molecule("H2O")
            atoms.positions += 0.05 * rng.normal(size=(3, 3))
            atoms.calc = EMT()
            atoms.get_forces()
            frames.append(atoms)
        with lzma.open(tmp_path / f"{name}.xyz.xz", "wt") as stream:
            ase.io.write(stream, frames, format="extxyz")
    train, test = (partial(structures, f"{name}.xyz.xz") for name in ("toy", "held"))
    tangents_of_some.main([tangents_of_some.Set("toy", train, test, 10)])
    text = capsys.readouterr().out
    rows = rows_of(text)
    assert [row[1:3] for row in rows][:2] == [["none", "20"], ["12 x 1", "8"]]
    assert [row[2] for row in rows][-2:] == ["0", "0"]
    assert len(rows) == len(tangents_of_some.WAYS) + 3
    assert "exponent" in text

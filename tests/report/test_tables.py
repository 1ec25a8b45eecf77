"""Tables and figures hold what the reports' JSON holds: every cell, bar and line is looked at."""

from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from mekrr_scale import report
from mekrr_scale.backbones import BackboneEnergies, load_backbone
from mekrr_scale.pipeline import Evaluation, Resources, TransferTable
from mekrr_scale.simulation import Explanation, Selection
from mekrr_scale.simulation.pools import PoolMap
from mekrr_scale.solvers import Stage
from mekrr_scale.transfer import CurvePoint, DistillReport, PredictionErrors, TrainReport
from mekrr_scale.transfer.report import Record, ValidationErrors

matplotlib.use("Agg")


@pytest.fixture
def drawn(monkeypatch):
    """Figures that were written and would have been closed."""
    kept, close = [], plt.close
    monkeypatch.setattr(plt, "close", kept.append)
    yield kept
    monkeypatch.undo()
    for figure in kept:
        close(figure)


def cells(table):
    """Title and rows of a table of rich."""
    columns = [list(column.cells) for column in table.columns]
    return [column.header for column in table.columns], [list(row) for row in zip(*columns, strict=True)]


def numbers(texts):
    return [float(text) for text in texts]


@pytest.fixture(scope="module")
def evaluation():
    """Two water molecules and a carbon atom, with errors that differ by element and component."""
    forces = np.zeros((7, 3))
    off = np.array([[0.1, 0, 0], [0, -0.02, 0], [0, 0, 0.02], [0.3, 0, 0], [0, 0, 0], [0, 0.04, 0], [0.5, 0.5, -0.5]])
    return Evaluation(
        n_atoms=np.array([3, 3, 1]), energy=np.array([-3.0, -3.3, -1.0]), energy_predicted=np.array([-3.3, -3.3, -0.8]),
        baseline=np.zeros(3), forces=forces, forces_predicted=off, species=np.array([8, 1, 1, 8, 1, 1, 6]),
        stress=np.zeros((1, 6)), stress_predicted=np.array([[0.006, 0, 0, 0, 0, 0.0]]),
        counts=np.array([[2, 0, 1], [2, 0, 1], [0, 1, 0]]),
    )  # fmt: skip


def test_errors(evaluation):
    told = evaluation.to_dict()
    assert told["metrics"]["energy_mae"] == pytest.approx(1e3 * (0.1 + 0 + 0.2) / 3)
    assert told["metrics"]["energy_rmse"] == pytest.approx(1e3 * np.sqrt((0.01 + 0.04) / 3))
    assert told["metrics"]["stress_mae"] == pytest.approx(1.0)
    names, rows = cells(report.error_table([("here", told["metrics"]), ("there", {"structures": 2.0})]))
    kinds = ["energy MAE", "energy RMSE", "force MAE", "force RMSE"]
    assert names == ["data", "structures", *kinds, "stress MAE", "stress RMSE"]
    keys = ("structures", "energy_mae", "energy_rmse", "force_mae", "force_rmse", "stress_mae", "stress_rmse")
    assert numbers(rows[0][1:]) == pytest.approx([told["metrics"][key] for key in keys], abs=0.05)
    assert rows[1] == ["there", "2", *["-"] * 6]
    names, _ = cells(report.error_table([("there", {"structures": 2.0})]))  # no stress anywhere
    assert names == ["data", "structures", *kinds]
    _, rows = cells(report.dressed(evaluation.tables()[0]))
    for name, mae, rmse, unit in rows:
        assert float(mae) == pytest.approx(told["metrics"][f"{name}_mae"], rel=1e-3)
        assert float(rmse) == pytest.approx(told["metrics"][f"{name}_rmse"], rel=1e-3)
        assert unit == told["units"][name]
    assert [row[0] for row in rows] == ["energy", "force", "stress"]


def test_errors_by_element(evaluation, drawn, tmp_path):
    told = evaluation.to_dict()["forces_by_species"]
    assert told["O"] == {"atoms": 2, "mae": pytest.approx(400 / 6), "rmse": pytest.approx(1e3 * np.sqrt(0.1 / 6))}
    _, rows = cells(report.species_table(evaluation))
    assert [row[0] for row in rows] == list(told) == ["H", "C", "O"]
    for symbol, atoms, mae, rmse in rows:
        assert int(atoms) == told[symbol]["atoms"]
        assert numbers([mae, rmse]) == pytest.approx([told[symbol]["mae"], told[symbol]["rmse"]], abs=0.051)
    report.species_plot(tmp_path / "s.png", evaluation)
    (axes,) = drawn[0].axes
    bars = [[bar.get_height() for bar in group] for group in axes.containers]
    assert bars == [[told[s][key] for s in told] for key in ("mae", "rmse")]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["H\n4 atoms", "C\n1 atoms", "O\n2 atoms"]


def test_transfers(drawn, tmp_path):
    metrics = {name: np.array([[1.5, np.nan], [20.0, 300.0]]) * (1 + place)
               for place, name in enumerate(("energy_mae", "energy_rmse", "energy_rmse_shifted", "force_mae",
                                             "force_rmse"))}  # fmt: skip
    table = TransferTable(["a", "b"], ["x", "y"], metrics)
    told = table.to_dict()
    names, rows = cells(report.transfer_report(table))
    assert names == ["model", "x", "y"]
    assert rows[0] == ["a", "3 / 4.5 / 7.5", "- / - / -"]
    shown = ("energy_rmse", "energy_rmse_shifted", "force_rmse")
    for i, j in ((0, 0), (1, 0), (1, 1)):
        assert numbers(rows[i][1 + j].split(" / ")) == pytest.approx([told[n][i][j] for n in shown], rel=1e-2)
    assert told["energy_rmse"][0][1] is None
    report.transfer_plot(tmp_path / "t.png", table)
    texts = [[text.get_text() for text in axes.texts] for axes in drawn[0].axes]
    assert texts == [["3", "-", "40", "600"], ["4.5", "-", "60", "900"], ["7.5", "-", "100", "1.5e+03"]]


def test_candidates_of_a_fit(fitted):
    told = fitted.to_dict()
    names, rows = cells(report.trial_table(fitted))
    by = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    order = sorted(told["candidates"], key=lambda one: one["energy_rmse"])
    assert len(rows) == len(order) == len(fitted.tried)
    for key in ("energy", "force", "stress"):
        expected = [one[f"{key}_rmse"] for one in order]
        assert numbers(by[f"{key} rmse"]) == pytest.approx(expected, abs=5.1e-4)
    assert by["standardize"] == [one["standardize"] for one in order]
    assert by["baseline"] == [one["baseline"] for one in order]
    assert numbers(by["ridge"]) == pytest.approx([one["ridge"] for one in order], rel=0.05)
    assert numbers(by["rank"]) == [one["rank"] for one in order]
    assert [one for one, mark in zip(order, by["saved"], strict=True) if mark] == [told["chosen"]]
    assert numbers(by["alpha"]) == pytest.approx([one["alpha"] for one in order], rel=1e-2)


@pytest.fixture(scope="module")
def trained(spec):
    errors = [ValidationErrors(0.05, 0.3), ValidationErrors(0.002, 0.04), ValidationErrors(0.003, 0.05)]
    losses = ((float("nan"), 9.0), (4.0, 2.0), (1.0, 3.0))
    history = [Record(10 * i, i / 2, 1e-3 / (1 + i), *losses[i], errors[i]) for i in range(3)]
    return TrainReport(load_backbone(spec), history, history[1], 20, {"embedding": 0.0, "output": 1e-3})


def test_trainings(trained, drawn, tmp_path):
    told = trained.to_dict()
    names, rows = cells(report.training_table(trained))
    assert names == ["", "step", "loss", "energy", "forces", "stress"]
    assert rows[0] == ["before", "0", "9", "50", "300", "-"]
    assert rows[1] == ["kept", "10", "2", "2", "40", "-"]
    assert told["errors"] == {"energy": 0.002, "forces": 0.04}
    assert (told["steps"], told["best_step"], told["rates"]) == (20, 10, {"embedding": 0.0, "output": 1e-3})
    assert "embedding frozen, output 1.0e-03" in trained.tables()[0].caption
    report.training_plot(tmp_path / "t.png", trained)
    losses, energy, force, rate = drawn[0].axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in losses.lines}
    assert lines["training"] == [[10, 4], [20, 1]]
    assert lines["validation (averaged weights)"] == [[0, 9], [10, 2], [20, 3]]
    for axes, values in ((energy, (50, 2, 3)), (force, (300, 40, 50)), (rate, (1e-3, 5e-4, 1e-3 / 3))):
        np.testing.assert_allclose(axes.lines[0].get_ydata(), values)
    assert energy.lines[1].get_xdata() == [10, 10]  # the weights that were kept


def test_distillations(trained):
    to_teacher, to_truth, teacher = (PredictionErrors(*(k * np.arange(1.0, 6.0))) for k in (1, 10, 100))
    found = DistillReport(
        trained.backbone, BackboneEnergies(trained.backbone), 30, 6, to_teacher, to_truth, teacher, (0.2, 0.04)
    )
    told = found.to_dict()
    _, rows = cells(report.distill_table(found))
    by = {row[0]: row[1:] for row in rows}
    for name, key in (("student against teacher", "student_to_teacher"), ("teacher against truth", "teacher_to_truth"),
                      ("student against truth", "student_to_truth")):  # fmt: skip
        assert numbers(by[name][:2]) == [told[key]["energy_rmse_shifted"], told[key]["force_rmse"]]
    assert [by[name][2] for name in by] == ["", "200", "40"]
    assert told["seconds"] == {"teacher": 0.2, "student": 0.04}
    assert found.speed_up == pytest.approx(5.0)
    unknown = replace(found, to_truth=None, teacher_to_truth=None)
    assert cells(report.distill_table(unknown))[1][2][1:] == ["-", "-", "40"]
    bars = [[bar.get_height() for bar in group] for group in found.plot().containers]
    assert bars == [[4, 400, 40], [5, 500, 50]]
    plt.close("all")


def test_learning_curves(drawn, tmp_path):
    points = [
        CurvePoint(
            variant,
            size,
            repeat,
            1.0,
            scale * (2 + repeat) / size,
            1.0,
            1.0,
            scale * (10 + 4 * repeat) / size,
            None,
            1.0,
        )
        for variant, scale in (("kernel", 1.0), ("scratch", 5.0))
        for size in (20, 10)
        for repeat in (0, 1)
    ]
    names, rows = cells(report.curve_table(points))
    assert names == ["variant", "structures", "energy RMSE", "force RMSE", "lowest", "highest"]
    assert ["kernel", "10", "0.25", "1.2", "1", "1.4"] in rows
    assert ["scratch", "20", "0.625", "3", "2.5", "3.5"] in rows
    assert len(rows) == 4
    report.curve_plot(tmp_path / "c.png", points)
    force, energy = drawn[0].axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in force.lines}
    assert lines == {"kernel": [[10, 1.2], [20, 0.6]], "scratch": [[10, 6.0], [20, 3.0]]}
    band = force.collections[0].get_paths()[0].vertices
    assert (band[band[:, 0] == 10, 1].min(), band[band[:, 0] == 10, 1].max()) == (1.0, 1.4)
    assert energy.lines[0].get_ydata().tolist() == [0.25, 0.125]
    nothing = [replace(point, force_rmse=float("nan")) for point in points]
    assert cells(report.curve_table(nothing))[1][0][3:] == ["-", "-", "-"]
    report.curve_plot(tmp_path / "d.png", nothing)
    assert len(drawn[1].axes) == 1


def explanation(shift):
    species = torch.tensor([8, 1, 1])
    return Explanation(
        species, torch.tensor([-2.0 + shift, -0.5, -0.7]).double(), torch.tensor([-1.5, -0.5, -0.5]).double(),
        torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6 + shift, 0.3]]).double(), torch.tensor([[0, 1], [2, 3], [3, 2]]),
    )  # fmt: skip


def test_contributions(drawn, tmp_path):
    found = explanation(0.0)
    told = found.to_dict()
    assert told["contributions"] == pytest.approx([-0.5, 0.0, -0.2])
    _, rows = cells(report.dressed(found.tables()[0]))
    assert rows == [["H", "2", "-0.2000", "0.1000"], ["O", "1", "-0.5000", "0.0000"]]
    _, rows = cells(report.contribution_table({"H": (4, -0.1, 0.1), "O": (2, -0.25, 0.05)}))
    assert rows == [["H", "4", "-0.1000", "0.1000"], ["O", "2", "-0.2500", "0.0500"]]
    report.contribution_plot(tmp_path / "c.png", [found, explanation(0.1)])
    parts, nearest = drawn[0].axes
    medians = [[line.get_ydata()[0] for line in axes.lines if line.get_color() == "C1"] for axes in (parts, nearest)]
    assert medians[0] == pytest.approx([-0.1, -0.45])  # of 0, -0.2, 0, -0.2 and of -0.5, -0.4
    assert medians[1] == pytest.approx([0.75, 0.9])  # of 0.8, 0.6, 0.8, 0.7 and of 0.9, 0.9
    labels = [label.get_text() for label in parts.get_xticklabels()]
    assert labels == ["H\n4 atoms", "O\n2 atoms"]


def test_selections():
    before, left = torch.tensor([[0.02, 0.01], [0.02, 0.005]], dtype=torch.float64)
    drawn = PoolMap(torch.zeros(3, 2), torch.arange(3), torch.zeros(9, 2), (7, 2))
    found = Selection((7, 2), before, left, torch.full((9,), 0.01, dtype=torch.float64), drawn)
    assert cells(report.dressed(found.tables()[0]))[1] == [["7", "20", "20"], ["2", "10", "5"]]
    assert found.to_dict()["remaining"] == [0.02, 0.005]


def test_blocks(spec):
    backbone = load_backbone(spec)
    _, rows = cells(report.block_table(backbone))
    assert [row[0] for row in rows] == list(backbone.blocks())
    learning = backbone.parameters()
    assert [int(row[2]) for row in rows] == [sum(w.numel() for w in learning[name].values()) for name in learning]
    embedding = 100 * 16  # of torch_geometric's SchNet: an embedding of 100 elements in 16 channels
    assert int(rows[0][1]) == embedding


def test_resources():
    stages = [Stage("first", 2e6, 30.0, 4), Stage("second", 3e9, 7200.0, 1.5, "a remark")]
    found = Resources(2, 1000, 50, 1e8, "memory", 4e5, stages, seconds_iteration=0.25)
    table = report.resource_table(found)
    assert cells(table)[1] == [["first", "102 MB", "4", "30 s", ""], ["second", "3.1 GB", "1.5", "2.0 h", "a remark"]]
    assert table.title == "Plan, each of 2 ranks"
    assert "1000 rows of 50 columns; 3.1 GB at most, 2.0 h and 0.25 s an iteration; rows kept: memory (400 kB)" in (
        " ".join(table.caption.split())
    )
    assert (found.peak_bytes, found.seconds, found.passes) == (3.1e9, 7230.0, 5.5)
    one = report.resource_table(replace(found, ranks=1, kept="nothing", seconds_iteration=0.0, stages=stages[:1]))
    assert one.title == "Plan"
    assert one.caption.endswith("rows kept: nothing")


def test_parity(evaluation, fitted, drawn, tmp_path):
    """Energies less the baseline around their mean, in meV/atom, forces in meV/angstrom; folds behind."""
    report.parity_plot(tmp_path / "p.png", evaluation, (fitted.reference.numpy(), fitted.predicted.numpy()), "errors")
    left, right = drawn[0].axes
    folds, points = (found.get_offsets() for found in left.collections[:2])
    assert len(folds) == len(fitted.reference)
    error = 1e3 * (fitted.predicted - fitted.reference)
    np.testing.assert_allclose((folds[:, 1] - folds[:, 0]).data, error.numpy(), atol=1e-6)
    np.testing.assert_allclose((points[:, 1] - points[:, 0]).data, [-100, 0, 200], atol=1e-9)
    np.testing.assert_allclose(right.collections[0].get_offsets()[:, 1], 1e3 * evaluation.forces_predicted.ravel())
    (label,) = [text.get_text() for text in right.get_legend().get_texts()]
    assert label.startswith(f"evaluated, N = {evaluation.forces.size}:\nMAE ")
    assert label.endswith(" meV/Å")
    assert drawn[0].get_suptitle() == "errors"

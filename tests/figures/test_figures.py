"""Reports show themselves in a few lines, as tables of a notebook, as plain values and as axes."""

import json
import pickle
from dataclasses import replace
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import torch

from mekrr_scale.errors import ConfigError
from mekrr_scale.figures import Cloud, TextTable, centred, choice_axes, new_axes, parity_axes, power_axes, spread_axes
from mekrr_scale.models import Model, Potential
from mekrr_scale.pipeline import ExtractPlan, ExtractReport, evaluate, extract, transfer_table
from mekrr_scale.report import dressed, parity_plot, species_plot, training_plot, transfer_plot
from mekrr_scale.simulation import explain, select
from mekrr_scale.transfer import TrainPlan, TrainReport, pretrain, read_examples
from tests.transfer.test_transfer import small

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture(scope="module")
def evaluation(model_file, toy_structures):
    return evaluate(Potential(Model.load(model_file), dtype=torch.float64), toy_structures, uncertainty=True)


def test_tables_are_aligned_and_escaped():
    table = TextTable("a < b", ("", "x"), (("one", "1"), ("<two>", "22")), "note")
    assert table.text().splitlines() == ["a < b", "        x", "one     1", "<two>  22", "note"]
    assert "&lt;two&gt;" in table.html()
    assert "text-align:right" in table.html()
    assert dressed(table).row_count == 2


def reports(evaluation, model_file, toy_structures, spec, folder):
    potential = Potential(Model.load(model_file), dtype=torch.float64)
    examples = read_examples(toy_structures)
    return [
        evaluation,
        extract(toy_structures, folder / "f", ExtractPlan(spec)),
        transfer_table(["a", "b"], ["x"], {(0, 0): evaluation}),
        select(potential, toy_structures, 7),
        explain(potential, toy_structures[1]),
        pretrain(small(), examples[:12], examples[12:], TrainPlan(steps=3, stress_weight=0.0)),
    ]


def test_reports_are_short(evaluation, model_file, toy_structures, spec, tmp_path):
    for report in reports(evaluation, model_file, toy_structures, spec, tmp_path):
        shown = repr(report)
        assert 2 <= len(shown.splitlines()) <= 8, shown
        assert len(shown) < 800
        assert "tensor(" not in shown
        assert "array(" not in shown
        assert report._repr_html_().count("<table>") >= 1
        plain = report.to_dict()
        if not isinstance(report, TrainReport):  # whose first mean is that of no step
            json.dumps(plain, allow_nan=False)
        axes = report.plot()
        for one in axes if isinstance(axes, list) else [axes]:
            assert isinstance(one, matplotlib.axes.Axes)


def test_an_evaluation_shows_its_metrics(evaluation):
    shown, metrics = repr(evaluation), evaluation.metrics()
    assert shown.startswith("Evaluation of 24 structures")
    assert f"{metrics['energy_rmse']:.4g}" in shown
    assert "meV/angstrom" in shown
    assert "Forces by element" in evaluation._repr_html_()
    assert pickle.loads(pickle.dumps(evaluation)).metrics() == metrics


def test_an_evaluation_plots_what_it_holds(evaluation):
    left, right = evaluation.plot()
    points = left.collections[0].get_offsets()
    assert len(points) == 24
    error = points[:, 1] - points[:, 0]
    assert np.sqrt((error**2).mean()) == pytest.approx(evaluation.metrics()["energy_rmse"], rel=1e-6)
    assert len(right.collections[0].get_offsets()) == evaluation.forces.size
    mine = new_axes(4, 4)
    assert evaluation.plot(mine[0]) == mine
    folds = (np.zeros(5), np.ones(5))
    assert len(evaluation.plot(folds=folds)[0].collections) == 2
    assert len(replace(evaluation, forces=np.empty((0, 3)), forces_predicted=np.empty((0, 3))).plot()) == 1


def test_an_unfinished_store_has_no_figure():
    with pytest.raises(ConfigError, match="not complete"):
        ExtractReport(written=3).plot()
    assert "3 structures written" in repr(ExtractReport(written=3))


@pytest.mark.parametrize("largest", [7100.0, 93.0, 0.4])
def test_numbers_of_a_parity_figure_stay_apart(largest):
    """On one of two axes side by side, as evaluations draw them."""
    ends = np.array([-largest, largest])
    _, axes = new_axes(9, 4.4, 2)
    parity_axes([Cloud(ends, ends, "all")], "force components", axes)
    axes.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert len(boxes) > 3
    assert all(left.x1 + 4 < right.x0 for left, right in pairwise(boxes))


def test_clouds_share_their_centre():
    first, second = centred([Cloud(np.arange(3.0), np.arange(3.0), "a"), Cloud(np.array([9.0]), np.array([8.0]), "b")])
    assert first.reference.tolist() == [-1.5, -0.5, 0.5]
    assert second.predicted.tolist() == [6.5]
    assert parity_axes([], "nothing").get_xlabel() == "reference nothing"


def test_figures_in_files(evaluation, model_file, toy_structures, spec, tmp_path):
    *_, trained = reports(evaluation, model_file, toy_structures, spec, tmp_path)
    parity_plot(tmp_path / "p.png", evaluation, (np.zeros(5), np.ones(5)), "title")
    parity_plot(tmp_path / "q.png", folds=(np.zeros(5), np.ones(5)))
    species_plot(tmp_path / "s.png", evaluation)
    transfer_plot(tmp_path / "t.png", transfer_table(["a"], ["x"], {(0, 0): evaluation}))
    training_plot(tmp_path / "u.png", trained)
    for name in "pqstu":
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    import matplotlib.pyplot as plt

    assert not plt.get_fignums()


@pytest.mark.parametrize(("largest", "scale"), [(3.0, "linear"), (27.3, "log")])
def test_no_structure_is_lost_between_the_bars(largest, scale):
    values = np.array([*np.linspace(0.3, 1.5, 39), largest])
    axes = spread_axes(values, values[-5:], "uncertainty (meV/atom)")
    heights = [bar.get_height() for bar in axes.patches]
    assert (sum(heights[:30]), sum(heights[30:])) == (40, 5)
    assert axes.get_xscale() == scale
    assert choice_axes(values[::-1][:9], values[::-1][:9], "uncertainty (meV/atom)").get_yscale() == scale


@pytest.mark.parametrize(("exponent", "told"), [(0.254, "~ N^-0.25"), (0.0, "no less with more data")])
def test_a_learning_curve_tells_its_exponent_where_there_is_one(exponent, told):
    axes = power_axes([10, 20, 40], [3.0, 2.5, 2.0], (5.0, exponent), "energy RMSE (meV/atom)")
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["cross-validated", told, "twice the data"]

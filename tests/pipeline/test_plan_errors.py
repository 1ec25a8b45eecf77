"""Plans and stores that do not go together."""

from dataclasses import replace

import pytest
from torch.distributed import HashStore

from mekrr_scale.distributed import Group
from mekrr_scale.errors import ConfigError
from mekrr_scale.files import parse_bytes
from mekrr_scale.models import MekrrCalculator
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, RowPlan, Validation, fit
from mekrr_scale.pipeline.fitting import FitData
from mekrr_scale.simulation import Bounds, MdPlan
from mekrr_scale.solvers import Direct, Exact
from mekrr_scale.transfer import CurvePlan


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExtractPlan(part=(1, 10**9)), "part 1/1000000000: there are at most"),
        (lambda: ExtractPlan(seed=-1), r"ExtractPlan.seed: .*greater than or equal to 0 \(got -1\)"),
        (lambda: ExtractPlan(shard_work=-1), "-1 is no amount of work per shard"),
        (lambda: KernelPlan(alphas=(2.0,)), r"alpha is 2.0; it mixes between 0 \(all species alike\) and 1 \(apart\)"),
        (
            lambda: KernelPlan("polynomial", parameters={"degree": 2.5}),
            r"degree 2\.5: write a whole number, e\.g\. degree",
        ),
        (lambda: KernelPlan(parameters="length_scale=7"), r"give length scales \(--length-scale\) instead"),
        (lambda: FitPlan(landmarks="many"), r"FitPlan.landmarks.*\(got 'many'\)|there is no"),
        (lambda: fit([]), "no store was given to fit"),
        (lambda: parse_bytes("-3G"), "'-3G' is negative; write a size such as 2G"),
        (lambda: MdPlan(pressure=float("inf")), r"MdPlan.pressure: Input should be a finite number \(got inf\)"),
        (lambda: Bounds(every=0), r"Bounds.every: Input should be greater than or equal to 1 \(got 0\)"),
        (lambda: CurvePlan(5, "kernel", repeats=0), r"CurvePlan.repeats: .* equal to 1 \(got 0\)"),
        (lambda: CurvePlan(5, "kernel", derivatives=0), r"CurvePlan.derivatives: .* equal to 1 \(got 0\)"),
        (lambda: CurvePlan((), "kernel"), "a learning curve needs sizes, variants and learning rates, all positive"),
        (lambda: MdPlan(seed=-1), r"MdPlan.seed: Input should be greater than or equal to 0 \(got -1\)"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_solvers_of_one_process(store, small_plan):
    plan = replace(small_plan, solver=Exact((1e-6,)))
    with pytest.raises(ConfigError, match="solver 'exact' runs in one process, not in 2; take direct or falkon"):
        FitData.open(store, plan, group=Group(0, 2, store=HashStore()))


def test_sums_are_those_of_stores_of_equal_weight(store, small_plan, tmp_path):
    plan = replace(small_plan, rows=RowPlan(store_weights=(2.0,)))
    with pytest.raises(ConfigError, match="--sums keeps the sums of one kernel and of stores of equal weight"):
        fit(store, plan, sums=tmp_path / "sums")


def test_sums_look_for_no_outliers(store, small_plan, tmp_path):
    plan = replace(small_plan, rows=RowPlan(drop_outliers=True))
    with pytest.raises(ConfigError, match="--sums looks for no outliers, .*; leave --drop-outliers out"):
        fit(store, plan, sums=tmp_path / "sums")
    assert not (tmp_path / "sums").exists()


def test_nothing_to_draw_without_folds(store, small_plan):
    plan = replace(
        small_plan, landmarks=20, validation=Validation(folds=0), solver=Direct((1e-6,)),
        rows=RowPlan(weights={"force": 1e-2}),
    )  # fmt: skip
    report = fit(store, plan)
    with pytest.raises(
        ConfigError, match="nothing was cross-validated, so that there is nothing to draw; fit with folds"
    ):
        report.plot()
    assert "cross-validated: nothing" in report.headline()


def test_precisions(model_file):
    with pytest.raises(ConfigError, match="dtype 'float16': there is no such precision. Do you mean"):
        MekrrCalculator(model_file, dtype="float16")

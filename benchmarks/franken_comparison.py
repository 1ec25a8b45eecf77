"""Side by side with franken 0.7.0 on 3BPA: the same SevenNet-0 features, frames and machine.

Needs `pip install franken==0.7.0` beside the extras `sevennet`. A trial is a new (length scale,
alpha, M) with the whole path over ridge and force weight: landmarks, whitening, rows and solves
here, covariances and solves there. Both sides choose ridge and force weight with the hundred test
frames' errors left out of sight here (five-fold cross-validation), and in favour of franken by
those errors themselves.
"""

import importlib.util
import logging
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.bpa_forces import PLAN, SPEC, errors, frames, sized, store
from benchmarks.data import anonymous_mb, table
from mekrr_scale.arrays import ByKind
from mekrr_scale.backbones import load_backbone
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, fit_transform
from mekrr_scale.landmarks import Displaced, median_distance
from mekrr_scale.models import Model, fit_baseline
from mekrr_scale.pipeline import Validation, fit
from mekrr_scale.regression import Problem, Run, Source
from mekrr_scale.solvers import direct_work, weight_paths


def franken_trial(count: int, features: int, length_scale: float) -> tuple[float, Callable[[], dict[str, float]], int]:
    """Seconds of a trial, a function that evaluates its best solution, and the number of solutions."""
    import numpy as np
    from franken.autotune.script import init_loaders
    from franken.config import GaussianRFConfig, SevennBackboneConfig
    from franken.rf.model import FrankenPotential
    from franken.trainers.log_utils import DataSplit
    from franken.trainers.rf_cuda_lowmem import RandomFeaturesTrainer
    from sevenn.util import pretrained_name_to_path

    logging.disable(logging.WARNING)
    backbone = SevennBackboneConfig(pretrained_name_to_path("7net-0"))
    loaders = init_loaders(backbone, frames(count), None, frames(0, test=True))
    trainer = RandomFeaturesTrainer(loaders["train"], device="cpu", dtype="float64", save_fmaps=False)
    species = loaders["train"].dataset.num_species  # type: ignore[attr-defined]
    kernel = GaussianRFConfig(features, length_scale=length_scale)
    model = FrankenPotential(backbone, kernel, num_species=species, jac_chunk_size=9)
    grid: dict[str, Any] = {
        "l2_penalty": np.logspace(-11, -6, 6).tolist(),
        "force_weight": np.linspace(0.01, 0.99, 10).tolist(),
    }
    start = time.perf_counter()
    logs, weights = trainer.fit(model, grid)
    taken = time.perf_counter() - start

    def evaluated() -> dict[str, float]:
        found = trainer.evaluate(model, loaders["test"], logs, weights, metrics=["energy_MAE", "forces_MAE"])
        best = min(found, key=lambda log: log.get_metric("forces_MAE", DataSplit.TEST))
        return {
            "force_mae": best.get_metric("forces_MAE", DataSplit.TEST),
            "energy_mae": best.get_metric("energy_MAE", DataSplit.TEST),
        }

    return taken, evaluated, len(logs)


def trial(count: int, landmarks: int) -> tuple[float, Model]:
    """A whole fit here: the path and its five-fold cross-validation, which chooses the model."""
    plan = replace(sized(PLAN, landmarks), validation=Validation(uncertainty=False))
    data, _ = store(count, "all")
    start = time.perf_counter()
    report = fit(data, plan)
    return time.perf_counter() - start, report.model


def path_alone(count: int, landmarks: int) -> float:
    """What a trial is there: landmarks, whitening, rows, and solutions of all ridges and weights on all frames."""
    data, _ = store(count, "all")
    moved = replace(data, tangents=True)
    start = time.perf_counter()
    transform = fit_transform(data, "scale-per-species")
    unit = SetKernel(Gaussian(1.0), SpeciesMixing(1.0), "sum", transform)
    kernel = replace(unit, atom=Gaussian(4.0 * median_distance(data, unit.transform, 0)))
    chosen = Displaced(landmarks).select(moved, kernel)
    problem = Problem(kernel, chosen, fit_baseline(data, "composition"))
    whitening = problem.whitening()
    moments = PLAN.solver.accumulate(problem, problem.rows(Source(data, moved)), whitening, Run())
    weights = [ByKind.from_list([1.0, w], 0.0) for w in PLAN.rows.weights["force"]]
    found = weight_paths(direct_work.normals(moments, [0]), weights, PLAN.solver.ridges)
    for solution in found.values():
        whitening.coefficients(solution)
    return time.perf_counter() - start


def main() -> None:
    if importlib.util.find_spec("franken") is None:
        print("franken is not installed here; pip install franken==0.7.0 sevenn", file=sys.stderr)
        return
    warnings.simplefilter("ignore")
    backbone = load_backbone(SPEC)
    frames(0, test=True)
    rows: list[list[object]] = []
    for count, here, there in ((25, 1000, 1024), (25, 2000, 4096)):
        _, extraction = store(count, "all")
        trial(count, here)  # warm: files in the page cache, as they are for every trial but the first
        taken, model = trial(count, here)
        path = min(path_alone(count, here) for _ in range(3))
        found = errors(model, backbone)
        memory = anonymous_mb()
        first = extraction + taken if extraction else float("nan")
        nan = float("nan")
        name = f"here, M = {here}, path and five folds"
        rows.append([count, name, first, taken, nan, found["force_mae"], found["energy_mae"], round(memory)])
        rows.append([count, f"here, M = {here}, path", nan, path, nan, nan, nan, round(memory)])
        print(*rows[-1], sep=" | ", flush=True)
        other, evaluated, _ = franken_trial(count, there, 16.0)
        errors_there = evaluated()
        ratio = f"{other / path:.0f}; {other / taken:.0f} with folds"
        name = f"franken, {there} features"
        figures = [errors_there["force_mae"], errors_there["energy_mae"]]
        rows.append([count, name, other, other, ratio, *figures, round(anonymous_mb())])
        print(*rows[-1], sep=" | ", flush=True)
    print(f"\n{torch.get_num_threads()} threads; seconds, meV/angstrom, meV/atom, MB of anonymous memory\n")
    header = ["frames", "method", "first model", "further trial", "times ours", "force MAE", "energy MAE", "memory"]
    table(header, rows)

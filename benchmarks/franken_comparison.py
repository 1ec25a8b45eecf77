"""Side by side with franken 0.7.0 on 3BPA: the same SevenNet-0 features, frames and machine.

Needs `pip install franken==0.7.0` beside the extras `sevennet`. Each side runs in a process of its own, whose
first trial is the cold one, and whose further trials are the best of as many on both sides. A trial is a new (length scale,
alpha, M) with the whole path over ridge and force weight: landmarks, whitening, rows and solves
here, covariances and solves there. Both sides choose ridge and force weight with the hundred test
frames' errors left out of sight here (five-fold cross-validation), and in favour of franken by
those errors themselves.
"""

import importlib.util
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from typing import Any

import torch

from benchmarks.bpa_forces import PLAN, SPEC, errors, extraction, frames, sized, test_frames
from benchmarks.data import ROOT
from benchmarks.measuring import Peak, alike, table
from mekrr_scale.arrays import ByKind
from mekrr_scale.backbones import load_backbone
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, fit_transform
from mekrr_scale.landmarks import Displaced, median_distance
from mekrr_scale.models import fit_baseline
from mekrr_scale.pipeline import Validation, extract, fit
from mekrr_scale.regression import Problem, Run, Source
from mekrr_scale.solvers import direct_work, weight_paths
from mekrr_scale.store import FeatureStore

REPEATS = 3


def franken_trials(count: int, features: int) -> dict[str, float]:
    """Seconds of the first trial and of further ones, peak memory, and errors of the best solution."""
    import numpy as np
    from franken.autotune.script import init_loaders
    from franken.config import GaussianRFConfig, SevennBackboneConfig
    from franken.rf.model import FrankenPotential
    from franken.trainers.log_utils import DataSplit
    from franken.trainers.rf_cuda_lowmem import RandomFeaturesTrainer
    from sevenn.util import pretrained_name_to_path

    logging.disable(logging.WARNING)
    backbone = SevennBackboneConfig(pretrained_name_to_path("7net-0"))
    loaders = init_loaders(backbone, frames(count), None, test_frames())
    trainer = RandomFeaturesTrainer(loaders["train"], device="cpu", dtype="float64", save_fmaps=False)
    species = loaders["train"].dataset.num_species  # type: ignore[attr-defined]
    kernel = GaussianRFConfig(features, length_scale=16.0)
    grid: dict[str, Any] = {
        "l2_penalty": np.logspace(-11, -6, 6).tolist(),
        "force_weight": np.linspace(0.01, 0.99, 10).tolist(),
    }
    found: list[Any] = []
    new = [FrankenPotential(backbone, kernel, num_species=species, jac_chunk_size=9) for _ in range(REPEATS + 1)]

    def trial() -> None:
        model = new.pop()  # loaded before: its time is not counted
        found[:] = [model, *trainer.fit(model, grid)]

    with Peak() as peak:
        ((cold, warm),) = alike([trial], REPEATS)
    model, logs, weights = found
    tested = trainer.evaluate(model, loaders["test"], logs, weights, metrics=["energy_MAE", "forces_MAE"])
    best = min(tested, key=lambda log: log.get_metric("forces_MAE", DataSplit.TEST))
    errors = {"force_mae": best.get_metric("forces_MAE", DataSplit.TEST), "energy_mae": best.get_metric("energy_MAE", DataSplit.TEST)}  # fmt: skip
    return {"first": cold, "further": warm, "memory": peak.most, **errors}


def our_trials(count: int, landmarks: int) -> dict[str, float]:
    """The same of whole fits here, with the extraction of tangents before the first, and of the path alone."""
    plan = replace(sized(PLAN, landmarks), validation=Validation(uncertainty=False))
    with tempfile.TemporaryDirectory() as folder, Peak() as peak:
        start = time.perf_counter()
        extract(frames(count), folder, extraction("all"))
        taken = time.perf_counter() - start
        data = FeatureStore(folder)
        (cold, warm), (_, path) = alike([lambda: fit(data, plan), lambda: path_alone(data, landmarks)], REPEATS)
        model = fit(data, plan).model
    tested = errors(model, load_backbone(SPEC))
    shown = {key: tested[key] for key in ("force_mae", "energy_mae")}
    return {"extraction": taken, "first": cold, "further": warm, "path": path, "memory": peak.most, **shown}


def path_alone(data: FeatureStore, landmarks: int) -> None:
    """What a trial is there: landmarks, whitening, rows, and solutions of all ridges and weights on all frames."""
    moved = replace(data, tangents=True)
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


def main() -> None:
    if importlib.util.find_spec("franken") is None:
        print("franken is not installed here; pip install franken==0.7.0 sevenn", file=sys.stderr)
        return
    rows: list[list[object]] = []
    nan = float("nan")
    for count, here, there in ((25, 1000, 1024), (25, 2000, 4096)):
        ours, theirs = _measured("here", count, here), _measured("franken", count, there)
        first = ours["extraction"] + ours["first"]
        whole = [ours["force_mae"], ours["energy_mae"], round(ours["memory"])]
        rows.append([count, f"here, M = {here}, path and five folds", first, ours["further"], nan, *whole])
        rows.append([count, f"here, M = {here}, path", nan, ours["path"], nan, nan, nan, round(ours["memory"])])
        times = f"{theirs['further'] / ours['path']:.0f}; {theirs['further'] / ours['further']:.0f} with folds"
        ratio = f"{times}; first {theirs['first'] / first:.1f}"
        figures = [theirs["force_mae"], theirs["energy_mae"], round(theirs["memory"])]
        rows.append([count, f"franken, {there} features", theirs["first"], theirs["further"], ratio, *figures])
        for row in rows[-3:]:
            print(*row, sep=" | ", flush=True)
    print(
        f"\n{torch.get_num_threads()} threads; further trials: best of {REPEATS} after the first, on both sides; the first"
    )
    print("model here includes its extraction; seconds, meV/angstrom, meV/atom, peak MB of a process\n")
    header = ["frames", "method", "first model", "further trial", "times ours", "force MAE", "energy MAE", "memory"]
    table(header, rows)


def _measured(side: str, count: int, size: int) -> dict[str, float]:
    """In a process of its own: neither side pays for, or finds warm, what the other has loaded."""
    command = [sys.executable, "-m", "benchmarks.franken_comparison", side, str(count), str(size)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    run = {"here": our_trials, "franken": franken_trials}[sys.argv[1]]
    print(json.dumps(run(int(sys.argv[2]), int(sys.argv[3]))))

"""Points in a process of their own: the last line that it prints is the result."""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import kept
from benchmarks.against_finetuning.points import LAYER, Franken, Kernel, OnTuned, Point, Tuned
from benchmarks.measuring import cpu_seconds
from mekrr_scale.arrays import RowKind
from mekrr_scale.progress import Silent

Found = dict[str, Any]
_SHOWN = ("energy_mae", "energy_rmse", "force_mae", "force_rmse")


def kernel(point: Point, at: Kernel) -> Found:
    """Extraction and fit; the test frames are no part of the cost."""
    from benchmarks.study.running import features_of

    setting = at.setting(point.network)
    store, extraction = features_of(point.data, point.frames, setting.features)
    return _fitted(point, at, store, {"extraction": extraction})


def _fitted(point: Point, at: Kernel, store: Any, cost: dict[str, float]) -> Found:
    from mekrr_scale.models import Potential
    from mekrr_scale.pipeline import evaluate, fit
    from mekrr_scale.structures import read_structures

    begin = cpu_seconds()
    report = fit(store, at.setting(point.network).plan(), progress=Silent())
    cost = {**cost, "fit": cpu_seconds() - begin}
    tested = evaluate(Potential(report.model), read_structures(point.data.test_frames()), progress=Silent()).metrics()
    chosen = report.chosen
    return {
        "errors": {name: tested[name] for name in _SHOWN},
        "chosen_by": 1e3 * chosen.rmse[RowKind.FORCE],
        "cv": {"energy": 1e3 * chosen.rmse[RowKind.ENERGY], "force": 1e3 * chosen.rmse[RowKind.FORCE]},
        "chosen": {
            "baseline": chosen.baseline, "length": chosen.length_scale, "ridge": chosen.ridge,
            "weight": chosen.weights[RowKind.FORCE],
        },
        "cpu": cost,
    }  # fmt: skip


class Steps(Silent):
    """CPU seconds a step, also of a training that goes on where it was ended."""

    def __init__(self) -> None:
        self.found: int | None = None  # steps that were done before
        self.begin = cpu_seconds()

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        self.begin = cpu_seconds()

    def advance(self, steps: int = 1) -> None:
        if self.found is None:
            self.found = steps

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def whole(self, steps: int) -> float:
        """Of all steps, from those that were done here."""
        here = steps - (self.found or 0)
        return (cpu_seconds() - self.begin) * steps / here if here else float("nan")


def checkpoint_of(point: Point) -> Path:
    """Where the network of a tuned point is kept."""
    return kept.folder() / "tuned" / f"{point.key}.pt"


def _cost_of(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".json")


def tuned(point: Point, at: Tuned) -> Found:
    """Training with its validations; the best weights of the validation are tested."""
    from mekrr_scale.backbones import BackboneEnergies, BackboneSpec, save_backbone
    from mekrr_scale.distributed import Checkpoint, StopSignals
    from mekrr_scale.structures import read_structures
    from mekrr_scale.transfer import BlockPlan, TrainPlan, errors_on, finetune, read_examples

    learned, valid = point.data.split(point.frames)
    plan = TrainPlan(steps=at.steps, batch=at.batch, learning_rate=at.rate, blocks=BlockPlan(freeze_up_to=at.frozen))
    path = checkpoint_of(point)
    progress = Steps()
    begin = cpu_seconds()
    with StopSignals() as stop:
        state = Checkpoint(path.with_suffix(".state"), {}, interval=60.0, stop=stop)
        state.begin()
        spec = BackboneSpec("sevennet", LAYER, point.network)
        report = finetune(spec, learned, valid, plan, progress=progress, checkpoint=state)
    cost = {"start": progress.begin - begin, "training": progress.whole(report.steps)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_backbone(report.backbone, path, {}, overwrite=True)
    _cost_of(path).write_text(json.dumps(cost), encoding="utf-8")
    tested = errors_on(BackboneEnergies(report.backbone), read_examples(read_structures(point.data.test_frames())))
    state.clear()
    best = report.best
    return {
        "errors": {name: getattr(tested, name) for name in _SHOWN},
        "chosen_by": 1e3 * best.errors.forces,
        "validation": {"energy": 1e3 * best.errors.energy, "force": 1e3 * best.errors.forces, "step": best.step},
        "history": [[r.step, 1e3 * r.errors.energy, 1e3 * r.errors.forces] for r in report.history],
        "cpu": cost,
    }


def on_tuned(point: Point, at: OnTuned) -> Found:
    """Features of the tuned network, whose training counts. Cross-validation flatters: the network has seen the labels."""
    from mekrr_scale.pipeline import ExtractPlan, extract
    from mekrr_scale.store import FeatureStore

    source = replace(point, method=at.tuned)
    path = checkpoint_of(source)
    if not _cost_of(path).exists():
        tuned(source, at.tuned)
    before = json.loads(_cost_of(path).read_text(encoding="utf-8"))
    spec: Any = at.kernel.setting(point.network).features.spec()
    spec = replace(spec, version=None, checkpoint=str(path))
    with tempfile.TemporaryDirectory() as folder:
        begin = cpu_seconds()
        extract(
            point.data.frames(point.frames), folder, ExtractPlan(spec, derivatives=at.kernel.directions),  # type: ignore[arg-type]
            progress=Silent(),
        )  # fmt: skip
        cost = {**before, "extraction": cpu_seconds() - begin}
        return _fitted(point, at.kernel, FeatureStore(Path(folder)), cost)


def franken(point: Point, at: Franken) -> Found:
    """One fit with its grid of ridges and force weights, of which the validation frames choose one."""
    import logging

    import numpy as np
    from franken.autotune.script import init_loaders
    from franken.config import GaussianRFConfig, SevennBackboneConfig
    from franken.rf.model import FrankenPotential
    from franken.trainers.log_utils import DataSplit
    from franken.trainers.rf_cuda_lowmem import RandomFeaturesTrainer
    from sevenn.util import pretrained_name_to_path

    logging.disable(logging.WARNING)
    backbone = SevennBackboneConfig(pretrained_name_to_path(point.network))
    learned, valid = point.data.split(point.frames)
    loaders = init_loaders(backbone, learned, valid, point.data.test_frames())
    trainer = RandomFeaturesTrainer(loaders["train"], device="cpu", dtype="float64", save_fmaps=False)
    species = loaders["train"].dataset.num_species  # type: ignore[attr-defined]
    model = FrankenPotential(
        backbone, GaussianRFConfig(at.features, length_scale=at.length), num_species=species, jac_chunk_size=9
    )
    grid: Any = {
        "l2_penalty": np.logspace(-11, -6, 6).tolist(),
        "force_weight": np.linspace(0.01, 0.99, 10).tolist(),
    }
    begin = cpu_seconds()
    logs, weights = trainer.fit(model, grid)
    names = ["energy_MAE", "energy_RMSE", "forces_MAE", "forces_RMSE"]
    logs = trainer.evaluate(model, loaders["val"], logs, weights, metrics=names)
    cost = {"fit": cpu_seconds() - begin}
    by_validation = [log.get_metric("forces_RMSE", DataSplit.VALIDATION) for log in logs]
    best = int(np.argmin(by_validation))
    tested = list(trainer.evaluate(model, loaders["test"], logs, weights, metrics=names))[best]
    shown = dict(zip(_SHOWN, names, strict=True))
    return {
        "errors": {ours: tested.get_metric(theirs, DataSplit.TEST) for ours, theirs in shown.items()},
        "chosen_by": by_validation[best],
        "cpu": cost,
    }


def run(point: Point) -> Found:
    """The point's errors on the test frames, what it is chosen by, and its CPU seconds."""
    at = point.method
    if isinstance(at, Kernel):
        return kernel(point, at)
    if isinstance(at, Tuned):
        return tuned(point, at)
    return on_tuned(point, at) if isinstance(at, OnTuned) else franken(point, at)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(json.dumps(run(Point.of(json.loads(sys.argv[1])))))

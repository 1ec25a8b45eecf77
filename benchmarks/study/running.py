"""One line of the study: features that settings share, a fit, and its errors on frames that no fit has seen."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import kept
from benchmarks.measuring import cpu_seconds
from benchmarks.records import Record, key
from benchmarks.sets import DataSet, key_of
from benchmarks.study.settings import Features, Setting
from mekrr_scale import __version__
from mekrr_scale.arrays import RowKind
from mekrr_scale.backbones import load_backbone
from mekrr_scale.errors import BackboneError
from mekrr_scale.models import Model
from mekrr_scale.pipeline import ExtractPlan, extract, fit
from mekrr_scale.progress import Silent
from mekrr_scale.regression import Precision, Problem, Source
from mekrr_scale.store import FeatureStore

_TESTED_ALONG = 8  # directions of each test frame
_FACTOR = 1e3  # to meV


def record_key(data: DataSet, size: int, setting: Setting) -> str:
    """Of a line: all that it depends on but the package's code between two releases."""
    return key(
        {
            "study": 1, "version": __version__, "data": key_of(data), "size": size, "along": data.directions,
            "test": _TESTED_ALONG, **setting.identity(),
        }
    )  # fmt: skip


def usable(features: Features) -> str:
    """Why the package cannot make these features; empty where it can."""
    spec = features.spec()
    if spec is None:
        return f"this package has no invariants {features.invariants}"
    try:
        load_backbone(spec)
    except BackboneError as error:
        return str(error)
    return ""


def measured(name: str, data: DataSet, size: int, setting: Setting) -> Record:
    """Errors of a setting, and the CPU seconds that it takes."""
    store, extraction = features_of(data, size, setting.features)
    test, _ = test_features_of(data, setting.features)
    begin = cpu_seconds()
    report = fit(store, setting.plan(store.n_atoms), progress=Silent())
    taken = cpu_seconds() - begin
    chosen = report.chosen
    return {
        "key": record_key(data, size, setting),
        "name": name,
        "set": data.name,
        "size": size,
        "frames": store.n_structures,
        "directions": setting.features.along(data),
        "setting": asdict(setting),
        "dim": store.header.dim,
        "landmarks": report.model.landmarks.n_sets,
        "chosen": {
            "length": chosen.length_scale, "ridge": chosen.ridge, "weight": chosen.weights[RowKind.FORCE],
            "rank": chosen.rank,
        },
        "cv": {"energy": _FACTOR * chosen.rmse[RowKind.ENERGY], "force": _FACTOR * chosen.rmse[RowKind.FORCE]},
        "test": held_out(report.model, test),
        "cpu": {"extraction": extraction, "fit": taken},
        "made_by": kept.made_by(),
    }  # fmt: skip


def features_of(data: DataSet, size: int, features: Features) -> tuple[FeatureStore, float]:
    """Store of the frames to fit, and the CPU seconds that it took."""
    return kept_store(data.frames(features.frames(size)), features, along=features.along(data))


def test_features_of(data: DataSet, features: Features) -> tuple[FeatureStore, float]:
    """The same of the frames to test, along directions that no training frame shares."""
    return kept_store(data.test_frames(), features, along=_TESTED_ALONG, seed=1)


def kept_store(frames: Path, features: Features, along: int | str, seed: int = 0) -> tuple[FeatureStore, float]:
    """A store that every setting of the same features shares, with its cost in CPU seconds.

    The name tells version, libraries, frames and plan, not the code between two releases: what is computed once stays.
    What an extraction that was ended had taken is in the cost.
    """
    spec = features.spec()
    if spec is None:
        raise ValueError(f"this package has no invariants {features.invariants}")
    plan = ExtractPlan(spec, derivatives=along, seed=seed)  # type: ignore[arg-type]
    name = key(
        {
            "version": kept.libraries(), "frames": kept.hashed(frames), "features": features.identity(),
            "directions": plan.directions(),
        }
    )  # fmt: skip
    folder = kept.folder() / "stores" / name
    cost = folder.with_suffix(".json")
    if not (folder / "manifest.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        told = Cost(cost)
        extract(frames, folder, plan, progress=told)
        told.write()
    return FeatureStore(folder), float(json.loads(cost.read_text(encoding="utf-8"))["cpu"])


class Cost(Silent):
    """Writes down what an extraction takes while it runs, so that one that goes on adds to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = float(json.loads(path.read_text(encoding="utf-8"))["cpu"]) if path.exists() else 0.0
        self.begin = self.written = cpu_seconds()

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        self.write()

    def advance(self, steps: int = 1) -> None:
        self.write()

    def write(self) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({"cpu": self.before + cpu_seconds() - self.begin}), encoding="utf-8")
        part.rename(self.path)


def held_out(model: Model, test: FeatureStore) -> dict[str, float]:
    """RMSE and MAE of energies (meV/atom) and of forces along the stored directions (meV/angstrom).

    Weighed as the cross-validated errors are, so that the two can be compared.
    """
    exact = Precision(derivative=torch.float64)
    problem = Problem(model.kernel, model.landmarks, model.baseline, precision=exact)
    moved = replace(test, tangents=True)
    sums = {kind: torch.zeros(3, dtype=torch.float64) for kind in (RowKind.ENERGY, RowKind.FORCE)}
    for block in problem.rows(Source(test, moved)):
        error = (block.rows.double() @ model.coefficients - block.target) / block.scale
        if block.kind is RowKind.ENERGY:
            error = error / block.counts.sum(1)
        if block.kind in sums:
            share = block.share
            sums[block.kind] += torch.stack([share.sum(), (share * error.abs()).sum(), (share * error.square()).sum()])
    found: dict[str, Any] = {}
    for kind, (weight, absolute, square) in sums.items():
        name = kind.name.lower()
        total = float(weight) or math.nan
        found |= {name: _FACTOR * math.sqrt(float(square) / total), f"{name}_mae": _FACTOR * float(absolute) / total}
    return found

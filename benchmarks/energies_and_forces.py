"""Energies and forces together against energies alone: CHGNet features, a quarter held out."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np

from benchmarks import kept
from benchmarks.data import apart, extracted, structures
from benchmarks.measuring import table
from mekrr_scale.backbones import load_backbone
from mekrr_scale.models import Potential
from mekrr_scale.pipeline import (
    ExtractPlan,
    FitPlan,
    KernelPlan,
    LandmarkPlan,
    RowPlan,
    Validation,
    evaluate,
    fit,
)
from mekrr_scale.structures import read_structures

PLAN = FitPlan(
    kernel=KernelPlan(length_scales="4x"),
    landmarks=LandmarkPlan(count=1000),
    validation=Validation(uncertainty=False),
)


def split(name: str, most: int = 400) -> tuple[Path, Path]:
    """At most so many structures of a file, three quarters of them to fit."""
    source = structures(f"{name}.xyz.xz")
    folder = kept.folder() / f"forces-{name.replace('/', '-')}-{kept.key(kept.hashed(source), most)}"
    parts = folder / "fit.xyz", folder / "held.xyz"
    if not all(part.exists() for part in parts):
        folder.mkdir(parents=True, exist_ok=True)
        found = list(read_structures(source))
        order = np.random.default_rng(0).permutation(len(found))[:most]
        held = len(order) // 4
        ase.io.write(parts[0], [found[i] for i in order[held:]])
        ase.io.write(parts[1], [found[i] for i in order[:held]])
    apart(fitted=read_structures(parts[0]), held=read_structures(parts[1]))
    return parts


SETS = ("mlearn/Si_train", "mlearn/Mo_train", "hcoo_cu110/train")


def main(sets: Sequence[str] = SETS) -> None:
    for name in sets:
        split(name)  # refused before any work
    backbone = load_backbone("chgnet")
    rows: list[list[object]] = []
    for name in sets:
        fitted, held = split(name)
        store, extraction = extracted(fitted, f"forces-{name}", ExtractPlan(derivatives=8))
        for label, plan in (
            ("energies", replace(PLAN, rows=RowPlan(derivatives=False))),
            ("energies and 8 directions", PLAN),
        ):
            for baseline in ("composition", "backbone"):
                start = time.perf_counter()
                report = fit(store, replace(plan, baseline=baseline))
                taken = time.perf_counter() - start
                found = evaluate(Potential(report.model, backbone), read_structures(held)).metrics()
                figures = [round(found[key], 2) for key in ("energy_mae", "energy_rmse", "force_mae", "force_rmse")]
                rows.append([name, label, baseline, *figures, round(taken, 1)])
                print(*rows[-1], sep=" | ", flush=True)
        print("extraction " + ("kept from before" if extraction is None else f"{extraction:.0f} s"), flush=True)
    print("\nmeV/atom and meV/angstrom on the structures held out\n")
    header = ["data", "fitted to", "baseline", "energy MAE", "energy RMSE", "force MAE", "force RMSE", "seconds"]
    table(header, rows)

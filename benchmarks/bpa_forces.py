"""3BPA, energies and forces on SevenNet-0 features: what helps, on 100 frames that no fit sees."""

import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

from benchmarks import kept
from benchmarks.data import apart, extracted, structures
from benchmarks.measuring import table
from mekrr_scale.backbones import BackboneSpec, load_backbone
from mekrr_scale.models import Potential
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, RowPlan, evaluate, fit
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import read_structures

FILE = "mol_3bpa/train_300K.xyz.xz"
SPEC = BackboneSpec("sevennet")
PLAN = FitPlan(
    kernel=KernelPlan(length_scales="4x"),
    landmarks=LandmarkPlan(method="displaced", count=1000),
    baseline="composition",
    rows=RowPlan(weights={"force": (1e-3, 1e-2, 1e-1, 1.0)}),
)


def sized(plan: FitPlan, count: int) -> FitPlan:
    """The same with another number of landmarks."""
    return replace(plan, landmarks=replace(plan.landmarks, count=count))


TESTED = 100


def frames(count: int) -> Path:
    """The first frames of a random order of the file, none of them among its last hundred."""
    return _written(str(count), _ordered(structures(FILE))[:-TESTED][:count], count)


def test_frames() -> Path:
    """The last hundred frames of that order, which no fit sees."""
    return _written("test", _ordered(structures(FILE))[-TESTED:], TESTED)


@cache
def _ordered(path: Path) -> list[Atoms]:
    """All frames in a random order."""
    found = list(read_structures(path))
    ordered = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
    apart(training=ordered[:-TESTED], test=ordered[-TESTED:])
    return ordered


def _written(name: str, chosen: list[Atoms], wanted: int) -> Path:
    if len(chosen) < wanted:
        raise ValueError(f"{structures(FILE)} has {len(chosen)} frames for {name}, not {wanted}")
    path = kept.folder() / f"3bpa-{kept.key(kept.hashed(structures(FILE)), TESTED)}" / f"{name}.xyz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        ase.io.write(path, chosen)
    return path


def tangents(count: int, derivatives: int | str, dtype: str = "float32") -> FeatureStore:
    """Features and tangents of the first frames."""
    return extracted(frames(count), f"3bpa-{count}-{derivatives}", extraction(derivatives, dtype))[0]


def extraction(derivatives: int | str, dtype: str = "float32") -> ExtractPlan:
    return ExtractPlan(SPEC, derivatives=derivatives, dtype=dtype)  # type: ignore[arg-type]


def errors(model: Any, backbone: Any) -> dict[str, float]:
    """On the hundred frames that no fit sees."""
    return evaluate(Potential(model, backbone), read_structures(test_frames())).metrics()


def variants() -> list[tuple[str, int, int | str, FitPlan]]:
    both = replace(PLAN, baseline="backbone")
    rows: list[tuple[str, int, int | str, FitPlan]] = []
    for count, derivatives in ((25, "all"), (50, "all"), (250, 16)):
        rows.append(("M = 1000", count, derivatives, PLAN))
        rows.append(("M = 2000", count, derivatives, sized(PLAN, 2000)))
        rows.append(("M = 2000, backbone prior", count, derivatives, sized(both, 2000)))

    def kernel(**changes: object) -> FitPlan:
        return replace(PLAN, kernel=replace(PLAN.kernel, **changes))  # type: ignore[arg-type]

    rows += [(f"alpha {a}", 25, "all", kernel(alphas=a)) for a in (0.0, 0.1, 0.5)]
    rows += [
        ("length scale 2x", 25, "all", kernel(length_scales="2x")),
        ("length scale 8x", 25, "all", kernel(length_scales="8x")),
        ("sum of three Gaussians", 25, "all", kernel(name="gaussian-sum", length_scales="2x,4x,8x")),
        ("Matern 5/2", 25, "all", kernel(name="matern52")),
        ("atoms alone (M = 675)", 25, "all", replace(PLAN, landmarks=LandmarkPlan("uniform", 675))),
        (
            "as many landmarks of each element",
            50,
            "all",
            replace(PLAN, landmarks=replace(PLAN.landmarks, balance="equal")),
        ),
        ("farthest points", 50, "all", replace(PLAN, landmarks=LandmarkPlan("farthest", 1000))),
        ("features centred, not scaled", 25, "all", kernel(standardize="centre-per-species")),
        ("energies only", 50, "all", replace(PLAN, rows=replace(PLAN.rows, derivatives=False))),
        ("equal cost", 50, 40, PLAN),
        ("equal cost", 125, 16, PLAN),
        ("equal cost", 250, 8, PLAN),
    ]
    return rows


def main() -> None:
    structures(FILE)  # refused before any work
    backbone = load_backbone(SPEC)
    rows: list[list[object]] = []
    for name, count, derivatives, plan in variants():
        data = tangents(count, derivatives)
        start = time.perf_counter()
        report = fit(data, plan)
        taken = time.perf_counter() - start
        found = errors(report.model, backbone)
        v = report.model.validation
        cv = 1e3 * float(v.get("force_rmse", float("nan")))
        chosen = f"ridge {v['ridge']:.0e}, w_F {v['weights'][1]:g}"
        figures = [round(found[key], 2 if "energy" in key else 1) for key in ("energy_mae", "force_mae", "force_rmse")]
        rows.append([f"{count} x {derivatives}", name, chosen, round(cv, 1), *figures, round(taken, 1)])
        print(*rows[-1], sep=" | ", flush=True)
    print("\nmeV/atom and meV/angstrom; CV: RMSE of force components, five folds\n")
    header = ["frames x directions", "variant", "chosen by CV", "CV forces", "energy MAE", "force MAE", "force RMSE"]
    table([*header, "seconds of the fit"], rows)

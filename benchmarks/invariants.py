"""3BPA, 25 frames with all directions: what invariants of the channels of l > 0, and more layers of CHGNet, are worth."""

import time
from dataclasses import replace

from benchmarks.bpa_forces import FILE, frames, test_frames
from benchmarks.data import extracted, structures
from benchmarks.measuring import table
from mekrr_scale.backbones import BackboneSpec, load_backbone
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
    kernel=KernelPlan(length_scales="4x,8x", standardize="centre-per-species"),
    landmarks=LandmarkPlan(method="displaced", count=1000),
    baseline="composition",
    rows=RowPlan(weights={"force": (1e-3, 1e-2)}),
    validation=Validation(uncertainty=False),
)
FRAMES = 25
CHGNET = (
    "conv3",
    "conv1+conv2+conv3",
    "conv1+conv2+conv3+conv4",
    "conv1+conv2+conv3+bond3+angle3",
    "conv1+conv2+conv3+bond3+angle3+conv4",
)


def variants() -> list[BackboneSpec]:
    kinds = ("scalars", "norms", "products")
    networks = ("7net-0", "7net-l3i5")
    rows = [BackboneSpec("sevennet", version=network, invariants=kind) for network in networks for kind in kinds]
    return [*rows, *(BackboneSpec("chgnet", layer) for layer in CHGNET)]


def measured(spec: BackboneSpec, plan: FitPlan = PLAN) -> list[object]:
    """A row of the table."""
    begun = time.process_time()
    name = f"3bpa-{FRAMES}-{spec.version or spec.name}-{spec.layer}-{spec.invariants}"
    store, taken = extracted(frames(FRAMES), name, ExtractPlan(spec, derivatives="all"))
    extraction = "kept" if taken is None else round(time.process_time() - begun)
    begun = time.process_time()
    report = fit(store, plan)
    fitting = round(time.process_time() - begun)
    backbone = load_backbone(spec)
    found = evaluate(Potential(report.model, backbone), read_structures(test_frames())).metrics()
    v = report.model.validation
    chosen = f"l = {v['length_scale']:.3g}, ridge {v['ridge']:.0e}, w_F {v['weights'][1]:g}"
    what = " ".join(filter(None, (spec.version or spec.name, spec.layer, spec.invariants)))
    figures = [round(found[key], 2 if "energy" in key else 1) for key in ("energy_mae", "force_mae", "force_rmse")]
    return [what, backbone.dim, chosen, round(1e3 * float(v["force_rmse"]), 1), *figures, extraction, fitting]


def main() -> None:
    structures(FILE)  # refused before any work
    larger = replace(PLAN, landmarks=replace(PLAN.landmarks, count=2000))
    most = BackboneSpec("sevennet", version="7net-l3i5", invariants="products")
    rows = []
    for name, spec, plan in [*(("", spec, PLAN) for spec in variants()), (", M = 2000", most, larger)]:
        what, *figures = measured(spec, plan)
        rows.append([f"{what}{name}", *figures])
        print(*rows[-1], sep=" | ", flush=True)
    print("\nmeV/atom and meV/angstrom; CV: RMSE of force components, five folds; CPU seconds\n")
    header = ["features", "d", "chosen by CV", "CV forces", "energy MAE", "force MAE", "force RMSE"]
    table([*header, "extraction", "fit"], rows)

"""HCOO on Cu(110), energies only: fitted to the training file, every setting cross-validated on it."""

import time
from dataclasses import replace

from benchmarks.data import training_and_test
from benchmarks.measuring import table
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan, RowPlan, evaluate_store, fit

CHOSEN = FitPlan(
    kernel=KernelPlan(length_scales="2x,4x,8x", alphas=(0.0, 0.5, 1.0)),
    landmarks=LandmarkPlan(count=1500),
    rows=RowPlan(derivatives=False),
)


def variants() -> list[tuple[str, str, FitPlan]]:
    """Name, layer and plan; the first lets cross-validation choose the baseline too."""
    composition, backbone = replace(CHOSEN, baseline="composition"), replace(CHOSEN, baseline="backbone")
    kernel, landmarks = CHOSEN.kernel, CHOSEN.landmarks
    several = replace(kernel, name="gaussian-sum", length_scales="1x,2x,4x,8x")
    many = replace(backbone, landmarks=LandmarkPlan(count=4000), kernel=replace(kernel, alphas=1.0))
    return [
        ("all chosen by cross-validation", "conv3", CHOSEN),
        ("composition baseline", "conv3", composition),
        ("composition, unscaled features", "conv3", replace(composition, kernel=replace(kernel, standardize="none"))),
        (
            "composition, equal landmarks per species",
            "conv3",
            replace(composition, landmarks=replace(landmarks, balance="equal")),
        ),
        ("backbone prior, before the last convolution", "conv3", backbone),
        ("backbone prior, after the last convolution", "conv4", backbone),
        ("backbone prior, one convolution earlier", "conv2", backbone),
        ("backbone prior, sum of four Gaussians", "conv3", replace(backbone, kernel=several)),
        ("backbone prior, Matern 5/2", "conv3", replace(backbone, kernel=replace(kernel, name="matern52"))),
        ("backbone prior, farthest points", "conv3", replace(backbone, landmarks=LandmarkPlan("farthest", 1500))),
        ("backbone prior, leverage scores", "conv3", replace(backbone, landmarks=LandmarkPlan("leverage", 1500))),
        ("backbone prior, mean instead of sum", "conv3", replace(backbone, kernel=replace(kernel, reduce="mean"))),
        ("backbone prior, M = 4000", "conv3", many),
    ]


def main() -> None:
    rows: list[list[object]] = []
    for name, layer, plan in variants():
        train, test = training_and_test("hcoo_cu110/train", "hcoo_cu110/val", layer)
        start = time.perf_counter()
        report = fit(train, plan)
        taken = time.perf_counter() - start
        found = evaluate_store(report.model, test).metrics()
        v = report.model.validation
        setting = f"alpha {v['alpha']:g}, l {_shown(v['length_scale'])}, {v['baseline']}, ridge {v['ridge']:.0e}"
        cv = 1e3 * float(v["energy_rmse"])
        rows.append([name, setting, cv, round(found["energy_mae"], 3), round(found["energy_rmse"], 3), round(taken, 1)])
        print(f"{name}: {setting}: {found}", flush=True)
    header = ["variant", "chosen", "CV RMSE", "MAE", "RMSE", "seconds, all candidates"]
    print("\nmeV/atom on the validation file; the CV column is the best candidate's\n")
    table(header, rows)


def _shown(length: object) -> str:
    return f"{length:.3g}" if isinstance(length, float) else "several"

"""mlearn Si: 1000 landmarks out of all atoms against exact MEKRR, cross-validated (mean, alpha 0)."""

from benchmarks.data import store
from benchmarks.measuring import alike, table
from mekrr_scale.arrays import RowKind
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan, LengthScale, RowPlan, fit
from mekrr_scale.solvers import Direct, Exact

REPEATS = 3
RIDGES = tuple(10.0 ** (k / 2) for k in range(-24, -3))


def main(count: int = 1000) -> None:
    data = store("mlearn/Si_train")
    print(f"{data.n_structures} structures, {data.n_atoms} atoms\n")
    rows: list[list[object]] = []
    for length in (1.0, 4.0):
        plans = [_plan(length, solver, count) for solver in (Exact(RIDGES), Direct(RIDGES))]
        times = alike([lambda plan=plan: fit(data, plan) for plan in plans], REPEATS)  # type: ignore[misc]
        best = {}
        for plan, (_, taken) in zip(plans, times, strict=True):
            point = fit(data, plan).solution.path.best()
            best[plan.solver.name] = point.rmse[RowKind.ENERGY]
            rows.append(
                [f"{length:g} x median", plan.solver.name, point.ridge, 1e3 * point.rmse[RowKind.ENERGY], taken]
            )
        ratio = best["direct"] / best["exact"]
        rows.append(["", f"**direct / exact: {ratio:.4f}**", "", "", ""])
    table(["length scale", "solver", "best ridge", "5-fold CV RMSE, meV/atom", f"seconds, best of {REPEATS}"], rows)


def _plan(length: float, solver: Exact | Direct, count: int) -> FitPlan:
    return FitPlan(
        kernel=KernelPlan(length_scales=LengthScale(length), alphas=0.0, reduce="mean", standardize="none"),
        landmarks=LandmarkPlan(count=count), baseline="composition",
        rows=RowPlan(derivatives=False, cut=1e-12), solver=solver,
    )  # fmt: skip

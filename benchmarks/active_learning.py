"""Learning curves: batches chosen by ``select`` against random ones, from the same start."""

import numpy as np

from benchmarks.data import ROOT, Subset, store, structures
from benchmarks.measuring import table
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan, RowPlan, evaluate_store, fit
from mekrr_scale.simulation import choose

PLAN = FitPlan(
    kernel=KernelPlan(length_scales="4x"),
    landmarks=LandmarkPlan(count=400),
    baseline="composition",
    rows=RowPlan(derivatives=False),
)
START, STEP, ROUNDS, SEEDS = 60, 40, 3, 3


def curve(pool: Subset, test: Subset, method: str, seed: int, name: str) -> list[tuple[float, float]]:
    """MAE and RMSE (meV/atom) of START, START + STEP, ... structures."""
    order = np.random.default_rng(seed).permutation(len(pool)).tolist()
    have, found = order[:START], []
    for turn in range(ROUNDS + 1):
        model = fit(pool.take(have, f"{name}-{method}").store, PLAN).model
        metrics = evaluate_store(model, test.store).metrics()
        found.append((metrics["energy_mae"], metrics["energy_rmse"]))
        if turn == ROUNDS:
            break
        kept = set(have)
        rest = [i for i in order if i not in kept]
        chosen = choose(model, [pool.batch(rest)], STEP, method, seed)  # type: ignore[arg-type]
        have = have + [rest[i] for i in chosen.indices]
    return found


def main() -> None:
    sets = ("hcoo_cu110/train", "pt_co/pt111_train")
    for name in sets:
        structures(f"{name}.xyz.xz")  # refused before any work
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows: list[list[object]] = []
    sizes = [START + k * STEP for k in range(ROUNDS + 1)]
    figure, axes = plt.subplots(1, len(sets), figsize=(4.2 * len(sets), 3.8))
    for axis, name in zip(axes, sets, strict=True):
        whole = Subset.of(store(name))
        for method, colour in (("greedy", "#2b6cb0"), ("variance", "#c05621"), ("random", "#718096")):
            curves = []
            for seed in range(SEEDS):
                label = f"{name.replace('/', '-')}-{method}-{seed}"
                pool, test = whole.parts(0.25, seed, label)
                curves.append(curve(pool, test, method, seed, label))
            mean, spread = np.mean(curves, 0), np.std(curves, 0)
            axis.errorbar(sizes, mean[:, 1], spread[:, 1], color=colour, label=method, capsize=3)
            rows.append([name, method, *(f"{mae:.2f} / {rmse:.2f}" for mae, rmse in mean)])
            print(*rows[-1], sep=" | ", flush=True)
        axis.set(title=name, xlabel="structures", ylabel="RMSE (meV/atom)", yscale="log")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "figures" / "active_learning.png", dpi=110)
    print(f"\nMAE / RMSE in meV/atom on a quarter of the structures held out, mean of {SEEDS} starts\n")
    table(["data", "chosen by", *(f"{size}" for size in sizes)], rows)

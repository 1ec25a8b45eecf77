"""CO on Pt(111) beside a handful of frames of Pt(553): energies of other frames of the second, with and without their shift.

By default; with more weight on the few; with alpha 0.5 beside 1; on the default backbone's features and on the best that
the package has. Several random draws of the few. What cross-validation says of them stands beside what other frames of
their facet show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product

import numpy as np
from ase import Atoms

from benchmarks import kept
from benchmarks.data import apart, extracted, structures
from benchmarks.measuring import table
from mekrr_scale.arrays import RowKind
from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, RowPlan, evaluate_store, extract, fit
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import read_structures

MUCH, FEW, TEST = "pt_co/pt111_train", "pt_co/pt553_train", "pt_co/pt553_val"
SIZES = (5, 20)
DRAWS = 4
BACKBONES: Mapping[str, BackboneSpec] = {
    "default": ExtractPlan().backbone,
    "7net-l3i5 products": BackboneSpec("sevennet", "gate1+gate2", version="7net-l3i5", invariants="products"),
}
PLANS: Mapping[str, FitPlan] = {
    "default": FitPlan(),
    "few frames weighted 100": FitPlan(rows=RowPlan(store_weights=(1.0, 100.0))),
    "alpha 0.5 or 1 by CV": FitPlan(kernel=KernelPlan(alphas=(0.5, 1.0))),
}


def main() -> None:
    """A line for each backbone, number of frames and plan: means over the draws, and their spread."""
    rows: list[list[object]] = []
    for features, backbone in BACKBONES.items():
        sets = Sets(backbone)
        alone = evaluate_store(fit(sets.much, FitPlan()).model, sets.test, uncertainty=True)
        print(f"{features}, none of Pt(553): {alone!r}\n{alone.set_table().text()}\n", *alone.warnings(), flush=True)
        for size, (name, plan) in product(SIZES, PLANS.items()):
            found = np.array([_errors(sets, size, seed, plan) for seed in range(DRAWS)])
            pairs = list(zip(found.mean(0), found.std(0), strict=True))
            means = [f"{mean:.2f} ({spread:.2f})" for mean, spread in pairs[:-2]]
            rows.append(
                [features, size, name, *means, *(f"{round(DRAWS * mean)} of {DRAWS}" for mean, _ in pairs[-2:])]
            )
            print(*rows[-1], sep=" | ", flush=True)
    columns = ["features", "frames of Pt(553)", "plan", "MAE", "RMSE", "shift", "RMSE without", "mean within"]
    columns += ["CV RMSE of the few", "mean within its interval", "called unlike"]
    table(columns, rows)


@dataclass(frozen=True)
class Sets:
    """Features of one backbone."""

    backbone: BackboneSpec

    @cached_property
    def much(self) -> FeatureStore:
        return self._of(MUCH)

    @cached_property
    def test(self) -> FeatureStore:
        return self._of(TEST)

    def _of(self, name: str) -> FeatureStore:
        return extracted(structures(f"{name}.xyz.xz"), f"{name}-facets", ExtractPlan(self.backbone))[0]

    def few(self, size: int, seed: int) -> FeatureStore:
        """Of frames that are drawn at random, none of them in the test."""
        frames = _read(FEW)
        chosen = np.sort(np.random.default_rng([seed, size]).permutation(len(frames))[:size])
        drawn = [frames[i] for i in chosen]
        apart(few=drawn, test=_read(TEST))
        plan = ExtractPlan(self.backbone)
        folder = kept.folder() / f"facets-{size}-{seed}-{kept.key(plan, kept.hashed(structures(f'{FEW}.xyz.xz')))}"
        extract(drawn, folder, plan)
        return FeatureStore(folder)


@cache
def _read(name: str) -> Sequence[Atoms]:
    return list(read_structures(structures(f"{name}.xyz.xz")))


def _errors(sets: Sets, size: int, seed: int, plan: FitPlan) -> list[float]:
    """On the test, and of the few frames in cross-validation (meV/atom); whether the mean is within, and called unlike."""
    report = fit([sets.much, sets.few(size, seed)], plan)
    found = evaluate_store(report.model, sets.test, uncertainty=True)
    metrics = found.metrics()
    names = ("energy_mae", "energy_rmse", "energy_shift", "energy_rmse_beyond_shift")
    within, of_few = 1e3 * found.mean_within_95[0], 1e3 * [*report.stores.values()][1][RowKind.ENERGY].rmse
    held, unlike = abs(metrics["energy_shift"]) <= within, found.whole().unlike is True
    return [*(metrics[name] for name in names), within, of_few, float(held), float(unlike)]


if __name__ == "__main__":
    main()

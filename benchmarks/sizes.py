"""Plan against measurement, and time and memory against n and M: whole fits, each in its own process.

Energies of synthetic structures; then energies and forces of 160 frames of HCOO/Cu(110) with 16 directions, CHGNet's
features in one store or in four, where elements are apart, mixed, or both are tried in a pass that they share.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice, pairwise

from benchmarks import kept
from benchmarks.data import ROOT, structures, synthetic
from benchmarks.measuring import Peak, table
from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, extract, fit, resources
from mekrr_scale.regression import Execution
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import read_structures

CASES = [
    *(("direct", n, 1000) for n in (1000, 10_000, 100_000)),
    *(("falkon", n, 1000) for n in (1000, 10_000, 100_000)),
    *(("direct", 20_000, m) for m in (100, 300, 3000)),
    *(("falkon", 20_000, m) for m in (100, 300, 3000, 10_000)),
    ("direct", 20_000, 10_000),
]
LARGE = [("falkon", 1_000_000, 1000)]
WITH_FORCES = [("1", 1000, 1), ("1", 1000, 4), ("0.5", 1000, 4), ("1,0.5", 1000, 4), ("1,0.5", 2000, 4)]
FRAMES, DIRECTIONS = 160, 16
COMPARED = ("planned, s", "measured, s", "ratio", "planned, MB", "measured, MB", "ratio")


def main() -> None:
    _stores(1), _stores(4)
    rows = []
    for solver, n, m in (*CASES, *LARGE):
        _synthetic(n)
        found = _apart("energies", solver, n, m)
        rows.append([n, m, solver, *compared(found), found["iterations"]])
    print(
        "Energies, 8 atoms, d = 64, four species, alpha 1, one ridge, five folds, --memory 512M; Falkon's iterations as "
        "measured.\n"
    )
    table(["structures", "M", "solver", *COMPARED, "iterations"], rows)
    rows = [[alphas, m, n, *compared(_apart("forces", alphas, m, n))] for alphas, m, n in WITH_FORCES]
    print("\nEnergies and forces, all weights, ridges and baselines by default, no uncertainties.\n")
    table(["alpha", "M", "stores", *COMPARED], rows)


def _apart(*arguments: object) -> dict[str, float]:
    """A fit in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.sizes", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(found: Mapping[str, float]) -> list[float]:
    """Seconds, then megabytes: planned, measured, and one over the other."""
    return [
        found["planned_seconds"], found["seconds"], found["planned_seconds"] / found["seconds"],
        found["planned_mb"], found["mb"], found["planned_mb"] / found["mb"],
    ]  # fmt: skip


def _synthetic(n: int) -> FeatureStore:
    return synthetic(n, 8, 64, shard_bytes=64 * 1024**2 if n > 100_000 else 2 * 1024**2)


def _stores(count: int) -> list[FeatureStore]:
    """The frames of HCOO/Cu(110) in so many stores."""
    path = structures("hcoo_cu110/train.xyz.xz")
    plan = ExtractPlan(BackboneSpec("chgnet", "conv3"), derivatives=DIRECTIONS)
    found = []
    for first, last in pairwise(round(FRAMES * k / count) for k in range(count + 1)):
        folder = kept.folder() / f"sizes-{first}-{last}-{kept.key(plan, kept.hashed(path))}"
        if not (folder / "manifest.json").exists():
            extract(islice(read_structures(path), first, last), folder, plan)
        found.append(FeatureStore(folder))
    return found


def energies(solver: str, n: int, m: int) -> dict[str, float]:
    plan = FitPlan(
        kernel=KernelPlan(length_scales="2x"), landmarks=LandmarkPlan(count=m), baseline="composition",
        solver={"name": solver, "ridges": 1e-6, **({"rtol": 1e-7} if solver == "falkon" else {})},
        execution=Execution(memory="512M"),
    )  # fmt: skip
    fit(synthetic(100, 8, 64), replace(plan, landmarks=LandmarkPlan(count=20)))  # libraries: their time is not planned
    return one_fit([_synthetic(n)], plan)


def forces(alphas: str, m: int, count: int) -> dict[str, float]:
    plan = FitPlan(
        kernel=KernelPlan(length_scales="8x", alphas=alphas), landmarks=LandmarkPlan(count=m),
        validation={"uncertainty": False},
    )  # fmt: skip
    stores = _stores(count)
    fit(stores, replace(plan, landmarks=LandmarkPlan(count=20)))
    return one_fit(stores, plan)


def one_fit(stores: Sequence[FeatureStore], plan: FitPlan) -> dict[str, float]:
    expected = resources(stores, plan)
    with Peak() as peak:
        start = time.perf_counter()
        report = fit(stores, plan)
        seconds = time.perf_counter() - start
    iterations = report.solution.effort.iterations
    planned = expected.seconds + expected.seconds_iteration * (1.1 * iterations + 1) * (iterations > 0)
    return {
        "planned_seconds": planned, "seconds": seconds, "iterations": iterations,
        "planned_mb": expected.peak_bytes / 1e6, "mb": peak.most,  # libraries too, which the plan counts
    }  # fmt: skip


if __name__ == "__main__":
    kind, first, second, third = sys.argv[1:]
    print(json.dumps({"energies": energies, "forces": forces}[kind](first, int(second), int(third))))

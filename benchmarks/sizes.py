"""Plan against measurement, and time and memory against n and M: whole fits on synthetic structures, each in its own process."""

import json
import subprocess
import sys
import time
from dataclasses import replace

from benchmarks.data import ROOT, synthetic
from benchmarks.measuring import Peak, table
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan, fit, resources
from mekrr_scale.regression import Execution

CASES = [
    *(("direct", n, 1000) for n in (1000, 10_000, 100_000)),
    *(("falkon", n, 1000) for n in (1000, 10_000, 100_000)),
    *(("direct", 20_000, m) for m in (100, 300, 3000)),
    *(("falkon", 20_000, m) for m in (100, 300, 3000, 10_000)),
    ("direct", 20_000, 10_000),
]
LARGE = [("falkon", 1_000_000, 1000)]


def main() -> None:
    rows: list[list[object]] = []
    for solver, n, m in (*CASES, *LARGE):
        synthetic(n, 8, 64, shard_bytes=64 * 1024**2 if n > 100_000 else 2 * 1024**2)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.sizes", solver, str(n), str(m)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append(
            [
                n,
                m,
                solver,
                found["planned_seconds"],
                found["seconds"],
                found["ratio_seconds"],
                found["planned_mb"],
                found["mb"],
                found["ratio_mb"],
                found["iterations"],
            ]
        )
    print(
        "Energies, 8 atoms, d = 64, four species, alpha 1, one ridge, five folds, --memory 512M; Falkon's iterations as measured.\n"
    )
    table(
        [
            "structures",
            "M",
            "solver",
            "planned, s",
            "measured, s",
            "ratio",
            "planned, MB",
            "measured, MB",
            "ratio",
            "iterations",
        ],
        rows,
    )


def one_fit(solver: str, n: int, m: int) -> dict[str, float]:
    store = synthetic(n, 8, 64, shard_bytes=64 * 1024**2 if n > 100_000 else 2 * 1024**2)
    plan = FitPlan(
        kernel=KernelPlan(length_scales="2x"), landmarks=LandmarkPlan(count=m), baseline="composition",
        solver={"name": solver, "ridges": 1e-6, **({"rtol": 1e-7} if solver == "falkon" else {})},
        execution=Execution(memory="512M"),
    )  # fmt: skip
    fit(synthetic(100, 8, 64), replace(plan, landmarks=LandmarkPlan(count=20)))  # libraries: their time is not planned
    expected = resources(store, plan)
    with Peak() as peak:
        start = time.perf_counter()
        report = fit(store, plan)
        seconds = time.perf_counter() - start
    iterations = report.solution.effort.iterations
    planned = expected.seconds + expected.seconds_iteration * (1.1 * iterations + 1) * (iterations > 0)
    mb = peak.most  # libraries too, which the plan counts
    return {
        "planned_seconds": planned, "seconds": seconds, "ratio_seconds": planned / seconds, "iterations": iterations,
        "planned_mb": expected.peak_bytes / 1e6, "mb": mb, "ratio_mb": expected.peak_bytes / 1e6 / mb,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(one_fit(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))

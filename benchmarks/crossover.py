"""HCOO/Cu(110) grown synthetically to 10^4 structures: Exact against Direct and Falkon of the same accuracy."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch

from benchmarks import kept
from benchmarks.data import ROOT, store, training_and_test
from benchmarks.measuring import Peak, exponent, table
from mekrr_scale.arrays import FeatureBatch
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, fit_transform
from mekrr_scale.landmarks import Uniform, WholeStructures, median_distance
from mekrr_scale.models import fit_baseline
from mekrr_scale.regression import Problem, Source, assign_folds
from mekrr_scale.solvers import Direct, Exact, Falkon
from mekrr_scale.store import FeatureStore, FeatureWriter

RIDGES = tuple(10.0 ** (k / 2) for k in range(-18, -5))


def main(sizes: Sequence[int] = (500, 1000, 2500, 10_000)) -> None:
    rows: list[list[object]] = []
    memory: dict[str, list[float]] = {}
    times: dict[int, dict[str, float]] = {}
    for n in sizes:
        for solver, m in (("exact", 0), ("direct", 1000), ("falkon", 1000)):
            found = measured(solver, n, m)
            times.setdefault(n, {})[solver] = found["seconds"]
            memory.setdefault(solver, []).append(found["memory"])
            rows.append([n, solver, m or n, found["seconds"], found["rmse"], found["memory"]])
            print(*rows[-1], sep=" | ", flush=True)
    print()
    table(
        [
            "structures",
            "solver",
            "landmarks",
            "seconds, kernel to solution",
            "test RMSE, meV/atom",
            "peak memory of it, MB",
        ],
        rows,
    )
    for n, found in times.items():
        over = ", ".join(f"exact / {name} {found['exact'] / found[name]:.1f}" for name in ("direct", "falkon"))
        print(f"n = {n}: {over}")
    for solver, peaks in memory.items():
        print(f"{solver}: peak memory ~ n^{exponent(list(times), peaks):.2f}")


def grown(n: int) -> FeatureStore:
    """Structures between pairs of real ones of the same composition: features and energies a fraction of the way apart."""
    real = store("hcoo_cu110/train")
    folder = kept.folder() / f"hcoo-grown-{n}-{kept.key(real.path.name)}"
    if (folder / "manifest.json").exists():
        return FeatureStore(folder)
    batches = list(real)
    items = []
    for batch in batches:
        for i in range(batch.n_structures):
            parts = [(run.z, run.features[run.ptr[i] : run.ptr[i + 1]]) for run in batch.runs]
            items.append((parts, float(batch.energy[i])))
    generator = np.random.default_rng(0)
    with FeatureWriter(folder, "grown", real.header.dim) as writer:
        for _ in range(n):
            while True:
                (a, ea), (b, eb) = (items[k] for k in generator.integers(0, len(items), 2))
                if [(z, len(f)) for z, f in a] == [(z, len(f)) for z, f in b]:
                    break
            t = float(generator.uniform(0, 0.3))
            z = np.concatenate([np.full(len(f), s) for s, f in a])
            h = torch.cat([(1 - t) * f + t * g for (_, f), (_, g) in zip(a, b, strict=True)]).numpy()
            writer.add(z, h, (1 - t) * ea + t * eb)
    return FeatureStore(folder)


def measured(solver: str, n: int, m: int) -> dict[str, float]:
    grown(n)
    command = [sys.executable, "-m", "benchmarks.crossover", solver, str(n), str(m)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def one_fit(solver: str, n: int, m: int) -> dict[str, float]:
    _solved(solver, grown(30), min(m, 20))  # libraries and threads, which no size pays for
    data, (_, test) = grown(n), training_and_test("hcoo_cu110/train", "hcoo_cu110/val")
    return _solved(solver, data, m, test)


def _solved(solver: str, data: FeatureStore, m: int, test: Iterable[FeatureBatch] = ()) -> dict[str, float]:
    """Seconds from landmarks to coefficients, the peak of what memory that added, and the RMSE of structures to test."""
    folds = assign_folds(data, 5)
    transform = fit_transform(data, "scale-per-species")
    kernel = SetKernel(Gaussian(1.0), SpeciesMixing(1.0), "sum", transform)
    kernel = replace(kernel, atom=Gaussian(4 * median_distance(data, kernel.transform, 0)))
    baseline = fit_baseline(data, "composition")
    # one ridge and no folds is the best case of exact
    chosen, parts = {
        "exact": (Exact((1e-6,)), None),
        "direct": (Direct(RIDGES), folds),
        "falkon": (Falkon((1e-6,), rtol=1e-7), None),
    }[solver]
    with Peak() as peak:
        start = time.perf_counter()
        landmarks = (Uniform(m) if m else WholeStructures()).select(data, kernel)
        solution = chosen.solve(Problem(kernel, landmarks, baseline, parts), Source(data))
        seconds = time.perf_counter() - start
    found = {"seconds": seconds, "memory": peak.added}
    errors = [_error(batch, kernel, landmarks, solution.value[:, 0], baseline) for batch in test]
    return {**found, "rmse": 1e3 * math.sqrt(float(torch.cat(errors).square().mean()))} if errors else found


def _error(
    batch: FeatureBatch, kernel: SetKernel, landmarks: object, value: torch.Tensor, baseline: object
) -> torch.Tensor:
    return (kernel.rows(batch, landmarks) @ value - baseline.residual(batch)) / batch.n_atoms


if __name__ == "__main__":
    print(json.dumps(one_fit(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))

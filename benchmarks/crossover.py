"""HCOO/Cu(110) grown synthetically to 10^4 structures: Exact against Direct and Falkon of the same accuracy."""

import json
import math
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import torch

from benchmarks.data import CACHE, ROOT, store, table
from mekrr_scale.arrays import FeatureBatch
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, fit_transform
from mekrr_scale.landmarks import Uniform, WholeStructures, median_distance
from mekrr_scale.models import fit_baseline
from mekrr_scale.regression import Problem, Source, assign_folds
from mekrr_scale.solvers import Direct, Exact, Falkon
from mekrr_scale.store import FeatureStore, FeatureWriter

RIDGES = tuple(10.0 ** (k / 2) for k in range(-18, -5))


def main() -> None:
    rows: list[list[object]] = []
    times: dict[int, dict[str, float]] = {}
    for n in (500, 1000, 2500, 10_000):
        for solver, m in (("exact", 0), ("direct", 1000), ("falkon", 1000)):
            found = _measured(solver, n, m)
            times.setdefault(n, {})[solver] = found["seconds"]
            rows.append([n, solver, m or n, found["seconds"], found["rmse"], found["memory"]])
    table(
        ["structures", "solver", "landmarks", "seconds, kernel to solution", "test RMSE, meV/atom", "memory, MB"], rows
    )
    for n, found in times.items():
        if "exact" in found:
            print(
                f"n = {n}: exact / direct {found['exact'] / found['direct']:.1f}, exact / falkon {found['exact'] / found['falkon']:.1f}"
            )


def grown(n: int) -> FeatureStore:
    """Structures between pairs of real ones of the same composition: features and energies a fraction of the way apart."""
    folder = CACHE / f"hcoo-grown-{n}"
    if (folder / "manifest.json").exists():
        return FeatureStore(folder)
    real = store("hcoo_cu110/train")
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


def _measured(solver: str, n: int, m: int) -> dict[str, float]:
    grown(n)
    command = [sys.executable, "-m", "benchmarks.crossover", solver, str(n), str(m)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _run(solver: str, n: int, m: int) -> dict[str, float]:
    from benchmarks.data import anonymous_mb

    data, test = grown(n), store("hcoo_cu110/val")
    folds = assign_folds(data, 5)
    transform = fit_transform(data, "scale-per-species")
    kernel = SetKernel(Gaussian(1.0), SpeciesMixing(1.0), "sum", transform)
    kernel = replace(kernel, atom=Gaussian(4 * median_distance(data, kernel.transform, 0)))
    baseline = fit_baseline(data, "composition")
    start = time.perf_counter()
    landmarks = (Uniform(m) if m else WholeStructures()).select(data, kernel)
    # one ridge and no folds is the best case of exact
    chosen, parts = {
        "exact": (Exact((1e-6,)), None),
        "direct": (Direct(RIDGES), folds),
        "falkon": (Falkon((1e-6,), rtol=1e-7), None),
    }[solver]
    solution = chosen.solve(Problem(kernel, landmarks, baseline, parts), Source(data))
    seconds = time.perf_counter() - start
    error = torch.cat([_error(batch, kernel, landmarks, solution.value[:, 0], baseline) for batch in test])
    return {"seconds": seconds, "rmse": 1e3 * math.sqrt(float(error.square().mean())), "memory": anonymous_mb()}


def _error(
    batch: FeatureBatch, kernel: SetKernel, landmarks: object, value: torch.Tensor, baseline: object
) -> torch.Tensor:
    return (kernel.rows(batch, landmarks) @ value - baseline.residual(batch)) / batch.n_atoms


if __name__ == "__main__":
    print(json.dumps(_run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))

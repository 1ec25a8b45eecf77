"""Time and memory against the number of structures: Direct's pass and Exact, each size in its own process."""

import json
import resource
import subprocess
import sys
import time

import torch

from benchmarks.data import anonymous_mb, exponent, store, synthetic, table
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, Transform
from mekrr_scale.landmarks import Uniform, WholeStructures
from mekrr_scale.models import fit_baseline
from mekrr_scale.progress import Silent
from mekrr_scale.regression import Problem, Run, Source
from mekrr_scale.solvers import Direct
from mekrr_scale.solvers.path import ridge_path
from mekrr_scale.store import FeatureStore, repack

M = 500
_LIMIT = 20 * 1024**3


def main() -> None:
    measure_all(
        "w_be/W_train (ragged, 1 to 135 atoms)", "real", [200, 400, 800, 1600, 3200, 6400], [200, 400, 800, 1600, 3200]
    )
    measure_all(
        "synthetic (2 to 6 atoms, d = 16)",
        "synthetic",
        [4000, 16000, 64000, 256000],
        [1000, 2000, 4000, 8000, 32000],
    )


def measure_all(title: str, source: str, direct: list[int], exact: list[int]) -> None:
    print(f"### {title}\n")
    rows: list[list[object]] = []
    found = [_measured("direct", source, n) for n in direct]
    for n, m in zip(direct, found, strict=True):
        rows.append([n, m["atoms"], m["pass"], m["memory"], m["whiten"], m["path"]])
    table(["structures", "atoms", "pass, s", "memory of the pass, MB", "whitening, s", "eigendecomposition, s"], rows)
    atoms = [float(m["atoms"]) for m in found]
    print(
        f"Direct, M = {M}: pass over the rows: time ~ atoms^{exponent(atoms, [m['pass'] for m in found]):.2f}, ", end=""
    )
    print(f"memory ~ atoms^{exponent(atoms, [m['memory'] for m in found]):.2f}\n")
    rows, kept = [], []
    for n in exact:
        m = _measured("exact", source, n)
        if "failed" in m:
            rows.append([n, "-", "-", "-", m["failed"]])
            break
        kept.append((float(n), m))
        rows.append([n, m["atoms"], m["kernel"], m["factor"], f"{m['memory']:.0f} MB"])
    table(["structures", "atoms", "kernel, s", "factorisation, s", "dense matrices"], rows)
    sizes = [n for n, _ in kept]
    for name in ("kernel", "factor", "memory"):
        print(f"Exact, {name} ~ n^{exponent(sizes, [m[name] for _, m in kept]):.2f}")
    print(flush=True)


def _measured(kind: str, source: str, n: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scaling", kind, source, str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": f"ended with {done.returncode}: {done.stderr.strip().splitlines()[-1][:80]}"}  # type: ignore[dict-item]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _data(source: str, n: int) -> FeatureStore:
    if source == "synthetic":
        return synthetic(n, 4, 16)
    whole = store("w_be/W_train")
    folder = whole.path.with_name(f"{whole.path.name}-{n}")
    if not (folder / "manifest.json").exists():
        step = whole.n_structures / n
        wanted = {int(i * step) for i in range(n)}
        indices = iter(range(whole.n_structures))
        repack(whole.path, folder, 64 * 1024**2, lambda record: next(indices) in wanted)
    return FeatureStore(folder)


def _run(kind: str, source: str, n: int) -> dict[str, float]:
    data = _data(source, n)
    kernel = SetKernel(Gaussian(3.0), SpeciesMixing(0.0), "sum", Transform.identity(data.header.dim))
    baseline = fit_baseline(data, "composition")
    if kind == "exact":
        resource.setrlimit(resource.RLIMIT_AS, (_LIMIT, _LIMIT))  # an error instead of the system's killer
        room = torch.empty(3, data.n_structures, data.n_structures, dtype=torch.float64)  # fails before work is wasted
        del room
        landmarks = WholeStructures().select(data, kernel)
        start = time.perf_counter()
        gram = torch.cat([kernel.rows(batch, landmarks) for batch in data])
        kernel_seconds = time.perf_counter() - start
        gram.diagonal().add_(1e-3)
        torch.linalg.cholesky(gram)
        factor = time.perf_counter() - start - kernel_seconds
        memory = 3 * gram.numel() * 8 / 1e6  # its blocks, the matrix, the factor
        return {"atoms": data.n_atoms, "kernel": kernel_seconds, "factor": factor, "memory": memory}
    landmarks = Uniform(M).select(data, kernel)
    start = time.perf_counter()
    problem = Problem(kernel, landmarks, baseline)
    whitening = problem.whitening()
    whitened = time.perf_counter()
    rows = problem.rows(Source(data))
    warm = next(iter(rows))
    del warm
    peak = [anonymous_mb()]

    class Memory(Silent):
        def advance(self, steps: int = 1) -> None:
            peak.append(anonymous_mb())

    begun = time.perf_counter()
    moments = Direct().accumulate(problem, rows, whitening, Run(progress=Memory()))
    passed = time.perf_counter()
    part = next(iter(moments.values()))[0]
    ridge_path(part.gram, part.target, (1e-6, 1e-4))
    return {
        "atoms": data.n_atoms,
        "pass": passed - begun,
        "memory": max(peak),
        "whiten": whitened - start,
        "path": time.perf_counter() - passed,
    }


if __name__ == "__main__":
    print(json.dumps(_run(sys.argv[1], sys.argv[2], int(sys.argv[3]))))

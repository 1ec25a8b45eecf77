"""Time and memory against the number of structures: Direct's pass and Exact, each size in its own process.

Memory is the measured peak of a process apart from mapped files, less what it held before the work began: the
libraries, and the store that was opened.
"""

import json
import resource
import subprocess
import sys
import time

import torch

from benchmarks import kept
from benchmarks.data import ROOT, store, synthetic
from benchmarks.measuring import Peak, exponent, table
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, Transform
from mekrr_scale.landmarks import Uniform, WholeStructures
from mekrr_scale.models import fit_baseline
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
    found = [measured("direct", source, n) for n in direct]
    rows: list[list[object]] = [
        [m["structures"], m["atoms"], m["pass"], m["memory"], m["whiten"], m["path"]] for m in found
    ]
    table(["structures", "atoms", "pass, s", "memory of the pass, MB", "whitening, s", "eigendecomposition, s"], rows)
    atoms = [m["atoms"] for m in found]
    print(
        f"Direct, M = {M}: pass over the rows: time ~ atoms^{exponent(atoms, [m['pass'] for m in found]):.2f}, ", end=""
    )
    print(f"memory ~ atoms^{exponent(atoms, [m['memory'] for m in found]):.2f}\n")
    rows, fits = [], []
    for n in exact:
        m = measured("exact", source, n)
        if "failed" in m:
            rows.append([n, "-", "-", "-", m["failed"]])
            break
        fits.append(m)
        rows.append([m["structures"], m["atoms"], m["kernel"], m["factor"], m["memory"]])
    table(["structures", "atoms", "kernel, s", "factorisation, s", "memory of both, MB"], rows)
    sizes = [m["structures"] for m in fits]
    for name in ("kernel", "factor", "memory"):
        print(f"Exact, {name} ~ n^{exponent(sizes, [m[name] for m in fits]):.2f}")
    print(flush=True)


def measured(kind: str, source: str, n: int) -> dict[str, float]:
    """What a process of its own found; the structures and atoms are those that it had."""
    _data(source, n)  # made before, so that its process reads it as every other does
    command = [sys.executable, "-m", "benchmarks.scaling", kind, source, str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        return {"failed": f"ended with {done.returncode}: {last[:80]}"}  # type: ignore[dict-item]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _data(source: str, n: int) -> FeatureStore:
    found = synthetic(n, 4, 16) if source == "synthetic" else thinned(n)
    if found.n_structures != n:
        raise ValueError(f"{found.path} holds {found.n_structures} structures, not {n}")
    return found


def thinned(n: int) -> FeatureStore:
    """As many structures of the real set, evenly spread over it."""
    whole = store("w_be/W_train")
    if whole.n_structures < n:
        raise ValueError(f"w_be/W_train has {whole.n_structures} structures, {n} were asked for")
    folder = kept.folder() / f"{whole.path.name}-{n}"  # the key of the whole is part of its name
    if not (folder / "manifest.json").exists():
        step = whole.n_structures / n
        wanted = {int(i * step) for i in range(n)}
        indices = iter(range(whole.n_structures))
        repack(whole.path, folder, 64 * 1024**2, lambda record: next(indices) in wanted)
    return FeatureStore(folder)


def one_fit(kind: str, source: str, n: int) -> dict[str, float]:
    _warm()
    data = _data(source, n)
    kernel = SetKernel(Gaussian(3.0), SpeciesMixing(0.0), "sum", Transform.identity(data.header.dim))
    sizes = {"structures": data.n_structures, "atoms": data.n_atoms}
    return {**sizes, **(_exact(data, kernel) if kind == "exact" else _direct(data, kernel))}


def _exact(data: FeatureStore, kernel: SetKernel) -> dict[str, float]:
    resource.setrlimit(resource.RLIMIT_AS, (_LIMIT, _LIMIT))  # an error instead of the system's killer
    room = torch.empty(3, data.n_structures, data.n_structures, dtype=torch.float64)  # fails before work is wasted
    del room
    landmarks = WholeStructures().select(data, kernel)
    with Peak() as peak:
        start = time.perf_counter()
        gram = torch.cat([kernel.rows(batch, landmarks) for batch in data])
        made = time.perf_counter()
        gram.diagonal().add_(1e-3)
        torch.linalg.cholesky(gram)
        factored = time.perf_counter()
    return {"kernel": made - start, "factor": factored - made, "memory": peak.added}


def _direct(data: FeatureStore, kernel: SetKernel) -> dict[str, float]:
    landmarks = Uniform(M).select(data, kernel)
    problem = Problem(kernel, landmarks, fit_baseline(data, "composition"))
    start = time.perf_counter()
    whitening = problem.whitening()
    whitened = time.perf_counter()
    rows = problem.rows(Source(data))
    with Peak() as peak:
        begun = time.perf_counter()
        moments = Direct().accumulate(problem, rows, whitening, Run())
        passed = time.perf_counter()
    part = next(iter(moments.values()))[0]
    solved = time.perf_counter()
    ridge_path(part.gram, part.target, (1e-6, 1e-4))
    return {
        "pass": passed - begun,
        "memory": peak.added,
        "whiten": whitened - start,
        "path": time.perf_counter() - solved,
    }


def _warm() -> None:
    """Everything once on a few structures: neither time nor memory of the smallest size pays for libraries."""
    data = synthetic(50, 4, 16)
    kernel = SetKernel(Gaussian(3.0), SpeciesMixing(0.0), "sum", Transform.identity(16))
    problem = Problem(kernel, Uniform(20).select(data, kernel), fit_baseline(data, "composition"))
    moments = Direct().accumulate(problem, problem.rows(Source(data)), problem.whitening(), Run())
    part = next(iter(moments.values()))[0]
    ridge_path(part.gram, part.target, (1e-6, 1e-4))
    torch.linalg.cholesky(part.gram + torch.eye(len(part.gram)))


if __name__ == "__main__":
    print(json.dumps(one_fit(sys.argv[1], sys.argv[2], int(sys.argv[3]))))

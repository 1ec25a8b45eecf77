"""The falkon library beside our solvers: HCOO/Cu(110), M = 1000, ridge 1e-6, the same landmarks, two threads.

    python -m benchmarks.falkon_library --build [SOURCE]    # once: 5 to 12 minutes, a C++ compiler; then the table
    python -m benchmarks falkon_library                     # the table, from what was built

The library (Meanti, Carratino, Rosasco, Rudi 2020) is not on PyPI. It is compiled against the torch that is installed,
into build/falkon; SOURCE is what pip takes: a folder, or a git address. None of its code is here.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.data import ROOT, store
from benchmarks.measuring import table
from mekrr_scale.arrays import FeatureBatch
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, fit_transform
from mekrr_scale.landmarks import Uniform, median_distance
from mekrr_scale.models import fit_baseline
from mekrr_scale.regression import Problem, Source
from mekrr_scale.solvers import Direct, Falkon, FalkonLibrary, Solution
from mekrr_scale.solvers.library_kernel import library_kernel

SOURCE = "git+https://github.com/FalkonML/falkon@387d45603c27d7e0d79bc4ce88b1ad951c090a7e"  # 0.9.0
FOLDER = ROOT / "build" / "falkon"
RIDGE, LANDMARKS, REPEATS = 1e-6, 1000, 3


def build(source: str, folder: Path) -> None:
    """Compile the library into a folder; of the packages that it needs only those that are not installed go there."""
    pip = [sys.executable, "-m", "pip", "install", "--prefix", str(folder)]
    subprocess.run([*pip, "setuptools", "wheel", "ninja"], check=True)
    beside = {"PYTHONPATH": str(_site(folder)), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    environment = {**os.environ, **beside, "FORCE_ONLY_CPU": "1"}
    subprocess.run([*pip, "--no-build-isolation", source], check=True, env=environment)


def _site(folder: Path) -> Path:
    """Where pip put packages: the name of Python's version is part of it."""
    return next(iter(sorted(folder.glob("**/site-packages"))), folder)


def library() -> Any:
    """The library, from where it was built or is installed."""
    if importlib.util.find_spec("falkon") is None:
        sys.path.insert(0, str(_site(FOLDER)))
    if importlib.util.find_spec("falkon") is None:
        return None
    return importlib.import_module("falkon")


@dataclass(frozen=True)
class Evaluated:
    """The set kernel, made anew from features whenever the library asks: what it does by default."""

    problem: Problem
    batches: list[FeatureBatch]
    root: Tensor  # of each structure's weight
    asked: list[int] = field(default_factory=list)  # kernel entries

    @property
    def structures(self) -> Tensor:
        return torch.arange(len(self.root), dtype=torch.float64)[:, None]

    @property
    def centres(self) -> Tensor:
        return torch.arange(LANDMARKS, dtype=torch.float64)[:, None] + len(self.root)

    def block(self, rows: Tensor, columns: Tensor) -> Tensor:
        """All of K_ZZ, K_XZ or K_ZX: the library cuts them only where memory is short."""
        kernel, landmarks = self.problem.kernel, self.problem.landmarks
        self.asked.append(len(rows) * len(columns))
        if len(rows) == len(columns) == LANDMARKS:
            return kernel.gram(landmarks)
        found = self.root[:, None] * torch.cat([kernel.rows(batch, landmarks) for batch in self.batches])
        return found if len(columns) == LANDMARKS else found.T


def by_default(falkon: Any, problem: Problem, batches: list[FeatureBatch], root: Tensor, target: Tensor) -> Tensor:
    """Coefficients from 50 steps of the library as it comes: K_nM is not stored, since indices are narrow vectors."""
    unit = root / root.square().mean().sqrt()  # rows as they are, not per atom
    kernel, options = Evaluated(problem, batches, unit), falkon.FalkonOptions(use_cpu=True)
    solver = falkon.Falkon(
        kernel=library_kernel(kernel, options),
        penalty=RIDGE / float(root.square().sum()),
        M=LANDMARKS,
        center_selection=falkon.center_selection.FixedSelector(kernel.centres),
        maxiter=50,
        options=options,
    )
    value = solver.fit(kernel.structures, (unit * target)[:, None]).alpha_[:, 0].clone()
    print(f"library's default: {sum(kernel.asked) / (len(root) * LANDMARKS):.1f} n M kernel entries", flush=True)
    return value


def main() -> None:
    falkon = library()
    if falkon is None:
        print("the falkon library is not here; `python -m benchmarks.falkon_library --build` makes it", file=sys.stderr)
        return
    torch.set_num_threads(2)
    print(
        f"falkon {falkon.__version__}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}, 2 threads\n",
        flush=True,
    )
    start = time.perf_counter()
    train = store("hcoo_cu110/train")
    transform = fit_transform(train, "scale-per-species")
    length = 4 * median_distance(train, transform, 0)
    kernel = SetKernel(Gaussian(length), SpeciesMixing(1.0), "sum", transform)
    problem = Problem(kernel, Uniform(LANDMARKS).select(train, kernel), fit_baseline(train, "composition"))
    source, before = Source(train), time.perf_counter() - start
    batches, blocks = list(train), list(problem.rows(source))
    root = torch.cat([block.weight for block in blocks]).sqrt()
    target = torch.cat([block.target for block in blocks])
    rows = torch.cat([block.rows.double() for block in blocks])
    solvers = {
        "library, kernel stored, 20 steps": FalkonLibrary((RIDGE,), max_steps=20),
        "library, kernel stored, 50 steps": FalkonLibrary((RIDGE,), max_steps=50),
        "library, kernel stored, 500 steps": FalkonLibrary((RIDGE,), max_steps=500),
        "direct": Direct((RIDGE,)),
        "falkon": Falkon((RIDGE,)),
    }
    made: dict[str, Callable[[], tuple[Tensor, str]]] = {
        name: lambda solver=solver: _solved(solver.solve(problem, source)) for name, solver in solvers.items()
    }
    made["library as it comes, 50 steps"] = lambda: (by_default(falkon, problem, batches, root, target), "")
    found: list[list[object]] = []
    for name, run in made.items():
        taken = []
        for _ in range(REPEATS if name in solvers else 1):
            start, cpu = time.perf_counter(), time.process_time()
            value, result = run()
            taken.append((time.perf_counter() - start, time.process_time() - cpu))
        rmse = 1e3 * float(((rows @ value - target) * root).square().mean().sqrt())
        found.append([name, *map(min, zip(*taken, strict=True)), rmse, result])
    print(f"statistics, length scale, landmarks and baseline, the same for all: {before:.2f} s\n")
    table(["solver", "seconds, rows and solution", "CPU seconds", "training RMSE, meV/atom", "result"], found)
    print(f"best of {REPEATS} (as it comes: one run); load {os.getloadavg()[0]:.1f}")


def _solved(solution: Solution) -> tuple[Tensor, str]:
    residuals = solution.effort.residuals
    return solution.value[:, 0], solution.result.name + (f", residual {residuals[-1]:.1e}" if residuals else "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", nargs="?", const=SOURCE, metavar="SOURCE", help=f"compile it first, from {SOURCE}")
    given = parser.parse_args().build
    if given is not None:
        build(given, FOLDER)
    main()

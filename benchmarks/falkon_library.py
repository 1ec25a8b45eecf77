"""The falkon library beside our solvers: HCOO/Cu(110), M = 1000, ridge 1e-6, the same landmarks, two threads.

    python -m benchmarks.falkon_library --build ~/falkon    # once: 12 minutes and a C++ compiler
    PYTHONPATH=~/falkon python -m benchmarks.falkon_library

The library is not on PyPI; it is built from its public source against the torch that is installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.data import store
from benchmarks.measuring import alike, table
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, fit_transform
from mekrr_scale.landmarks import Uniform, median_distance
from mekrr_scale.models import fit_baseline
from mekrr_scale.regression import Problem, Source
from mekrr_scale.solvers import Direct, Falkon, FalkonLibrary

SOURCE = "git+https://github.com/FalkonML/falkon@387d45603c27d7e0d79bc4ce88b1ad951c090a7e"  # 0.9.0
RIDGE = 1e-6


def build(folder: Path) -> None:
    """Compile the library into a folder, without the packages that are here already."""
    pip = [sys.executable, "-m", "pip", "install", "--target", str(folder)]
    environment = {**os.environ, "FORCE_ONLY_CPU": "1"}
    subprocess.run([*pip, "--no-build-isolation", "--no-deps", SOURCE], check=True, env=environment)
    subprocess.run([*pip, "--no-deps", "keopscore", "pykeops", "psutil", "scikit-learn", "joblib"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, help="folder to build the library in")
    folder = parser.parse_args().build
    if folder is not None:
        build(folder)
        return
    torch.set_num_threads(2)
    train = store("hcoo_cu110/train")
    transform = fit_transform(train, "scale-per-species")
    kernel = SetKernel(Gaussian(1.0), SpeciesMixing(1.0), "sum", transform)
    kernel = SetKernel(Gaussian(4 * median_distance(train, transform, 0)), SpeciesMixing(1.0), "sum", transform)
    problem = Problem(kernel, Uniform(1000).select(train, kernel), fit_baseline(train, "composition"))
    source = Source(train)
    solvers = {
        "library, 20 steps": FalkonLibrary((RIDGE,), max_steps=20),
        "library, 50 steps": FalkonLibrary((RIDGE,), max_steps=50),
        "falkon": Falkon((RIDGE,)),
        "direct": Direct((RIDGE,)),
    }
    blocks = list(problem.rows(source))
    rows: list[list[object]] = []
    times = alike([lambda solver=solver: solver.solve(problem, source) for solver in solvers.values()])  # type: ignore[misc]
    for (name, solver), (first, taken) in zip(solvers.items(), times, strict=True):
        value = solver.solve(problem, source).value[:, 0]
        errors = torch.cat([(block.rows.double() @ value - block.target) * block.weight.sqrt() for block in blocks])
        rows.append([name, first, taken, 1e3 * float(errors.square().mean().sqrt())])
    table(["solver", "seconds, first run", "best of three more, in turns", "training RMSE (meV/atom)"], rows)


if __name__ == "__main__":
    main()

"""10^4 MD steps with the calculator: memory and time per step at the start and at the end."""

import time

import numpy as np
from ase.build import bulk
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.units import fs

from benchmarks.data import EXAMPLES, extracted
from benchmarks.measuring import anonymous_mb, table
from mekrr_scale.models import MekrrCalculator
from mekrr_scale.pipeline import ExtractPlan, FitPlan, LandmarkPlan, fit


def main(steps: int = 10_000) -> None:
    store, _ = extracted(EXAMPLES / "hcoo_cu110" / "train.xyz.xz", "md", ExtractPlan())
    report = fit(store, FitPlan(landmarks=LandmarkPlan(count=300)))
    # a small cell, so that ten thousand steps take minutes: four copper atoms of the slab's bulk
    atoms = bulk("Cu", "fcc", 3.63, cubic=True)
    atoms.calc = MekrrCalculator(report.model)
    thermalize_momenta(atoms, 300, rng=np.random.default_rng(0))
    rows: list[list[object]] = []
    with VelocityVerlet(atoms, 1.0 * fs) as dynamics:
        dynamics.run(100)
        for done in range(0, steps, steps // 5):
            start = time.perf_counter()
            dynamics.run(steps // 5)
            per_step = 1e3 * (time.perf_counter() - start) / (steps // 5)
            rows.append([done + steps // 5, per_step, round(anonymous_mb(), 1)])
    table(["steps", "ms per step", "memory then, MB"], rows)

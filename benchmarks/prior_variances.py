"""What K(x, x) of single atoms by formula saves: a default fit with uncertainties on HCOO/Cu(110), with it and without."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.data import store
from benchmarks.measuring import table
from mekrr_scale.arrays import FeatureBatch
from mekrr_scale.kernels import SetKernel
from mekrr_scale.pipeline import FitPlan, fit

REPEATS = 3


def one_by_one(kernel: SetKernel, batch: FeatureBatch, chosen: Tensor | None = None) -> Tensor:
    """``SetKernel.diagonal`` as it was: every structure, of one atom too, in a loop of its own."""
    prior = kernel._variances
    asked = torch.ones(batch.n_structures, dtype=torch.bool) if chosen is None else chosen
    found = torch.zeros(batch.n_structures, dtype=torch.float64)
    for i in asked.nonzero()[:, 0].tolist():
        atoms = prior._structure(batch, i)
        gram = prior.atom.gram(atoms.features, atoms.features)
        found[i] = (gram * atoms.weights(0, len(gram))).sum()
    return found


def main() -> None:
    torch.set_num_threads(2)
    train = store("hcoo_cu110/train")
    by_formula, plan = SetKernel.diagonal, FitPlan()
    ways = {"by formula": by_formula, "one by one": one_by_one}
    taken: dict[str, list[tuple[float, ...]]] = {name: [] for name in [*ways, "no uncertainty"]}
    bands: dict[str, float] = {}
    for _ in range(REPEATS):  # in turns, so that neighbours disturb all alike
        for name, runs in taken.items():
            inside = [0.0, 0]

            def timed(kernel: SetKernel, batch: FeatureBatch, chosen: Tensor | None = None) -> Tensor:
                start = time.process_time()
                found = ways.get(name, by_formula)(kernel, batch, chosen)  # noqa: B023
                inside[0] += time.process_time() - start  # noqa: B023
                inside[1] += batch.n_structures  # noqa: B023
                return found

            validation = replace(plan.validation, uncertainty=name in ways)
            start, cpu = time.perf_counter(), time.process_time()
            with patch.object(SetKernel, "diagonal", timed):
                model = fit(train, replace(plan, validation=validation)).model
            runs.append((time.perf_counter() - start, time.process_time() - cpu, *inside))
            print(f"{name}: {runs[-1]}", flush=True)
            if model.posterior is not None:
                bands[name] = model.posterior.energy.within_95
    rows = [[name, *map(min, zip(*values, strict=True))] for name, values in taken.items()]
    table(["K(x, x) of single atoms", "seconds", "CPU seconds", "of these K(x, x)", "structures and atoms"], rows)
    print(f"best of {REPEATS}; load {os.getloadavg()[0]:.1f}; half-widths of the 95 % interval {bands}")


if __name__ == "__main__":
    main()

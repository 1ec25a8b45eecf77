"""Falkon on HCOO/Cu(110): iterations with both preconditioners, agreement with Direct, errors before it is solved."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks.data import training_and_test
from benchmarks.measuring import table
from mekrr_scale.arrays import RowKind
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, fit_transform
from mekrr_scale.landmarks import Uniform, median_distance
from mekrr_scale.models import fit_baseline
from mekrr_scale.regression import Problem, Source, assign_folds
from mekrr_scale.solvers import Direct, Falkon


def reached(residuals: Sequence[float], limit: float) -> int | str:
    """Iterations until a residual is below the limit; where none is, that all of them did not do."""
    return next((i + 1 for i, r in enumerate(residuals) if r < limit), f"not in {len(residuals)}")


def main(count: int = 1000) -> None:
    train, test = training_and_test("hcoo_cu110/train", "hcoo_cu110/val")
    transform = fit_transform(train, "scale-per-species")
    kernel = SetKernel(Gaussian(1.0), SpeciesMixing(1.0), "sum", transform)
    length = 4 * median_distance(train, kernel.transform, 0)
    kernel = SetKernel(Gaussian(length), SpeciesMixing(1.0), "sum", transform)
    landmarks = Uniform(count).select(train, kernel)
    problem, source = Problem(kernel, landmarks, fit_baseline(train, "composition")), Source(train)
    held_out = torch.cat([kernel.rows(batch, landmarks) for batch in test])
    rows: list[list[object]] = []
    for ridge in (1e-8, 1e-6, 1e-4):
        expected = held_out @ Direct((ridge,)).solve(problem, source).value[:, 0]
        for name, part in (("subset", 0.25), ("subset", 0.5), ("falkon", 0.0)):
            solver = Falkon((ridge,), preconditioner=name, subset=part or 0.5, rtol=1e-12, max_steps=400)
            start = time.perf_counter()
            solution = solver.solve(problem, source)
            taken = time.perf_counter() - start
            effort = solution.effort
            to_five = reached(effort.residuals, 1e-5)
            found = held_out @ solution.value[:, 0]
            error = float((found - expected).abs().max() / expected.abs().max())
            shown = f"{name} {part:g}" if part else "classical"
            rows.append([ridge, shown, to_five, effort.iterations, solution.result.name, error, taken])
    header = ["ridge", "preconditioner", "to 1e-5", "in all", "result", "against Direct", "seconds"]
    table(header, rows)
    _unsolved(replace(problem, folds=assign_folds(train, 5)), source)


def _unsolved(problem: Problem, source: Source) -> None:
    """Cross-validated errors of single ridges after so many iterations, over Direct's."""
    rows: list[list[object]] = []
    for ridge in (1e-10, 1e-8, 1e-7, 1e-6):
        (expected,) = Direct((ridge,)).solve(problem, source).path.points
        for steps in (30, 100, 300):
            found = Falkon((ridge,), max_steps=steps).solve(problem, source)
            ratio = found.path.points[0].rmse[RowKind.ENERGY] / expected.rmse[RowKind.ENERGY]
            rows.append([ridge, found.effort.iterations, min(found.effort.residuals), found.result.name, ratio])
    table(["ridge", "iterations", "relative residual", "result", "error over Direct's"], rows)

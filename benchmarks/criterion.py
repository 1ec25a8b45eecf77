"""What candidates are chosen by: criteria, force weights and ridges, cross-validated errors against held-out ones.

Every length scale, standardisation, weight and ridge is one candidate of a set: each criterion chooses among the same
ones by their cross-validated errors, and is judged by errors on frames that no fit sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms

from benchmarks import kept
from benchmarks.data import apart, extracted, structures
from benchmarks.measuring import table
from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.models import Whitening
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, RowPlan
from mekrr_scale.pipeline.fitting.data import FitData
from mekrr_scale.pipeline.fitting.search import choices
from mekrr_scale.regression import Balanced, Problem, Run, score
from mekrr_scale.solvers import Direct, direct_work, weight_paths
from mekrr_scale.solvers.moments import root_mean
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import read_structures

ENERGY, FORCE = RowKind.ENERGY, RowKind.FORCE
SPECS = {"7net-0": BackboneSpec("sevennet"), "chgnet": BackboneSpec("chgnet", "conv3")}
WEIGHTS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
PLAN = FitPlan(
    kernel=KernelPlan(length_scales="2x,4x,8x", standardize=("scale-per-species", "centre-per-species")),
    baseline="composition",
    rows=RowPlan(weights={"force": WEIGHTS}),
)
BALANCED, SUMMED = Balanced(frozenset({ENERGY, FORCE})), ByKind.of({ENERGY: 1.0, FORCE: 1e-4}, 0.0)
# name, training file, frames, directions of each, test file, test frames
SETS: tuple[tuple[str, str, int, int | str, str, int], ...] = (
    ("3BPA, 25 frames", "mol_3bpa/train_300K", 25, "all", "mol_3bpa/train_300K", 100),
    ("3BPA, 50 frames", "mol_3bpa/train_300K", 50, "all", "mol_3bpa/train_300K", 100),
    ("HCOO/Cu(110), 30 frames", "hcoo_cu110/train", 30, 8, "hcoo_cu110/val", 60),
    ("mlearn Si, 20 frames", "mlearn/Si_train", 20, 8, "mlearn/Si_train", 60),
    ("mlearn Mo, 20 frames", "mlearn/Mo_train", 20, 8, "mlearn/Mo_train", 60),
)


@dataclass(frozen=True)
class Tested:
    """A candidate with its errors, eV/atom and eV/angstrom: cross-validated, and on frames that no fit sees."""

    setting: str
    weight: float  # of forces
    ridge: float
    validated: ByKind[float]
    held_out: ByKind[float]


def candidates(train: Sequence[FeatureStore], test: FeatureStore, plan: FitPlan) -> list[Tested]:
    """All of a plan's."""
    solver, data, other = Direct(), FitData.open(train, plan), FitData.open(test, plan)
    folds = data.folds()
    found: list[Tested] = []
    for choice in choices(plan, data):
        (problem,) = data.family(choice, folds)
        problem = problem.of_kinds(data.source.kinds)
        whitening = problem.whitening()
        sums = solver.accumulate(problem, problem.rows(data.source), whitening, Run())
        path = solver.from_sums(problem, sums, whitening).path
        tests = _tests(problem, other, whitening)
        everything = direct_work.normals(sums, range(problem.n_folds))
        ridges = tuple(dict.fromkeys(point.ridge for point in path.points))
        paths = weight_paths(everything, problem.weights, ridges)
        errors = {weights: _errors(tests, values) for weights, values in paths.items()}
        for point in path.points:
            place = ridges.index(point.ridge)
            held = {kind: float(values[place]) for kind, values in errors[point.weights].items()}
            setting = f"{choice.standardize}, {choice.length}"
            found.append(Tested(setting, point.weights[FORCE], point.ridge, point.rmse, ByKind.of(held, math.nan)))
    return found


def _tests(problem: Problem, data: FitData, whitening: Whitening) -> direct_work.MomentTable:
    """Sums over the rows of other data, from which the errors of any solution follow."""
    whole = replace(problem, folds=None)
    return Direct().accumulate(whole, whole.rows(data.source), whitening, Run())


def _errors(tests: direct_work.MomentTable, solutions: torch.Tensor) -> dict[RowKind, torch.Tensor]:
    """Root mean squares over all test rows, for every ridge."""
    found = {}
    for kind, parts in tests.items():
        present = [part for part in parts if part.rows]
        if present:
            unmoved = torch.zeros(present[0].counts.shape[1], dtype=torch.float64)
            squares = sum((part.squared_error(solutions, unmoved) for part in present), torch.zeros(1))
            found[kind] = root_mean(squares, sum(part.share for part in present))
    return found


def criteria(listed: Sequence[Tested]) -> dict[str, Callable[[Tested], float]]:
    """Those that are compared; what they choose is what makes them least."""
    best = {kind: min(line.validated[kind] for line in listed) for kind in (ENERGY, FORCE)}
    return {
        "summed": lambda line: score(SUMMED, line.validated),
        "balanced": lambda line: score(BALANCED, line.validated),
        "sum of squares relative to the best": lambda line: sum((line.validated[k] / best[k]) ** 2 for k in best),
        "forces alone": lambda line: line.validated[FORCE],
        "held-out (balanced)": lambda line: score(BALANCED, line.held_out),
    }


def compare(name: str, train: Sequence[FeatureStore], test: FeatureStore, count: int) -> Iterator[list[object]]:
    """A line for each criterion, with the setting it chooses."""
    plan = FitPlan(kernel=PLAN.kernel, baseline=PLAN.baseline, rows=PLAN.rows, landmarks=LandmarkPlan(count=count))
    listed = candidates(train, test, plan)
    for criterion, value in criteria(listed).items():
        line = min(listed, key=value)
        setting = f"{line.setting}, w_F {line.weight:g}, ridge {line.ridge:.0e}"
        yield [name, criterion, setting, *_shown(line.validated), *_shown(line.held_out)]
    for weight in WEIGHTS:
        of_weight = [line for line in listed if line.weight == weight]
        line = min(of_weight, key=lambda line: score(BALANCED, line.validated))
        yield [
            name,
            f"w_F = {weight:g} alone",
            f"ridge {line.ridge:.0e}",
            *_shown(line.validated),
            *_shown(line.held_out),
        ]


def _shown(rmse: ByKind[float]) -> tuple[float, float]:
    return round(1e3 * rmse[ENERGY], 2), round(1e3 * rmse[FORCE], 1)


def ridges(train: FeatureStore, test: FeatureStore, count: int = 1000) -> Iterator[list[object]]:
    """Energies alone: the errors of ridges, down to what the default grid is extended to."""
    grid = tuple(10.0**k for k in range(-16, -3))
    plan = FitPlan(
        kernel=KernelPlan(length_scales="4x"), baseline="composition", rows=RowPlan(derivatives=False),
        landmarks=LandmarkPlan(count=count),
    )  # fmt: skip
    data, other = FitData.open(train, plan), FitData.open(test, plan)
    (choice,) = choices(plan, data)
    (problem,) = data.family(choice, data.folds())
    problem = problem.of_kinds(data.source.kinds)
    whitening = problem.whitening()
    sums = Direct().accumulate(problem, problem.rows(data.source), whitening, Run())
    chosen = Direct().from_sums(problem, sums, whitening)
    path = Direct(grid).from_sums(problem, sums, whitening).path
    tests = _tests(problem, other, whitening)
    (values,) = weight_paths(direct_work.normals(sums, range(problem.n_folds)), problem.weights, grid).values()
    held = _errors(tests, values)[ENERGY]
    for i, point in enumerate(path.points):
        yield [f"{point.ridge:.0e}", round(1e3 * point.rmse[ENERGY], 3), round(1e3 * float(held[i]), 3)]
    tried = [point.ridge for point in chosen.path.points]
    yield [f"default grid chooses {chosen.ridges[0]:.1e} of {min(tried):.0e} to {max(tried):.0e}", "", ""]


@cache
def _shuffled(name: str) -> list[Atoms]:
    found = list(read_structures(structures(f"{name}.xyz.xz")))
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def _written(name: str, part: slice) -> Path:
    """Frames of a random order, as a file."""
    path = kept.folder() / f"{name.replace('/', '-')}-{part.start}-{part.stop}.xyz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        ase.io.write(path, _shuffled(name)[part])
    return path


def stores(backbone: str) -> Iterator[tuple[str, list[FeatureStore], FeatureStore]]:
    """Name, training and test features of each set."""
    for name, file, count, directions, test_file, tested in SETS:
        parts = slice(0, count), slice(-tested, None) if test_file == file else slice(0, tested)
        apart(training=_shuffled(file)[parts[0]], test=_shuffled(test_file)[parts[1]])
        make = partial(_extracted, backbone)
        yield name, [make(file, parts[0], directions)], make(test_file, parts[1], 4)


def _extracted(backbone: str, file: str, part: slice, directions: int | str) -> FeatureStore:
    plan = ExtractPlan(SPECS[backbone], derivatives=directions)  # type: ignore[arg-type]
    return extracted(_written(file, part), f"criterion-{backbone}-{file}-{part.start}", plan)[0]


HEADER = ["set", "chosen by", "setting", "CV energy", "CV forces", "held-out energy", "held-out forces"]


def main(count: int = 500) -> None:
    rows: list[list[object]] = []
    for backbone in SPECS:
        for name, train, test in stores(backbone):
            for row in compare(f"{name}, {backbone}", train, test, count):
                rows.append(row)
                print(*row, sep=" | ", flush=True)
    print("\nRMSE in meV/atom and meV/angstrom (along stored directions)\n")
    table(HEADER, rows)
    facet = [_extracted_energies(f"pt_co/{name}", part) for name, part in
             (("pt111_train", slice(0, 120)), ("pt111_val", slice(0, 50)))]  # fmt: skip
    print("\nPt(111), energies alone, 120 frames\n")
    table(["ridge", "CV energy", "held-out energy"], list(ridges(*facet)))


def _extracted_energies(file: str, part: slice) -> FeatureStore:
    return extracted(_written(file, part), f"criterion-{file}-{part.start}", ExtractPlan(SPECS["chgnet"]))[0]

"""The weight of rows whose error is expected, once that of the energies is known.

Rows of a kind k that are wrong by sigma_k weigh 1/sigma_k^2: beside energies of weight 1 those of the network's
stiffness (``elastic``) weigh (sigma_energy / sigma_elastic)^2. The first is what cross-validation finds, so that they
are weighed twice: for the search as if energies were wrong by 6 meV/atom, and for the candidate that was chosen by what
it is wrong by. The more exact the data, the less the network counts; where they say nothing of a crystal's volume, such
rows have the ridge alone against them, which falls with the same errors.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch

from mekrr_scale.arrays import KINDS, ByKind, RowKind, fingerprint
from mekrr_scale.pipeline.fitting.data import FitData
from mekrr_scale.pipeline.fitting.elastic import EXPECTED
from mekrr_scale.pipeline.fitting.search import Candidate
from mekrr_scale.regression import Problem, Run
from mekrr_scale.solvers import Accumulating, Solution, from_rows, resumed

_NEAR = 2.0  # a weight that is right within this factor stays: neither energies nor stiffness tell


def following(best: Candidate, data: FitData, run: Run) -> Candidate:
    """The candidate with rows of the stiffness weighed by the errors of its energies; itself where that says the same.

    Ridge is chosen anew, all else stays.
    """
    weights = best.solution.weights
    right = weights[RowKind.ENERGY] * (best.tried.rmse[RowKind.ENERGY] / EXPECTED) ** 2
    known = data.elastic_follows and math.isfinite(right) and right > 0
    if not known or max(right, weights[RowKind.ELASTIC]) < _NEAR * min(right, weights[RowKind.ELASTIC]):
        return best
    if not _any(data):
        return best
    problem = replace(best.problem, weights=(ByKind.of({**weights, RowKind.ELASTIC: right}, 0.0),))
    run.progress.stage("weight of the bulk modulus", data.n_rows)
    part = run.part("following", {"weight": right, "landmarks": fingerprint(problem.landmarks)})
    solution = resumed(partial(_solved, best, problem, data), problem, data.source, part)
    found = best.again(problem, solution)
    return found if math.isfinite(found.score) else best


def remark(best: Candidate) -> str:
    """What is said of it."""
    unit = KINDS[RowKind.ENERGY].unit
    return (
        f"rows of the network's bulk modulus weigh {best.solution.weights[RowKind.ELASTIC]:.1e}: energies are right to "
        f"{unit.factor * best.tried.rmse[RowKind.ENERGY]:.2g} {unit.text}"
    )


def _any(data: FitData) -> bool:
    """Whether there are such rows, which the first rank makes."""
    there = any(True for _ in data.elastic)
    return bool(data.group.broadcast(torch.tensor([there], dtype=torch.int64)))


def _solved(best: Candidate, problem: Problem, data: FitData, run: Run) -> Solution:
    """From the rows that were kept, where there are any."""
    solver, kept, source = data.plan.solver, best.solution.rows, data.source
    if kept is not None and isinstance(solver, Accumulating):
        return from_rows(solver, problem, kept, source.kinds, run)
    return solver.solve(problem, source, run)

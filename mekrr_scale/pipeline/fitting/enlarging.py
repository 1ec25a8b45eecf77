"""More landmarks for the candidate that was chosen, as long as its cross-validated error falls.

Their number is doubled. What is new costs rows of the new columns alone: those of the old ones are kept in memory, or
read again where another solver keeps its own. Ridge and weights are chosen anew at every number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Int64
from torch import Tensor

from mekrr_scale.arrays import Landmarks, fingerprint
from mekrr_scale.pipeline.fitting.costs import largest_share
from mekrr_scale.pipeline.fitting.data import FitData
from mekrr_scale.pipeline.fitting.landmarks import joined, most_of
from mekrr_scale.pipeline.fitting.report import Grown
from mekrr_scale.pipeline.fitting.search import Candidate
from mekrr_scale.regression import KeptRows, Problem, RowBlock, Rows, Run
from mekrr_scale.solvers import LARGEST_EIGEN, Accumulating, Solution, from_rows, resumed

GAIN = 0.01  # of the error, by twice as many landmarks; less is the end
_DOUBLE = 8


@dataclass(frozen=True)
class JoinedRows:
    """The same rows over more columns: those of old landmarks beside those of new ones."""

    old: Rows
    new: Rows
    order: Int64[Tensor, " columns"]  # of each column its place among the old and the new

    def __iter__(self) -> Iterator[RowBlock]:
        return (block for block in self.blocks() if block is not None)

    def blocks(self, skip: int = 0) -> Iterator[RowBlock | None]:
        """See ``Rows``."""
        for own, other in zip(self.old.blocks(skip), self.new.blocks(skip), strict=True):
            if own is None or other is None:
                yield None
                continue
            matrix = torch.cat([own.rows, other.rows], 1)[:, self.order.to(own.rows.device)]
            yield replace(other, matrix=matrix)


@dataclass(frozen=True)
class Growth:
    """The candidate with the lowest score of all numbers, the numbers that were tried, and why it ended."""

    best: Candidate
    curve: tuple[Grown, ...]
    ended: str


def enlarge(best: Candidate, data: FitData, run: Run) -> Growth:
    """Double the landmarks of a candidate until its error stops falling.

    Stops at ``landmarks.grow_to``, where the data give no more, where rows and sums need more than the memory that the
    plan allows, or where the last doubling made the error (the root of the score) less than one per cent smaller.
    """
    most, there = data.plan.landmarks.grow_to, most_of(data.plan, data.counted_atoms, data.displaced)
    last = best
    curve = [Grown(best.problem.landmarks.n_sets, best.tried)]
    ended = f"{most} were the most that were asked for"
    while (now := last.problem.landmarks.n_sets) < most:
        more = data.landmarks(last.problem.kernel, min(2 * now, there))
        landmarks, new, order = joined(last.problem.landmarks, more)
        if new is None:
            ended = "the data hold no more atoms to take"
            break
        if _bytes(data, now, landmarks.n_sets) > data.plan.execution.memory:
            ended = f"rows and sums of {landmarks.n_sets} need more than the memory allowed (--memory)"
            break
        found = _larger(last, landmarks, new, order, data, run)
        curve.append(Grown(landmarks.n_sets, found.tried))
        run.progress.note(f"{landmarks.n_sets} landmarks: {found.tried}")
        best = min(best, found, key=lambda candidate: candidate.score)
        gained = found.score <= (1 - GAIN) ** 2 * last.score
        last = found
        if not gained:
            ended = f"{landmarks.n_sets} made the error less than {GAIN:.0%} smaller"
            break
    return Growth(best, tuple(curve), ended)


def _larger(
    small: Candidate, landmarks: Landmarks, new: Landmarks, order: Tensor, data: FitData, run: Run
) -> Candidate:
    """The same candidate with more landmarks."""
    problem = replace(small.problem, landmarks=landmarks)
    identity = {"landmarks": fingerprint(landmarks), **({} if problem.folds is None else problem.folds.identity)}
    run.progress.stage(f"{landmarks.n_sets} landmarks", data.n_rows)
    part = run.part(f"grown{landmarks.n_sets}", identity)
    solve = partial(_solved, data, small, problem, new, order)
    solution = resumed(solve, problem, data.source, part)
    return small.again(problem, solution)


def _solved(data: FitData, small: Candidate, problem: Problem, new: Landmarks, order: Tensor, run: Run) -> Solution:
    """From the rows of the old landmarks, and those of the new ones alone."""
    solver, source = data.plan.solver, data.source
    apart = problem.n_columns == problem.landmarks.n_sets <= LARGEST_EIGEN and run.execution.device == "cpu"
    if not (apart and isinstance(solver, Accumulating) and source.structures is None):
        return solver.solve(problem, source, run)
    old = small.solution.rows or small.problem.rows(source)
    rows = JoinedRows(old, replace(problem, landmarks=new).rows(source), order)
    return from_rows(solver, problem, KeptRows(rows, run.execution.memory), source.kinds, run)


def _bytes(data: FitData, now: int, then: int) -> float:
    """Rows of both numbers of landmarks, sums by fold, and what decompositions take, on the rank with most rows."""
    energies, directions, _ = largest_share(data)
    folds = data.plan.validation.folds
    sums = sum(min(rows * then, folds * then**2) for rows in (energies, directions))
    return _DOUBLE * ((energies + directions) * (now + then) + sums + 6.0 * then**2)

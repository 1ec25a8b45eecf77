"""What a fit says of its choices: in the log while it runs, and in its report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mekrr_scale.arrays import KINDS
from mekrr_scale.landmarks import n_distinct
from mekrr_scale.pipeline.fitting.data import FitData
from mekrr_scale.pipeline.fitting.plan import FitPlan
from mekrr_scale.pipeline.fitting.search import Candidate
from mekrr_scale.pipeline.fitting.weights import combinations
from mekrr_scale.progress import Progress
from mekrr_scale.regression import Folds, Problem

_COUNTED = 20_000  # landmarks; of more it is not looked at how many are distinct


@dataclass(frozen=True)
class Remarks:
    """Lines for the log and the report."""

    progress: Progress
    lines: list[str] = field(default_factory=list)

    def add(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.progress.note(line)
            self.lines.append(line)


def at_an_end(best: Candidate) -> list[str]:
    """A warning where the ridge that was chosen is the last one towards which errors still fall."""
    path = best.solution.path
    end = path.end(best.problem.criterion) if path.points else 0
    if not end or _lowest(best) != best.tried.ridge:
        return []
    which, more = ("smallest", "smaller") if end < 0 else ("largest", "larger")
    ridge = best.tried.ridge
    given = ", ".join(f"{ridge * 10.0 ** (end * k):.0e}" for k in (1, 2, 3))
    return [
        f"the ridge chosen, {ridge:.1e}, is the {which} of those tried, and errors still fall towards it; try {more} "
        f"ones (--ridge {given})"
    ]


def unsolved(best: Candidate) -> list[str]:
    """A warning where iterations ended before ridges beside the one with the lowest error were solved."""
    points, lowest = best.solution.path.points, _lowest(best) if best.solution.path.points else 0.0
    smaller = [point for point in points if point.ridge < lowest and point.weights == best.solution.weights]
    if not smaller or any(point.kinds() for point in smaller):
        return []
    ridges = sorted(point.ridge for point in smaller)
    steps = best.solution.effort.iterations
    return [
        f"{len(ridges)} ridges from {ridges[0]:.1e} to {ridges[-1]:.1e} were not solved in {steps} iterations, so that "
        "their errors are not known, and may be lower: put all rows into the preconditioner (--subset 1), allow more "
        "iterations (--max-steps), or take --solver direct"
    ]


def cautious(best: Candidate) -> list[str]:
    """Where the ridge is not the one of the lowest error (see ``Path.best``)."""
    if not best.solution.path.points or (lowest := _lowest(best)) == best.tried.ridge:
        return []
    return [
        "the folds disagree on the ridge, as where some structures are far outside of all others: taken is not "
        f"{lowest:.1e}, with the lowest error, but {best.tried.ridge:.1e}, the largest within one standard error of it "
        "and a tenth"
    ]


def _lowest(best: Candidate) -> float:
    """The ridge with the lowest cross-validated error."""
    return best.solution.path.lowest(best.problem.criterion).ridge


def first_of_several(data: FitData, folds: Folds | None) -> list[str]:
    """Without folds there is nothing to choose by: the first of the default weights is taken."""
    if folds is not None:
        return []
    several = {kind: {one[kind] for one in combinations(data.plan)} for kind in data.source.kinds}
    taken = combinations(data.plan)[0]
    return [
        f"no folds to choose among {len(weights)} weights of {KINDS[kind].name} rows: {taken[kind]:g}, the first, holds"
        for kind, weights in sorted(several.items())
        if len(weights) > 1
    ]


def fewer_landmarks(problem: Problem, plan: FitPlan) -> list[str]:
    """Landmarks that are copies of others, or fewer than were asked for."""
    landmarks, asked = problem.landmarks, plan.landmarks.count
    if plan.solver.whole_structures or not landmarks.singletons or not 0 < landmarks.n_sets <= _COUNTED:
        return []
    distinct = n_distinct(landmarks)
    given = max(asked, landmarks.n_sets) if plan.landmarks.model is None else landmarks.n_sets
    if distinct >= given:
        return []
    return [
        f"{given} landmarks asked for, {distinct} distinct: the data hold atoms with the same features, and copies add "
        "nothing; ask for fewer (--landmarks), or add structures"
    ]

"""The race: candidates on growing subsets, the better half goes on (successive halving; Jamieson and Talwalkar,
AISTATS 2016), compared by cross-validated errors as they will be with the data that the budget allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, takewhile
from typing import Any, cast

from mekrr_scale.errors import BackboneError, MekrrError, SolverError
from mekrr_scale.files import Document
from mekrr_scale.pipeline import fit
from mekrr_scale.tuning.arms import Arm, Cost, arms_of, measured
from mekrr_scale.tuning.journal import shown_time
from mekrr_scale.tuning.plan import TunePlan
from mekrr_scale.tuning.scores import Score, projected, shown_errors, slope
from mekrr_scale.tuning.state import Tuning, quick_plan

_SHARE = 0.4  # of the budget that the race may take
_FIRST = (64, 32, 16, 10)  # frames of the first subset: the largest that the budget bears
_DIRECTIONS = 4  # of a frame in the race: many frames with few of them teach more than few with many
_LEAST_DIRECTIONS = 2  # of the final extraction, where the budget is short
_FIT = 6.0  # seconds of one fit in the race, until one was measured


@dataclass(frozen=True)
class Course:
    """Who runs, and how far at first."""

    arms: Sequence[Arm]
    first: int
    directions: int | str

    def cuts(self, frames: int) -> list[int]:
        """Where the frames up to a number are cut: each subset holds the one before."""
        doubled = takewhile(lambda cut: cut < frames, (self.first * 2**k for k in count()))
        return [0, *doubled, frames]


@dataclass(frozen=True)
class Raced:
    """How the race ended."""

    winner: Arm
    cost: Cost  # of the winner
    scores: Sequence[Score]
    course: Course


def raced(tuning: Tuning) -> Raced:
    """The best candidate by its cross-validated error, as it will be with the data that the budget allows.

    Raises:
        BackboneError: no candidate can be loaded.
        SolverError: no candidate could be fitted.
    """
    plan, journal = tuning.plan, tuning.journal
    arms = arms_of(plan)[plan.part[0] - 1 :: plan.part[1]]
    costs = _costs(tuning, arms)
    course = course_of(tuning, list(costs), costs)
    alive, scores, frames = list(course.arms), [], course.first
    while True:
        found = [_scored(tuning, arm, costs[arm], frames, course) for arm in alive]
        scores += found
        able = [score for score in found if not score.failed]
        if not able:
            reasons = "; ".join(f"{score.arm.name}: {score.failed}" for score in found)
            raise SolverError(f"no candidate could be fitted: {reasons}")
        more = min(2 * frames, len(tuning.data.training))
        kept = journal.step(f"kept-{frames}{_part(plan)}", partial(kept_of, tuning, able, scores, costs, more, course))
        names = cast("list[str]", kept["arms"])
        alive = [score.arm for score in able if score.arm.name in names]
        if kept["over"] or len(alive) == 1 or more == frames:
            return Raced(alive[0], costs[alive[0]], scores, course)
        frames = more


def _part(plan: TunePlan) -> str:
    return "" if plan.part == (1, 1) else f"-part-{plan.part[0]}-of-{plan.part[1]}"


def _costs(tuning: Tuning, arms: Sequence[Arm]) -> dict[Arm, Cost]:
    """Of the candidates that know the elements."""
    found: dict[Arm, Cost] = {}
    reasons = []
    tuning.progress.stage("look at networks", len(arms), "candidates")
    for arm in arms:
        probe = partial(measured, arm, tuning.data.middle, tuning.plan.device, tuning.moved or tuning.strained)
        cost = tuning.journal.step(f"cost-{arm.slug}", probe)
        tuning.progress.advance()
        if "failed" in cost:
            reasons.append(f"{arm.name}: {cost['failed']}")
            tuning.progress.tell(f"left out {reasons[-1]}")
            continue
        found[arm] = Cost(*(cast(Any, cost[key]) for key in ("features", "direction", "dim", "shared")))
    if not found:
        raise BackboneError(f"no candidate can be used: {'; '.join(reasons)}")
    return found


def course_of(tuning: Tuning, arms: Sequence[Arm], costs: dict[Arm, Cost]) -> Course:
    """The candidates that the budget bears, and the largest first subset that it bears with them."""
    given = tuning.plan.derivatives
    directions: int | str = "none" if not tuning.moved else _DIRECTIONS if given in ("auto", "all") else given
    n = len(tuning.data.training)
    sizes = [first for first in _FIRST if 2 * first <= n] or [min(_FIRST[-1], n)]  # two of them are a learning curve

    def choose() -> Document:
        running = list(arms)
        while True:
            rounds = math.ceil(math.log2(len(running))) + 1
            room = _SHARE * tuning.plan.budget / rounds
            for first in sizes:
                atoms, moves = tuning.atoms(first), tuning.directions(directions)
                taken = sum(costs[arm].frames(atoms, moves) + _FIT for arm in running)
                if taken <= room:
                    return {"arms": [arm.name for arm in running], "first": first}
            if len(running) == 1:
                return {"arms": [arm.name for arm in running], "first": sizes[-1]}
            running.remove(max(running, key=lambda arm: costs[arm].frames(1, moves)))

    found = tuning.journal.step(f"course{_part(tuning.plan)}", choose)
    names = cast("list[str]", found["arms"])
    running = [arm for arm in arms if arm.name in names]
    dropped = [arm.name for arm in arms if arm.name not in names]
    if dropped:
        tuning.progress.tell(f"too slow for the budget: {', '.join(dropped)}")
    return Course(running, int(cast(int, found["first"])), directions)


def _scored(tuning: Tuning, arm: Arm, cost: Cost, frames: int, course: Course) -> Score:
    """The cross-validated error of a candidate on a subset."""
    name = f"score-{arm.slug}-{frames}"
    known = tuning.journal.has(name)
    found = tuning.journal.step(name, lambda: _fitted(tuning, arm, cost, frames, course))
    score = Score(
        arm,
        frames,
        str(course.directions),
        cast("dict[str, float]", found.get("errors", {})),
        str(found.get("failed", "")),
    )
    if not known:
        said = score.failed or shown_errors(score.errors)
        tuning.progress.tell(f"{arm.name}, {frames} frames: {said} ({shown_time(tuning.journal.clock.left)} left)")
    return score


def _fitted(tuning: Tuning, arm: Arm, cost: Cost, frames: int, course: Course) -> Document:
    try:
        stores = tuning.stores(arm, cost, course.directions, course.cuts(frames))
        tuning.progress.before = f"{arm.name}, {frames} frames"
        report = fit(stores, quick_plan(tuning, stores), tuning.progress)
    except MekrrError as error:
        return {"failed": str(error)}
    return {"errors": report.chosen.errors(), "chosen": report.chosen.header()}


def kept_of(
    tuning: Tuning, able: Sequence[Score], scores: Sequence[Score], costs: dict[Arm, Cost], more: int, course: Course
) -> Document:
    """The better half, by what their errors will be, and whether the race is over."""
    steepness = slope(scores)
    reach = {score.arm: reachable(tuning, costs[score.arm]) for score in able}
    order = sorted(able, key=lambda score: projected(score, reach[score.arm], steepness))
    half = order[: max(1, math.ceil(len(order) / 2))]
    frames = able[0].frames
    moves = tuning.directions(course.directions)
    next_round = sum(costs[s.arm].frames(tuning.atoms(more) - tuning.atoms(frames), moves) + _FIT for s in half)
    used = tuning.journal.clock.used
    over = len(half) == 1 or more == frames or used + next_round > _SHARE * tuning.plan.budget
    kept = half[:1] if over else half
    return {
        "arms": [score.arm.name for score in kept],
        "over": over,
        "slope": steepness,
        "projected": {score.arm.name: projected(score, reach[score.arm], steepness) for score in order},
    }


def reachable(tuning: Tuning, cost: Cost) -> int:
    """Frames whose features the budget allows, with the fewest directions that are worth it."""
    room = max(0.5 * tuning.plan.budget, 1e-9)
    moves = tuning.directions(_LEAST_DIRECTIONS if tuning.moved else "none")
    frame = cost.frames(1, moves) * tuning.mean_atoms()
    return max(1, min(len(tuning.data.training), int(room / max(frame, 1e-9))))

"""The race: candidates on growing subsets, compared by cross-validated errors as they will be with the data that the
budget allows (successive halving; Jamieson and Talwalkar, AISTATS 2016).

Errors of few frames are uncertain, so that a round does not drop a fixed part of the candidates, but those whose errors
are higher than the best by more than chance, and then, where the next round is too dear, the worst of the others. All
that are left at the end may be tried in full.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, cast

from mekrr_scale.errors import BackboneError, MekrrError, SolverError, StoreError
from mekrr_scale.files import Document
from mekrr_scale.pipeline import compare
from mekrr_scale.tuning.arms import Arm, Cost, arms_of, families, measured
from mekrr_scale.tuning.journal import number, shown_time
from mekrr_scale.tuning.plan import TunePlan
from mekrr_scale.tuning.scores import Score, projected, shown_errors, slope
from mekrr_scale.tuning.state import ENERGIES, Tuning, quick_plan

_SHARE = 0.4  # of the budget that the race may take
_FIRST_SHARE = 0.5  # of that, which the first round may take
_FIRST = (128, 64, 32, 16, 10)  # frames of the first subset: the largest that the budget bears, half of all at most
_DIRECTIONS = 16  # of a frame in the race: what all directions share costs as much as ten to a hundred of them
CHANCE = 2.0  # errors of n frames that differ by less than exp(this / sqrt(n)) are alike
_ENERGY_ALONE = 0.25  # what a frame's energy tells of what its energy and forces do (docs/benchmarks.md, One command)
_FIT = 6.0  # seconds of one fit in the race, until it was measured


@dataclass(frozen=True)
class Course:
    """Who runs, and how far at first."""

    arms: Sequence[Arm]
    first: int
    all: int
    directions: int | str

    def cuts(self, frames: int) -> list[int]:
        """Where the frames up to a number are cut: each subset holds the one before."""
        found = [0, min(self.first, frames)]
        while found[-1] < frames:
            found.append(min(self.after(found[-1]), frames))
        return found

    def after(self, frames: int) -> int:
        """Frames of the next round: twice as many, or all where these are little more."""
        return self.all if 3 * frames > self.all else 2 * frames


@dataclass(frozen=True)
class Raced:
    """How the race ended."""

    leaders: Sequence[Arm]  # those that nothing but chance tells apart, the best first
    costs: Mapping[Arm, Cost]
    scores: Sequence[Score]
    course: Course

    def frames(self, arm: Arm) -> int:
        """How many frames of a candidate have features."""
        return max((score.frames for score in self.scores if score.arm == arm and not score.failed), default=0)


def raced(tuning: Tuning) -> Raced:
    """The best candidates by their cross-validated errors, as they will be with the data that the budget allows.

    Raises:
        BackboneError: no candidate can be loaded, or one of those that were named.
        StoreError: features cannot be written.
        SolverError: no candidate could be fitted.
    """
    plan, journal = tuning.plan, tuning.journal
    costs = _costs(tuning, arms_of(plan))
    course = course_of(tuning, list(costs), costs)
    own = families(course.arms)[plan.part[0] - 1 :: plan.part[1]]
    alive, scores, frames = [arm for family in own for arm in family], [], course.first
    while alive:
        order = [arm for family in families(alive) for arm in family]
        found = [_scored(tuning, arm, costs[arm], frames, course) for arm in order]
        scores += found
        able = [score for score in found if not score.failed]
        if not able:
            reasons = "; ".join(f"{score.arm.name}: {score.failed}" for score in found)
            raise SolverError(f"no candidate could be fitted: {reasons}")
        more = course.after(frames)
        kept = journal.step(f"kept-{frames}{_part(plan)}", partial(kept_of, tuning, able, scores, costs, more, course))
        names = cast("list[str]", kept["arms"])
        alive = sorted((s.arm for s in able if s.arm.name in names), key=lambda arm: names.index(arm.name))
        if kept["over"]:
            break
        frames = more
    return Raced(alive, costs, scores, course)


def _part(plan: TunePlan) -> str:
    return "" if plan.part == (1, 1) else f"-part-{plan.part[0]}-of-{plan.part[1]}"


def _costs(tuning: Tuning, arms: Sequence[Arm]) -> dict[Arm, Cost]:
    """Of the candidates that know the elements; one pass of a network gives all invariants of its layers.

    Why one cannot be loaded is not kept, since that can be mended: the same tuning asks again.
    """
    found: dict[Arm, Cost] = {}
    reasons = []
    tuning.progress.stage("look at networks", len(arms), "candidates")
    for arm in (arm for family in families(arms) for arm in family):
        if holder := next((other for other in arm.richer if other in found), None):
            found[arm] = found[holder]
            tuning.progress.advance()
            continue
        frame, moved = tuning.data.middle, tuning.moved or tuning.strained
        workers = tuning.extraction(arm, "none").processes(len(tuning.data.training))
        probe = partial(measured, arm, frame, tuning.plan.device, moved, workers)
        try:
            cost = tuning.journal.step(f"cost-{arm.slug}", probe)
        except BackboneError as error:
            if tuning.plan.backbones is not None:
                raise
            cost = {"failed": str(error)}
        tuning.progress.advance()
        if "failed" in cost:
            reasons.append(f"{arm.name}: {cost['failed']}")
            tuning.progress.tell(f"left out {reasons[-1]}")
            continue
        found[arm] = Cost(**{of.name: cast(Any, cost[of.name]) for of in fields(Cost)})
    if not found:
        raise BackboneError(f"no candidate can be used: {'; '.join(reasons)}")
    return {arm: found[arm] for arm in arms if arm in found}


def course_of(tuning: Tuning, arms: Sequence[Arm], costs: dict[Arm, Cost]) -> Course:
    """The candidates that the budget bears, and the largest first subset that it bears with them."""
    n, options = len(tuning.data.training), tuning.options
    directions = next((one for one in options if tuning.directions(one) <= tuning.directions(_DIRECTIONS)), options[-1])
    # two of them are a learning curve
    sizes = sorted({min(first, max(n // 2, _FIRST[-1]), n) for first in _FIRST}, reverse=True)

    def seconds(running: Sequence[Arm], first: int) -> float:
        atoms, moves = tuning.atoms(first), tuning.directions(directions)
        return sum(costs[arm].frames(atoms, moves) * needed(arm, running) + _FIT for arm in running)

    def choose() -> Document:
        running, slow = list(arms), []
        room = _FIRST_SHARE * _SHARE * tuning.plan.budget * tuning.plan.part[1]  # each with a clock of its own
        while (first := next((size for size in sizes if seconds(running, size) <= room), 0)) == 0 and len(running) > 1:
            slow.append(max(running, key=lambda arm: costs[arm].frames(1, tuning.directions(directions))))
            running.remove(slow[-1])
        return {"arms": _names(running), "first": first or sizes[-1], "slow": _names(slow)}

    found = tuning.journal.step("course", choose)
    names, slow = cast("list[str]", found["arms"]), cast("list[str]", found["slow"])
    running = [arm for arm in arms if arm.name in names]
    if slow:
        tuning.progress.tell(f"too slow for the budget: {', '.join(slow)}")
    if late := set(_names(arms)) - {*names, *slow}:
        tuning.progress.tell(f"the race began without {', '.join(sorted(late))}; another folder (-o) takes all")
    return Course(running, int(number(found, "first")), n, directions)


def _names(arms: Iterable[Arm]) -> list[str]:
    return [arm.name for arm in arms]


def _scored(tuning: Tuning, arm: Arm, cost: Cost, frames: int, course: Course) -> Score:
    """The cross-validated error of a candidate on a subset."""
    name = f"score-{arm.slug}-{frames}"
    known = tuning.journal.has(name)
    found = tuning.journal.step(name, lambda: _fitted(tuning, arm, cost, frames, course))
    along, failed = str(course.directions), str(found.get("failed", ""))
    if failed:
        score = Score(arm, frames, along, {}, math.inf, failed)
    else:
        tuning.paces[arm] = number(found, "pace")  # as before a kill
        errors = cast("dict[str, float]", found["errors"])
        score = Score(arm, frames, along, errors, number(found, "compared"), seconds=number(found, "fit"))
    if not known:
        said = score.failed or shown_errors(score.errors)
        tuning.progress.tell(f"{arm.name}, {frames} frames: {said} ({shown_time(tuning.journal.clock.left)} left)")
    return score


def _fitted(tuning: Tuning, arm: Arm, cost: Cost, frames: int, course: Course) -> Document:
    try:
        stores = tuning.stores(arm, cost, course.directions, course.cuts(frames))
        tuning.progress.before = f"{arm.name}, {frames} frames"
        begin = tuning.journal.clock.used
        best = compare(stores, quick_plan(tuning, stores), tuning.progress)
        taken = tuning.journal.clock.used - begin
    except StoreError:  # as of a full disk, which is no fault of the candidate
        raise
    except MekrrError as error:
        return {"failed": str(error)}
    found: Document = {"errors": best.chosen.errors(), "chosen": best.chosen.header()}
    return {**found, "compared": best.compared, "pace": tuning.pace(arm), "fit": taken}


def kept_of(
    tuning: Tuning, able: Sequence[Score], scores: Sequence[Score], costs: dict[Arm, Cost], more: int, course: Course
) -> Document:
    """Those that may yet be the best, by what their errors will be, and whether the race is over."""
    steepness = slope(scores)
    expected = {
        score.arm: projected(score, reachable(tuning, score, costs[score.arm], course), steepness) for score in able
    }
    order = sorted(expected, key=lambda arm: expected[arm])
    frames = able[0].frames
    alike = [arm for arm in order if expected[arm] <= expected[order[0]] * math.exp(CHANCE / math.sqrt(frames))]
    atoms, moves = tuning.atoms(more) - tuning.atoms(frames), tuning.directions(course.directions)
    room = _SHARE * tuning.plan.budget - tuning.journal.clock.used
    need = {arm: tuning.pace(arm) * costs[arm].frames(atoms, moves) for arm in alike}
    fits = {score.arm: score.seconds * more / frames for score in able}
    bearable = list(alike)
    while len(bearable) > 1 and sum(need[arm] * needed(arm, bearable) + fits[arm] for arm in bearable) > room:
        bearable.pop()
    over = len(bearable) == 1 or more == frames
    return {
        "arms": [arm.name for arm in (alike if over else bearable)],
        "over": over,
        "slope": steepness,
        "projected": {arm.name: expected[arm] for arm in order},
    }


def needed(arm: Arm, others: Iterable[Arm]) -> bool:
    """Whether features have to be made, since no other of these candidates holds them."""
    return not set(arm.richer) & set(others)


def reachable(tuning: Tuning, score: Score, cost: Cost, course: Course) -> float:
    """Frames whose features the time allows along the race's directions, and what energies of the others are worth."""
    made = tuning.foreseen(cost, course.directions, 0, score.frames)
    room = tuning.room() / tuning.pace(score.arm) + made
    frames = max(score.frames, tuning.borne(cost, room, course.directions))
    energy = tuning.foreseen(cost, ENERGIES, 0, course.all) / course.all
    return frames + _ENERGY_ALONE * tuning.beside(cost, room, frames) / max(energy, 1e-9)

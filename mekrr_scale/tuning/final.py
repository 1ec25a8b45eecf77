"""What comes after the race: features of everything for the winner, kernel and landmarks, model and test."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, cast

from mekrr_scale.files import Document
from mekrr_scale.pipeline import FitPlan, KernelPlan, fit, resources
from mekrr_scale.store import FeatureStore
from mekrr_scale.tuning.arms import Arm
from mekrr_scale.tuning.journal import shown_time
from mekrr_scale.tuning.race import Raced
from mekrr_scale.tuning.scores import balanced, shown_errors
from mekrr_scale.tuning.state import Tuning, quick_plan

_EXTRACTION = 0.65  # of the time that is left after the race
TEST = 0.08  # of the budget
EVALUATION = 8.0  # energies, forces and uncertainties of a frame, in times of its features
_LAST = 2.5  # the last fit, with uncertainties, in times of one without
_GAIN = 0.01  # part of the error that twice the landmarks must take off to be worth it
_PIECE = 0.04  # of the budget: features of so long are made before the time is looked at
_DISTINCT = 0.9  # directions that are nearly all of them: all are taken
_LONGEST = 64.0  # times the median distance


@dataclass(frozen=True)
class Amount:
    """What the winner's features are made of."""

    frames: int
    directions: int | str


def gathered_features(tuning: Tuning, race: Raced) -> tuple[Amount, list[FeatureStore]]:
    """Features of as many frames as the time allows, along as many directions, made piece by piece.

    Pieces are short beside the budget, and the next one is begun only where there is time for it.
    """
    wanted = tuning.journal.decision("amount", lambda before: amount_of(tuning, race, before))
    directions = cast("int | str", wanted["directions"])
    cuts = cast("list[int]", wanted["cuts"])
    found: list[FeatureStore] = []
    frames = 0
    for first, last in pairwise(cuts):
        if found:
            foreseen = tuning.foreseen(race.cost, directions, first, last)
            name, reserve = f"go-on-{first}-{last}", float(cast(float, wanted["reserve"]))
            if tuning.journal.decision(name, partial(_room_for, tuning, foreseen, reserve))["limited"]:
                tuning.progress.tell(f"no time is left for the features of {cuts[-1] - first} more frames")
                break
        found.append(tuning.store(race.winner, race.cost, directions, first, last))
        frames = last
    return Amount(frames, directions), found


def _room_for(tuning: Tuning, foreseen: float, reserve: float, before: Document | None) -> Document:
    return {"limited": tuning.pace * foreseen >= tuning.journal.clock.left - reserve}


def amount_of(tuning: Tuning, race: Raced, before: Document | None = None) -> Document:
    """Frames, directions, and where they are cut into pieces; never less than what was decided before."""
    plan, cost, n = tuning.plan, race.cost, len(tuning.data.training)
    left = tuning.journal.clock.left - TEST * plan.budget
    room = max(_EXTRACTION * left / tuning.pace, 0.0)
    least = 1 if tuning.moved else "none"
    frame = tuning.foreseen(cost, least, 0, n) / n
    frames = min(n, max(race.course.first, int(room / max(frame, 1e-9))))
    directions: int | str = plan.derivatives if tuning.moved else "none"
    if directions == "auto":
        atoms = tuning.atoms(frames)
        spent = cost.frames(atoms, 6.0 * tuning.strained) + atoms * cost.shared
        affordable = (room - spent) / max(atoms * cost.direction, 1e-9)
        every = 3.0 * atoms / frames
        directions = "all" if affordable >= _DISTINCT * every else max(1, int(affordable))
    work = tuning.foreseen(cost, directions, 0, frames)
    if before is not None and float(cast(float, before["work"])) >= work:
        return before
    whole = work * tuning.pace
    pieces = max(1, math.ceil(whole / (_PIECE * plan.budget)))
    same = directions == race.course.directions
    begun = [cut for cut in race.course.cuts(max(s.frames for s in race.scores)) if same and cut <= frames]
    cuts = sorted({0, *begun, *(round(frames * k / pieces) for k in range(1, pieces + 1)), frames})
    return {
        "directions": directions,
        "cuts": cuts,
        "reserve": TEST * plan.budget + (1 - _EXTRACTION) * max(left, 0.0),
        "work": work,
        "limited": frames < n or (plan.derivatives == "auto" and directions not in ("all", "none")),
    }


@dataclass(frozen=True)
class Settings:
    """One kernel, and as many landmarks: what a fit is left to choose is the ridge and weights."""

    standardize: str
    length_scale: str
    alpha: float
    baseline: str
    count: int

    def kernel(self, lengths: str) -> KernelPlan:
        """These, with other candidates for the length scale."""
        return KernelPlan(length_scales=lengths, alphas=self.alpha, standardize=self.standardize)

    def plan(self, tuning: Tuning, base: FitPlan) -> FitPlan:
        """The fit with these alone."""
        return replace(
            base,
            kernel=self.kernel(self.length_scale),
            landmarks=replace(base.landmarks, count=self.count),
            baseline=replace(base.baseline, kinds=self.baseline),
        )


@dataclass
class Search:
    """The winner's fits: kernel first, then landmarks as long as they pay."""

    tuning: Tuning
    arm: Arm
    stores: Sequence[FeatureStore]
    pace: float = 1.0  # measured seconds of a fit over those that were foreseen
    limited: bool = False  # whether there was no time for more landmarks

    def run(self) -> tuple[FitPlan, list[Document]]:
        """The plan of the last fit, and what was tried."""
        steps = [self._kernel()]
        best = steps[0]
        while True:
            after = self._grown(best)
            if after is None:
                break
            steps.append(after)
            better = _value(after) < (1 - _GAIN) * _value(best)
            best = min(best, after, key=_value)
            if not better:
                break
        return self._last(best), steps

    @property
    def name(self) -> str:
        """What the fits are to, for their steps."""
        return hashlib.sha256("".join(store.id for store in self.stores).encode()).hexdigest()[:8]

    def _kernel(self) -> Document:
        plan = quick_plan(self.tuning, self.stores)
        lengths = "4x,8x,16x" if self.tuning.moved else "2x,4x,8x"
        candidates = replace(
            plan,
            kernel=KernelPlan(
                length_scales=lengths, alphas=self.tuning.alphas, standardize="centre-per-species,scale-per-species"
            ),
        )
        one = replace(plan, kernel=KernelPlan(length_scales="8x"))

        def make() -> Document:
            fits = self._seconds(candidates) + _LAST * self._seconds(one)
            return self._tried(candidates if fits < self._room() else one, plan.landmarks.count)

        return self._said(f"kernel-{self.name}", make)

    def _grown(self, best: Document) -> Document | None:
        """Twice the landmarks; None where they cannot pay, or nothing is left for them."""
        tuning, count = self.tuning, int(cast(int, best["landmarks"]))
        more = min(2 * count, tuning.plan.landmarks, self._most())
        name = f"landmarks-{self.name}-{more}"
        if more < 1.2 * count:
            return None
        at = _settings(best)
        longer = f"{float(at.length_scale.removesuffix('x')) * 2:g}x"
        lengths = at.length_scale if float(longer[:-1]) > _LONGEST else f"{at.length_scale},{longer}"
        plan = replace(at.plan(tuning, quick_plan(tuning, self.stores)), kernel=at.kernel(lengths))
        plan = replace(plan, landmarks=replace(plan.landmarks, count=more))
        found = tuning.journal.decision(
            f"room-{name}", lambda _: {"limited": (1 + _LAST / 2) * self._seconds(plan) >= self._room()}
        )
        if found["limited"]:
            self.limited = True
            tuning.progress.tell(f"no time is left to try {more} landmarks")
            return None
        return self._said(name, lambda: self._tried(plan, more))

    def _said(self, name: str, make: Callable[[], Document]) -> Document:
        known = self.tuning.journal.has(name)
        found = self.tuning.journal.step(name, make)
        if not known:
            left = shown_time(self.tuning.journal.clock.left)
            self.tuning.progress.tell(
                f"{found['landmarks']} landmarks, {found['length_scale']}, {found['standardize']}: "
                f"{shown_errors(cast(Any, found['errors']))} ({left} left)"
            )
        return found

    def _tried(self, plan: FitPlan, count: int) -> Document:
        foreseen = self._seconds(plan) / self.pace
        begin = self.tuning.journal.clock.used
        self.tuning.progress.before = f"{self.arm.name}, {count} landmarks"
        report = fit(self.stores, plan, self.tuning.progress)
        self.pace = max((self.tuning.journal.clock.used - begin) / max(foreseen, 1e-3), 0.2)
        best = report.chosen
        lengths = plan.kernel.length_scales  # the innermost of the loops over candidates but for the alphas
        alphas = len({line.alpha for line in report.tried})
        return {
            "landmarks": count,
            "standardize": best.standardize,
            "length_scale": str(lengths[list(report.tried).index(best) // alphas % len(lengths)]),
            "alpha": best.alpha,
            "baseline": best.baseline,
            "errors": best.errors(),
            "candidates": [line.header() for line in report.tried],
        }

    def _last(self, best: Document) -> FitPlan:
        """The fit that the model comes from: one candidate, with uncertainties."""
        plan = _settings(best).plan(self.tuning, quick_plan(self.tuning, self.stores))
        return replace(plan, validation=replace(plan.validation, uncertainty=True))

    def _seconds(self, plan: FitPlan) -> float:
        """What a fit will take on this machine, by the estimate and by how it did so far."""
        return self.pace * resources(self.stores, plan).seconds

    def _room(self) -> float:
        return self.tuning.journal.clock.left - TEST * self.tuning.plan.budget

    def _most(self) -> int:
        """Landmarks that can be told apart: rows of the problem bound what they can learn."""
        rows = sum(store.n_structures + store.n_directions for store in self.stores)
        atoms = sum(store.n_atoms for store in self.stores)
        return max(1, min(rows, 4 * atoms if self.tuning.moved else atoms))


def _value(step: Document) -> float:
    return balanced(cast("dict[str, float]", step["errors"]))


def _settings(step: Document) -> Settings:
    return Settings(
        str(step["standardize"]),
        str(step["length_scale"]),
        float(cast(float, step["alpha"])),
        str(step["baseline"]),
        int(cast(int, step["landmarks"])),
    )

"""What comes after the race and its leaders' features: kernel, landmarks, and the plan of the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any, cast

from mekrr_scale.files import Document
from mekrr_scale.kernels import Standardize
from mekrr_scale.pipeline import FitPlan, KernelPlan, compare, resources
from mekrr_scale.store import FeatureStore
from mekrr_scale.tuning.arms import Arm
from mekrr_scale.tuning.features import Amount, gathered_features, more_features, remaining
from mekrr_scale.tuning.journal import number, shown_time
from mekrr_scale.tuning.race import Raced, needed
from mekrr_scale.tuning.scores import Score, shown_errors
from mekrr_scale.tuning.state import TEST, Tuning, quick_plan

EVALUATION = 5.0  # energies, forces and uncertainties of a frame, in times of its features and the network's energy
CHECKS = 0.03  # of the budget, for the quick checks of the model
_LAST = 3.0  # the last fit, with uncertainties, in times of one that compares, until both are foreseen
_MIXED = 2.5  # alpha 0.5 beside 1, in times of 1 alone
_DOUBLED = 3.0  # a fit with twice the landmarks, in times of one: 2.5 with 2000, 4 with 4000
_GAIN = 0.01  # part of the error that more landmarks must take off to be worth it
_FACTORS = (2.0, 1.5)  # of landmarks: the first that there is time for
ANOTHER = 0.5  # of the time that is left, in which another leader of the race has to be tried
_LONGEST = 64.0  # times the median distance
_CENTRED: tuple[Standardize, ...] = ("centre-per-species",)


def in_full(tuning: Tuning, race: Raced) -> list[Search]:
    """The leaders of the race on all data that the time allows, by what one kernel comes to.

    The first takes what time it needs; another one follows, on the same data, where half of what is left is enough
    beside a fit of the first with more landmarks, which mostly pays more. Where another leader's features hold those of
    the first, these are made: richer invariants gain more by more data.
    """
    first, *others = race.leaders
    holder = next((arm for arm in reversed(first.richer) if arm in others), first)
    much, stores = gathered_features(tuning, race, holder)
    if holder != first:
        stores = [tuning.store(first, race.costs[first], *piece) for piece in much.pieces]
    found = [Search(tuning, first, much, stores)]
    taken = number(found[0].first, "seconds")
    reserve = TEST * tuning.plan.budget + found[0].doubled
    for arm in sorted(others, key=lambda arm: arm != holder):
        there = [holder, *(search.arm for search in found)]
        work = remaining(tuning, race, arm, much) * (arm != holder and needed(arm, there))
        need = tuning.pace(arm) * work + taken
        if not tuning.time_for(f"full-{arm.slug}", partial(float, need), reserve, ANOTHER):
            tuning.progress.tell(f"no time is left to try {arm.name} in full")
            continue
        found.append(Search(tuning, arm, much, [tuning.store(arm, race.costs[arm], *piece) for piece in much.pieces]))
    return sorted(found, key=lambda search: _value(search.first))


@dataclass(frozen=True)
class Settings:
    """One kernel, and as many landmarks: what a fit is left to choose is the ridge and weights."""

    standardize: Standardize
    length_scale: str
    alpha: float
    baseline: str
    count: int

    def plan(self, tuning: Tuning, base: FitPlan) -> FitPlan:
        """The fit with these alone."""
        return replace(
            base,
            kernel=KernelPlan(length_scales=self.length_scale, alphas=self.alpha, standardize=self.standardize),
            landmarks=replace(base.landmarks, count=self.count),
            baseline=replace(base.baseline, kinds=self.baseline),
        )


@dataclass
class Search:
    """Fits of one candidate to all data: one kernel, others around it, then landmarks as long as they pay."""

    tuning: Tuning
    arm: Arm
    amount: Amount
    stores: Sequence[FeatureStore]
    limited: bool = False  # whether there was no time for more landmarks

    def run(self) -> tuple[FitPlan, list[Document]]:
        """The plan of the last fit, and what was tried."""
        steps = [self.kernel]
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
        if (others := self._compared_again(best)) is not None:
            steps.append(others)
            best = min(best, others, key=_value)
        return self._last(best), steps

    def with_more(self, race: Raced, plan: FitPlan) -> tuple[Amount, Sequence[FeatureStore]]:
        """Features for the last fit: tangents of further frames, where fits have left time for these."""
        foreseen = cache(lambda: self.pace * resources(self.stores, plan).seconds)

        def fit(times: float) -> float:
            least = times * number(self.first, "seconds")
            spent = least > self.tuning.journal.clock.left - self._reserve  # which needs no look at the machine
            return least if spent else times * foreseen()

        much = more_features(self.tuning, race, self.arm, self.amount, fit, self._reserve)
        if much == self.amount:
            return much, self.stores
        self.tuning.progress.tell(f"time is left for further features: of {much.used} frames, directions: {much.along}")
        return much, [self.tuning.store(self.arm, race.costs[self.arm], *piece) for piece in much.pieces]

    def score(self) -> Score:
        """What the first kernel came to, beside those of the race."""
        errors = cast("dict[str, float]", self.first["errors"])
        return Score(self.arm, self.amount.used, self.amount.along, errors, _value(self.first))

    @property
    def name(self) -> str:
        """What the fits are to, for their steps."""
        return hashlib.sha256("".join(store.id for store in self.stores).encode()).hexdigest()[:8]

    @cached_property
    def first(self) -> Document:
        """One kernel, with the landmarks of the race: what the leaders are compared by."""
        return self._said(f"first-{self.name}", lambda: self._tried(self._one))

    @property
    def _one(self) -> FitPlan:
        return self._of(_CENTRED, (self._usual,), (1.0,))

    @property
    def _usual(self) -> str:
        return "8x" if self.tuning.moved else "4x"

    @cached_property
    def _wider(self) -> dict[int, FitPlan]:
        """Fits of more kernels than the first, by their number."""
        return self._around(self._usual, _CENTRED)

    def _around(self, length: str, kinds: Sequence[Standardize]) -> dict[int, FitPlan]:
        """Fits of kernels around one: half and twice its length scale, other mixings of elements, and scalings."""
        alphas, middle = self.tuning.alphas, float(length.removesuffix("x"))
        lengths = [f"{each:g}x" for each in (0.5 * middle, middle, 2.0 * middle) if each <= _LONGEST]
        return {
            6: self._of((*_CENTRED, "scale-per-species"), lengths, alphas),
            3: self._of(kinds, lengths, alphas),
            **({1: self._of(kinds, (length,), alphas)} if len(alphas) > 1 else {}),
        }

    @property
    def doubled(self) -> float:
        """Seconds of a fit with twice the landmarks and of a last one with these, which mostly pay more than what else
        the time could be taken for; of a last one alone where no more can be taken."""
        grows = self._more(number(self.first, "landmarks"))
        return number(self.first, "seconds") * (_DOUBLED * (1 + _LAST) if grows else _LAST)

    @cached_property
    def _kernels(self) -> int:
        """How many kernels the time allows beyond the first; 0 for none."""
        one = number(self.first, "seconds")

        def decide(_: Document | None) -> Document:
            left = self.tuning.journal.clock.left - self._reserve
            there = left - (self.doubled if self.doubled < left else _LAST * one)
            taken = next((size for size, plan in self._wider.items() if _times(plan) * one < there), 0)
            return {"kernels": taken, "limited": taken < max(self._wider)}

        return int(number(self.tuning.journal.decision(f"kernels-{self.name}", decide), "kernels"))

    @cached_property
    def kernel(self) -> Document:
        """The best of as many kernels as the time allows, with as many landmarks."""
        if not self._kernels:
            return self.first
        plan = self._wider[self._kernels]
        return self._said(f"kernel-{self.name}-of-{self._kernels}", lambda: self._tried(plan))

    def _compared_again(self, best: Document) -> Document | None:
        """Kernels around the best one that time was kept from before landmarks grew, or that had fewer of these; in
        half of the time that is left where features lack."""
        at, one = _settings(best), number(best, "seconds") / number(best, "times")
        known = self._kernels if at.count == number(self.first, "landmarks") else 0
        lacking = self.amount.frames < len(self.tuning.data.training)
        for size, plan in self._around(at.length_scale, (at.standardize,)).items():
            if size <= known:
                break
            of = f"{self.name}-{at.count}-of-{size}"
            need, reserve = partial(float, _times(plan) * one), self._reserve + _LAST * one
            if self.tuning.time_for(f"kernels-{of}", need, reserve, ANOTHER if lacking else 1.0):
                tried = replace(plan, landmarks=replace(plan.landmarks, count=at.count))
                return self._said(f"kernel-{of}", partial(self._tried, tried))
        return None

    @cached_property
    def pace(self) -> float:
        """Measured seconds of a fit over those that are foreseen: of the kernels, until there are more landmarks."""
        plan = self._wider[self._kernels] if self._kernels else self._one
        name = f"foreseen-{self.name}-of-{self._kernels}"
        found = self.tuning.journal.step(name, lambda: {"foreseen": resources(self.stores, plan).comparing})
        return _ratio(number(self.kernel, "seconds"), number(found, "foreseen"))

    def _of(self, kinds: Sequence[Standardize], lengths: Sequence[str], alphas: Sequence[float]) -> FitPlan:
        kernel = KernelPlan(length_scales=lengths, alphas=alphas, standardize=kinds)
        return replace(quick_plan(self.tuning, self.stores), kernel=kernel)

    def _grown(self, best: Document) -> Document | None:
        """More landmarks: twice as many, or half as many again; None where the time, or what they can learn, ends."""
        at = _settings(best)
        worth = self._more(at.count)
        for more in worth:
            if (found := self._enlarged(replace(at, count=more))) is not None:
                return found
            self.tuning.progress.tell(f"no time is left to try {more} landmarks")
        self.limited = bool(worth)
        return None

    def _more(self, count: float) -> list[int]:
        """Larger numbers of landmarks that are worth trying, the largest first."""
        most = min(self.tuning.plan.landmarks, self._most())
        counts = dict.fromkeys(min(round(factor * count), most) for factor in _FACTORS)
        return [more for more in counts if more >= 1.2 * count]

    def _enlarged(self, at: Settings) -> Document | None:
        """A fit with so many landmarks, at twice the length scale as well where there is time for both."""
        plan = at.plan(self.tuning, quick_plan(self.tuning, self.stores))
        foreseen = cache(lambda: resources(self.stores, self._with_uncertainty(plan)))
        longer = 2 * float(at.length_scale.removesuffix("x"))
        lengths = (at.length_scale, f"{longer:g}x")[: 1 + (longer <= _LONGEST)]
        name = f"landmarks-{self.name}-{at.count}"

        def needed(count: int) -> float:
            least = (count + 1) * number(self.first, "seconds")
            if least > self.tuning.journal.clock.left - self._reserve:  # which needs no look at the machine
                return least
            return self.pace * (count * foreseen().comparing + foreseen().seconds)

        def bearable(count: int) -> bool:
            return self.tuning.time_for(f"room-{name}-{count}", partial(needed, count), self._reserve)

        count = next(filter(bearable, range(len(lengths), 0, -1)), 0)
        if not count:
            return None
        tried = replace(plan, kernel=replace(plan.kernel, length_scales=lengths[:count]))
        found = self._said(
            f"{name}-of-{count}", lambda: {**self._tried(tried), "foreseen": count * foreseen().comparing}
        )
        self.pace = _ratio(number(found, "seconds"), number(found, "foreseen"))
        return found

    def _said(self, name: str, make: Callable[[], Document]) -> Document:
        known = self.tuning.journal.has(name)
        found = self.tuning.journal.step(name, make)
        if not known:
            left = shown_time(self.tuning.journal.clock.left)
            self.tuning.progress.tell(
                f"{self.arm.name}, {found['landmarks']} landmarks, {found['length_scale']}, {found['standardize']}: "
                f"{shown_errors(cast(Any, found['errors']))} ({left} left)"
            )
        return found

    def _tried(self, plan: FitPlan) -> Document:
        self.tuning.progress.before = f"{self.arm.name}, {plan.landmarks.count} landmarks"
        found = compare(self.stores, plan, self.tuning.progress)
        best = found.chosen
        lengths = plan.kernel.length_scales  # the innermost of the loops over candidates but for the alphas
        alphas = len({line.alpha for line in found.tried})
        return {
            "landmarks": plan.landmarks.count,
            "times": _times(plan),
            "standardize": best.standardize,
            "length_scale": str(lengths[list(found.tried).index(best) // alphas % len(lengths)]),
            "alpha": best.alpha,
            "baseline": best.baseline,
            "errors": best.errors(),
            "compared": found.compared,
            "candidates": [line.header() for line in found.tried],
        }

    def _last(self, best: Document) -> FitPlan:
        """The fit that the model comes from: one candidate, with uncertainties."""
        return self._with_uncertainty(_settings(best).plan(self.tuning, quick_plan(self.tuning, self.stores)))

    def _with_uncertainty(self, plan: FitPlan) -> FitPlan:
        return replace(plan, validation=replace(plan.validation, uncertainty=True))

    @property
    def _reserve(self) -> float:
        return (TEST + CHECKS) * self.tuning.plan.budget

    def _most(self) -> int:
        """As many as there are atoms, and copies to displace: more landmarks than rows describe the rows better."""
        atoms = sum(store.n_atoms for store in self.stores)
        return 4 * atoms if self.tuning.moved else atoms


def _ratio(measured: float, foreseen: float) -> float:
    return max(measured / max(foreseen, 1e-3), 0.2)


def _times(plan: FitPlan) -> float:
    """What a fit takes in times of one to a single kernel."""
    kernel = plan.kernel
    return len(kernel.standardize) * len(kernel.length_scales) * (1.0 if len(kernel.alphas) == 1 else _MIXED)


def _value(step: Document) -> float:
    return number(step, "compared")


def _settings(step: Document) -> Settings:
    return Settings(
        cast(Standardize, step["standardize"]),
        str(step["length_scale"]),
        number(step, "alpha"),
        str(step["baseline"]),
        int(number(step, "landmarks")),
    )

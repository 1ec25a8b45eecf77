"""Features of all data for a leader of the race: of how many frames, along how many directions, made piece by piece."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import cast

from mekrr_scale.files import Document
from mekrr_scale.store import FeatureStore
from mekrr_scale.tuning.arms import Arm, Cost
from mekrr_scale.tuning.journal import number
from mekrr_scale.tuning.race import Raced
from mekrr_scale.tuning.state import ENERGIES, TEST, Tuning

_PIECE = 0.04  # of the budget: features of so long are made before the time is looked at
_GRID = 8  # pieces from a number of frames to twice as many, in which others are made


@dataclass(frozen=True)
class Amount:
    """What features are made of: the first frames along directions, if any, and others for their energies alone."""

    frames: int
    directions: int | str
    cuts: Sequence[int]  # the pieces that they are made in
    others: Sequence[int] = ()  # those of the frames after them, whose energies alone are learned

    @property
    def used(self) -> int:
        """Frames altogether."""
        return self.others[-1] if self.others else self.frames

    @property
    def along(self) -> str:
        """The directions, for people."""
        return f"{self.directions} of {self.frames}" if self.others else str(self.directions)

    @property
    def pieces(self) -> list[tuple[int | str, int, int]]:
        """Directions, first frame, and one past the last."""
        found = [(self.directions, first, last) for first, last in pairwise(self.cuts)]
        return found + [(ENERGIES, first, last) for first, last in pairwise(self.others)]


def gathered_features(tuning: Tuning, race: Raced, arm: Arm) -> tuple[Amount, list[FeatureStore]]:
    """Features of as many frames as the time allows, along as many directions; of the others for their energies.

    They are made piece by piece: pieces are short beside the budget, and the next one is begun only where there is time
    for it.
    """
    wanted = _amount(tuning, race, arm)
    directions = cast("int | str", wanted["directions"])
    cuts = cast("list[int]", wanted["cuts"])
    cost, reserve = race.costs[arm], number(wanted, "reserve")
    begun, n = made(race, arm, directions), len(tuning.data.training)
    found: list[FeatureStore] = []

    def there_is_time(along: int | str, first: int, last: int, more: float) -> bool:
        need = tuning.pace(arm) * (tuning.foreseen(cost, along, first, last) + more)
        kind = "" if along == directions else f"{along}-"
        return tuning.time_for(f"go-on-{arm.slug}-{kind}{first}-{last}", partial(float, need), reserve)

    for first, last in pairwise(cuts):
        if last > begun and found and not there_is_time(directions, first, last, number(wanted, "energies")):
            break
        found.append(tuning.store(arm, cost, directions, first, last))
    frames = cuts[len(found)]
    others = [frames]
    for last in _grid(frames, n) if tuning.moved else ():
        if not there_is_time(ENERGIES, others[-1], last, 0.0):
            break
        found.append(tuning.store(arm, cost, ENERGIES, others[-1], last))
        others.append(last)
    much = Amount(frames, directions, cuts[: cuts.index(frames) + 1], others if len(others) > 1 else ())
    if lacking := n - much.used:
        tuning.progress.tell(f"no time is left for the features of {lacking} more frames")
    tuning.progress.tell(f"{arm.name}: features of {much.used} frames, directions: {much.along}")
    return much, found


def more_features(
    tuning: Tuning, race: Raced, arm: Arm, much: Amount, fit: Callable[[float], float], reserve: float
) -> Amount:
    """Tangents of further frames, piece by piece, as long as there is time for the last fit to these as well.

    Args:
        fit: seconds of that fit to so many times the rows that there are.
        reserve: seconds that are kept for what comes after it.
    """
    moves = tuning.directions(much.directions)
    rows = much.used + moves * much.frames

    def needed(first: int, last: int) -> float:
        work = tuning.pace(arm) * tuning.foreseen(race.costs[arm], much.directions, first, last)
        return work + fit((max(much.used, last) + moves * last) / rows)

    cuts = list(much.cuts)
    for last in _grid(much.frames, len(tuning.data.training)):
        piece = (cuts[-1], last)
        if not tuning.time_for(f"more-{arm.slug}-{piece[0]}-{last}", partial(needed, *piece), reserve):
            break
        tuning.store(arm, race.costs[arm], much.directions, *piece)
        cuts.append(last)
    others = [end for end in much.others if end >= cuts[-1]]
    return Amount(cuts[-1], much.directions, cuts, others if len(others) > 1 else ())


def _grid(first: int, frames: int) -> list[int]:
    """Ends of pieces after some frames, which are the same wherever these end."""
    ends = {round(frames * 2 ** (-k / _GRID)) for k in range(math.ceil(_GRID * math.log2(frames)) + 1)}
    return sorted(end for end in ends if end > first)


def _amount(tuning: Tuning, race: Raced, arm: Arm) -> Document:
    """What to make features of: as the first piece of them says, where that took longer than foreseen."""

    def decided(name: str) -> Document:
        return tuning.journal.decision(name, lambda before: amount_of(tuning, race, arm, before))

    foreseen, cost = decided(f"amount-{arm.slug}"), race.costs[arm]
    directions, cuts = cast("int | str", foreseen["directions"]), cast("list[int]", foreseen["cuts"])
    tuning.store(arm, cost, directions, cuts[0], cuts[1])
    rest = tuning.foreseen(cost, directions, max(cuts[1], made(race, arm, directions)), cuts[-1])
    need = tuning.pace(arm) * (rest + number(foreseen, "energies"))
    if tuning.time_for(f"all-{arm.slug}", partial(float, need), number(foreseen, "reserve")):
        return foreseen
    measured = decided(f"amount-{arm.slug}-measured")
    if measured["directions"] == directions:
        return foreseen
    tuning.progress.tell(f"features take longer than foreseen: directions {measured['directions']}, not {directions}")
    return measured


def amount_of(tuning: Tuning, race: Raced, arm: Arm, before: Document | None = None) -> Document:
    """Frames, directions, and where they are cut into pieces; never less than what was decided before.

    All frames along as many directions as the time bears; where these would take less than what they share, fewer
    frames along more of them, and of the others energies alone.
    """
    plan, cost, n = tuning.plan, race.costs[arm], len(tuning.data.training)
    left = max(tuning.journal.clock.left - TEST * plan.budget, 0.0)
    room = tuning.room() / tuning.pace(arm)
    options = tuning.options[:1] if plan.derivatives == "all" else tuning.options

    def most(frames: int, room: float) -> int | str | None:
        return next((one for one in options if _lacking(tuning, race, arm, frames, one) <= room), None)

    least = _efficient(tuning, race, cost, options)
    directions, frames, energies = most(n, room), n, 0.0
    if directions is None or options.index(directions) > options.index(least):
        frames = max(min(race.course.first, n), tuning.borne(cost, room, least))
        energies = tuning.beside(cost, room, frames)
        directions = most(frames, room - energies) or least
    work = tuning.foreseen(cost, directions, 0, frames) + energies
    if before is not None and number(before, "work") >= work:
        return before
    whole = _lacking(tuning, race, arm, frames, directions) * tuning.pace(arm)
    pieces = max(1, math.ceil(whole / (_PIECE * plan.budget)))
    done = made(race, arm, directions)
    begun = [cut for cut in race.course.cuts(done) if cut <= frames] if done else []
    start = max(begun, default=0)
    cuts = sorted({0, *begun, *(start + round((frames - start) * k / pieces) for k in range(1, pieces + 1))})
    return {
        "directions": directions,
        "cuts": cuts,
        "energies": energies,
        "reserve": TEST * plan.budget + left - tuning.room(),
        "work": work,
        "limited": frames < n or (plan.derivatives == "auto" and directions not in ("all", "none")),
    }


def _efficient(tuning: Tuning, race: Raced, cost: Cost, options: Sequence[int | str]) -> int | str:
    """Directions that take as long as what all of a frame share; as in the race at most, since rows take time, too.

    Each further direction of a frame tells less that is new: N frames with d of them are worth about N sqrt(d), largest
    there where the time N (shared + d direction) is given (docs/benchmarks.md, One command).
    """
    few = [one for one in options if tuning.directions(one) <= tuning.directions(race.course.directions)]
    return next((one for one in few if cost.direction * tuning.directions(one) <= cost.shared), options[-1])


def made(race: Raced, arm: Arm, directions: int | str) -> int:
    """Frames whose features the race has made."""
    return race.frames(arm) if directions == race.course.directions else 0


def remaining(tuning: Tuning, race: Raced, arm: Arm, much: Amount) -> float:
    """Seconds that features of another candidate take, by the probe, beside those that there are."""
    energies = tuning.foreseen(race.costs[arm], ENERGIES, much.frames, much.used)
    return _lacking(tuning, race, arm, much.frames, much.directions) + energies


def _lacking(tuning: Tuning, race: Raced, arm: Arm, frames: int, directions: int | str) -> float:
    return tuning.foreseen(race.costs[arm], directions, min(made(race, arm, directions), frames), frames)

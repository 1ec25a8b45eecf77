"""What all stages of a tuning share: data, journal, features that were made, and how fits compare candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from mekrr_scale.backbones import Backbone, identity_of, load_backbone, spec_of
from mekrr_scale.files import Document
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, Validation, extract
from mekrr_scale.progress import LOGGER
from mekrr_scale.store import Columns, FeatureStore, repack
from mekrr_scale.tuning.arms import Arm, Cost
from mekrr_scale.tuning.frames import Data
from mekrr_scale.tuning.journal import Journal, Timed, number
from mekrr_scale.tuning.plan import TunePlan

ENERGIES = "energies"  # instead of directions: features without any, of frames whose energies alone are learned
TEST = 0.08  # of the budget
_EXTRACTION = 0.65  # of the time that is left after the race
_LANDMARKS = 1000  # of a fit that compares
_LEAST_PACE = 0.2
_STILL = 0.5  # of the time for features, that those for energies alone may take
_NEARLY = 0.9  # of all directions: all are taken


@dataclass
class Tuning:
    """What all stages of a tuning share."""

    plan: TunePlan
    data: Data
    folder: Path
    journal: Journal
    progress: Timed
    paces: dict[Arm, float] = field(default_factory=dict)  # seconds of the last extraction over those foreseen
    networks: dict[Arm, Backbone] = field(default_factory=dict)  # that were loaded: seconds each, and few bytes

    @property
    def moved(self) -> bool:
        """Whether tangents are made."""
        return self.data.with_forces and self.plan.derivatives != "none"

    @property
    def strained(self) -> bool:
        given = self.plan.strain
        return self.data.with_stress if given == "auto" else bool(given)

    @property
    def alphas(self) -> tuple[float, ...]:
        """Mixings of elements that are tried; of one element there is nothing to mix."""
        several = len({z for atoms in self.data.training for z in atoms.numbers.tolist()}) > 1
        return (1.0, 0.5) if several else (1.0,)

    def mean_atoms(self, frames: int | None = None) -> float:
        """Atoms of a frame, of the first so many."""
        taken = self.data.training[:frames]
        return sum(map(len, taken)) / len(taken)

    def atoms(self, frames: int) -> int:
        return sum(map(len, self.data.training[:frames]))

    @property
    def options(self) -> list[int | str]:
        """Directions of each frame that may be made, the most first.

        Powers of two, so that a little time more or less changes nothing, and what was made is of use again.
        """
        if not self.moved:
            return ["none"]
        if isinstance(self.plan.derivatives, int):
            return [self.plan.derivatives]
        every = 3.0 * self.mean_atoms()
        powers = [2**k for k in range(int(every).bit_length()) if 2**k < _NEARLY * every]
        return ["all", *reversed(powers)]

    def directions(self, asked: int | str) -> float:
        """Tangents of a frame, on average."""
        if asked == ENERGIES:
            return 0.0
        if asked == "none":
            found = 0.0
        elif asked == "all":
            found = 3.0 * self.mean_atoms()
        else:
            found = min(float(asked), 3.0 * self.mean_atoms())
        return found + (6.0 if self.strained else 0.0)

    def store(self, arm: Arm, cost: Cost, directions: int | str, first: int, last: int) -> FeatureStore:
        """Features of a run of the training frames; what was made before is found, as itself or among others."""
        run = f"{directions}-{first}-{last}"
        where = self._place(arm, directions, first, last)
        holder = next((other for other in arm.richer if self.journal.has(f"made-{other.slug}-{run}")), None)

        def make() -> Document:
            where.parent.mkdir(parents=True, exist_ok=True)
            self.progress.before = f"{arm.name}, frames {first} to {last}"
            if holder is not None:
                repack(self._place(holder, directions, first, last), where, columns=self._columns(arm, holder))
                return {"foreseen": 0.0}
            how, frames = self.extraction(arm, directions), self.data.training[first:last]
            report = extract(frames, where, how, self._loaded(arm), self.progress)
            for warning in report.warnings:
                LOGGER.debug("%s", warning)
            share = report.written / max(report.written + report.resumed, 1)
            return {"foreseen": share * self.foreseen(cost, directions, first, last)}

        name = f"made-{arm.slug}-{run}"
        if holder is not None:
            self.paces[arm] = self.pace(holder)
        elif not self.journal.has(name):
            self._loaded(arm)  # whose time is no feature's
        made = self.journal.step(name, make)
        if (foreseen := number(made, "foreseen")) and directions != ENERGIES:
            self.paces[arm] = max(number(made, "seconds") / foreseen, _LEAST_PACE)
        return FeatureStore(where)

    def _place(self, arm: Arm, directions: int | str, first: int, last: int) -> Path:
        kind = ENERGIES if directions == ENERGIES else f"{directions}-directions"
        return self.folder / "stores" / arm.slug / kind / f"{first}-{last}"

    def _columns(self, arm: Arm, holder: Arm) -> Columns:
        """Where the features of a candidate stand among those of one that holds them."""
        places = self._loaded(holder).columns(arm.invariants)
        network = self._loaded(arm)
        return Columns(places, identity_of(network), spec_of(network))

    def pace(self, arm: Arm) -> float:
        """What the probe's seconds have to be multiplied by."""
        return self.paces.get(arm, 1.0)

    def room(self) -> float:
        """Seconds for the features of all data, were the race over; those that are left are for fits."""
        return max(_EXTRACTION * (self.journal.clock.left - TEST * self.plan.budget), 0.0)

    def time_for(self, name: str, need: Callable[[], float], reserve: float, share: float = 1.0) -> bool:
        """Whether a step is begun: a decision, made anew where the budget was raised.

        Args:
            need: seconds that it will take.
            reserve: seconds that are kept for what comes after, before ``share`` of the rest is given to it.
        """

        def decide(_: Document | None) -> Document:
            return {"limited": need() >= share * (self.journal.clock.left - reserve)}

        return not self.journal.decision(name, decide)["limited"]

    def stores(self, arm: Arm, cost: Cost, directions: int | str, cuts: Sequence[int]) -> list[FeatureStore]:
        """Features of the frames up to the last cut."""
        return [self.store(arm, cost, directions, a, b) for a, b in pairwise(cuts)]

    def foreseen(self, cost: Cost, directions: int | str, first: int, last: int) -> float:
        """Seconds that features of a run of frames take, by the probe."""
        return cost.frames(self.atoms(last) - self.atoms(first), self.directions(directions))

    def borne(self, cost: Cost, room: float, directions: int | str) -> int:
        """Frames along directions that a time bears, beside features of the others for their energies."""
        n = len(self.data.training)
        moved = self.foreseen(cost, directions, 0, n) / n
        still = self.foreseen(cost, ENERGIES, 0, n) / n if self.moved else 0.0
        together, alone = (room - n * still) / max(moved - still, 1e-9), (1 - _STILL) * room / max(moved, 1e-9)
        return max(1, min(n, int(max(together, alone))))

    def beside(self, cost: Cost, room: float, frames: int) -> float:
        """Seconds of that time for energies of the frames that come after so many."""
        still = self.foreseen(cost, ENERGIES, frames, len(self.data.training))
        return min(still, _STILL * room) if self.moved else 0.0

    def _loaded(self, arm: Arm) -> Backbone:
        if arm not in self.networks:
            self.networks[arm] = load_backbone(arm.spec)
        return self.networks[arm]

    def extraction(self, arm: Arm, directions: int | str) -> ExtractPlan:
        """How features are made."""
        plan = self.plan
        return ExtractPlan(
            backbone=arm.spec,
            keys=self.data.keys,
            derivatives=cast(Any, "none" if directions == ENERGIES else directions),
            strain=self.strained and directions != ENERGIES,
            device=plan.device,
            group_key=plan.group_key,
            seed=plan.seed,
            prior=plan.prior,
            ignore_charge=plan.ignore_charge,
        )


def quick_plan(tuning: Tuning, stores: Sequence[FeatureStore]) -> FitPlan:
    """A fit that compares candidates: few landmarks, no uncertainties, and alpha 1, since 0.5 takes as long again."""
    atoms = sum(store.n_atoms for store in stores)
    structures = sum(store.n_structures for store in stores)
    count = min(_LANDMARKS, tuning.plan.landmarks, 2 * atoms if tuning.moved else atoms)
    return FitPlan(
        kernel=KernelPlan(length_scales="4x,8x" if tuning.moved else "2x,4x,8x"),
        landmarks=LandmarkPlan(count=count),
        validation=Validation(folds=min(tuning.plan.folds, structures), uncertainty=False),
        seed=tuning.plan.seed,
    )

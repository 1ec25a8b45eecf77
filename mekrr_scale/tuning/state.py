"""What all stages of a tuning share: data, journal, features that were made, and how fits compare candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, Validation, extract
from mekrr_scale.progress import LOGGER
from mekrr_scale.store import FeatureStore
from mekrr_scale.tuning.arms import Arm
from mekrr_scale.tuning.frames import Data
from mekrr_scale.tuning.journal import Journal, Timed
from mekrr_scale.tuning.plan import TunePlan

_LANDMARKS = 1000  # of a fit that compares


@dataclass
class Tuning:
    """What all stages of a tuning share."""

    plan: TunePlan
    data: Data
    folder: Path
    journal: Journal
    progress: Timed
    first: int = 0  # frames of the race's first subset; 0: no race yet

    @property
    def moved(self) -> bool:
        """Whether tangents are made."""
        return self.data.with_forces and self.plan.derivatives != "none"

    @property
    def strained(self) -> bool:
        given = self.plan.strain
        return self.data.with_stress if given == "auto" else bool(given)

    def mean_atoms(self, frames: int | None = None) -> float:
        """Atoms of a frame, of the first so many."""
        taken = self.data.training[:frames]
        return sum(map(len, taken)) / len(taken)

    def atoms(self, frames: int) -> int:
        return sum(map(len, self.data.training[:frames]))

    def directions(self, asked: int | str) -> float:
        """Tangents of a frame, on average."""
        if asked == "none":
            found = 0.0
        elif asked == "all":
            found = 3.0 * self.mean_atoms()
        else:
            found = min(float(asked), 3.0 * self.mean_atoms())
        return found + (6.0 if self.strained else 0.0)

    def store(self, arm: Arm, directions: int | str, first: int, last: int) -> FeatureStore:
        """Features of a run of the training frames; what was made before is found."""
        where = self.folder / "stores" / arm.slug / f"{directions}-directions" / f"{first}-{last}"
        if (where / "manifest.json").exists():
            return FeatureStore(where)
        where.parent.mkdir(parents=True, exist_ok=True)
        plan = self.extraction(arm, directions)
        self.progress.before = f"{arm.name}, frames {first} to {last}"
        report = extract(self.data.training[first:last], where, plan, progress=self.progress)
        for warning in report.warnings:
            LOGGER.debug("%s", warning)
        return FeatureStore(where)

    def extraction(self, arm: Arm, directions: int | str) -> ExtractPlan:
        """How features are made."""
        plan = self.plan
        return ExtractPlan(
            backbone=arm.spec,
            keys=self.data.keys,
            derivatives=cast(Any, directions),
            strain=self.strained,
            device=plan.device,
            group_key=plan.group_key,
            seed=plan.seed,
            prior=plan.prior,
            tangent_dtype="float16" if self.moved or self.strained else "same",
        )

    def cuts(self, frames: int) -> list[int]:
        """Where the run of frames up to a number is cut into stores: as the race's subsets were."""
        doubled = [self.first * 2**k for k in range(40)] if self.first else []
        return [0, *(cut for cut in doubled if cut < frames), frames]

    def stores(self, arm: Arm, directions: int | str, frames: int) -> list[FeatureStore]:
        """Features of the first so many frames."""
        cuts = self.cuts(frames)
        return [self.store(arm, directions, a, b) for a, b in zip(cuts, cuts[1:], strict=False)]


def quick_plan(tuning: Tuning, stores: Sequence[FeatureStore]) -> FitPlan:
    """A fit that compares candidates: few landmarks, no uncertainties."""
    atoms = sum(store.n_atoms for store in stores)
    structures = sum(store.n_structures for store in stores)
    count = min(_LANDMARKS, tuning.plan.landmarks, 2 * atoms if tuning.moved else atoms)
    return FitPlan(
        kernel=KernelPlan(length_scales="4x,8x" if tuning.moved else "2x,4x,8x", standardize="centre-per-species"),
        landmarks=LandmarkPlan(method="displaced" if tuning.moved else "uniform", count=count),
        validation=Validation(folds=min(tuning.plan.folds, structures), uncertainty=False),
        seed=tuning.plan.seed,
    )

"""One generation of a loop: labels, features of the new frames, a model, its errors, its exploration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from ase import Atoms

from mekrr_scale.distributed import Steps
from mekrr_scale.errors import StructureError
from mekrr_scale.files import Document
from mekrr_scale.labelling import CalculatorSpec, label
from mekrr_scale.models import Model, load_model
from mekrr_scale.pipeline import Evaluation, evaluate, extract, fit
from mekrr_scale.progress import LOGGER, Progress, Silent
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import LabelKeys, geometry_hash, read_labels, read_structures, write_structures
from mekrr_scale.workflows.exploring import Exploration, exceeded
from mekrr_scale.workflows.plan import LearnPlan


class Waiting(Exception):  # noqa: N818  it is no error
    """Somebody else labels: the loop ends until a file is there.

    Args:
        path: of the file.
        frames: that it should hold.
    """

    def __init__(self, path: Path, frames: Path) -> None:
        super().__init__(str(path))
        self.path, self.frames = path, frames


@dataclass(frozen=True)
class Loop:
    """What all generations share."""

    plan: LearnPlan
    folder: Path
    calculator: CalculatorSpec | None
    starts: Sequence[Atoms]  # of explorations
    progress: Progress

    def generation(self, number: int) -> Generation:
        return Generation(self, number)


@dataclass(frozen=True)
class Generation:
    """A folder ``generation-000`` with all that one generation made; each step is made once."""

    loop: Loop
    number: int

    @property
    def folder(self) -> Path:
        return self.loop.folder / f"generation-{self.number:03d}"

    @cached_property
    def steps(self) -> Steps:
        return Steps(self.folder / "steps")

    @property
    def selected(self) -> Path:
        """Frames to label, without labels."""
        return self.folder / "selected.xyz"

    @property
    def labelled(self) -> Path:
        return self.folder / "labelled.xyz"

    @property
    def model_file(self) -> Path:
        return self.folder / "model.mekrr"

    @cached_property
    def model(self) -> Model:
        return load_model(self.model_file)

    @property
    def keys(self) -> LabelKeys:
        """Where the labels of its frames stand: the package's own are ASE's."""
        given = self.loop.plan.labels == "wait" or self._brought
        return self.loop.plan.keys if given else LabelKeys()

    @property
    def _brought(self) -> bool:
        """Whether its labels are those that the first frames came with."""
        return self.number == 0 and self.loop.plan.labelled

    def begin(self, frames: Callable[[], Sequence[Atoms]]) -> None:
        """Write the frames to label."""

        def make() -> Document:
            self.folder.mkdir(parents=True, exist_ok=True)
            return {"frames": write_structures(self.selected, frames())}

        self.steps.step("select", make, self.selected)

    def label(self) -> Document:
        """Labels of the frames.

        Raises:
            Waiting: they are somebody else's work, and not there yet.
            StructureError: none could be labelled.
        """
        plan = self.loop.plan

        def make() -> Document:
            if self._brought:
                count = write_structures(self.labelled, read_structures(self.selected))
                return {"labelled": count, "failed": 0}
            if self.loop.calculator is None:
                return self._awaited()
            report = label(
                self.selected, self.labelled, self.loop.calculator, plan.label_workers, overwrite=True,
                progress=self.loop.progress,
            )  # fmt: skip
            return {"labelled": report.labelled, "failed": len(report.failed)}

        return self.steps.step("label", make, self.labelled)

    def _awaited(self) -> Document:
        """Labels that somebody else has made.

        Raises:
            Waiting: they are not there.
            StructureError: they are of other structures, or none.
        """
        if not self.labelled.exists():
            raise Waiting(self.labelled, self.selected)
        asked = [str(atoms.symbols.formula) for atoms in read_structures(self.selected)]
        count = 0
        for place, atoms in enumerate(read_structures(self.labelled)):
            if read_labels(atoms, self.keys).energy is None:
                raise StructureError(
                    f"frame {place} of {self.labelled} has no energy; leave frames without labels out, or name the key "
                    'in the TOML: keys = { energy = "..." }'
                )
            if str(atoms.symbols.formula) not in asked:
                raise StructureError(f"frame {place} of {self.labelled} is none of {self.selected}: {atoms.symbols}")
            count += 1
        return {"labelled": count, "failed": max(0, len(asked) - count)}

    def extract(self) -> Document:
        """Features of the new frames, in a store of their own."""

        def make() -> Document:
            plan = self.loop.plan.features
            report = extract(self.labelled, self.folder / "store", replace(plan, keys=self.keys), progress=self._quiet)
            for warning in report.warnings:
                self.loop.progress.note(warning)
            return {"written": report.written + report.resumed, "rejected": report.n_rejected}

        return self.steps.step("extract", make)

    def fit(self) -> Document:
        """A model of the features of all generations so far; those of earlier ones are read, not made again."""

        def make() -> Document:
            stores = [FeatureStore(self.loop.generation(k).folder / "store") for k in range(self.number + 1)]
            self.loop.progress.note(f"generation {self.number}: fit to {sum(s.n_structures for s in stores)} frames")
            report = fit(stores, self.loop.plan.fit, self._quiet)
            for warning in report.warnings:
                LOGGER.debug("%s", warning)
            report.model.save(self.model_file, overwrite=True)
            frames = sum(store.n_structures for store in stores)
            return {
                "frames": frames,
                "landmarks": report.model.landmarks.n_sets,
                "errors": report.chosen.errors(shown=True),
            }

        return self.steps.step("fit", make, self.model_file)

    def evaluate(self) -> Document:
        """Errors on the test, and of the model before on the frames that are new to it."""
        plan, before = self.loop.plan, self.loop.generation(self.number - 1)

        def make() -> Document:
            found: dict[str, Any] = {}
            if self.number:
                found["new"] = _errors(evaluate(before.model_file, self.labelled, self.keys, progress=self._quiet))
            if plan.test is not None:
                found["test"] = _errors(evaluate(self.model_file, Path(plan.test), plan.keys, progress=self._quiet))
            return found

        return self.steps.step("evaluate", make)

    def explore(self) -> tuple[bool, list[Document]]:
        """Whether the model was ever too unsure, and what became of the runs."""
        runs = self.exploration.explored(self.steps, self.loop.progress)
        return exceeded(runs, self.exploration.blind), runs

    @cached_property
    def exploration(self) -> Exploration:
        plan = self.loop.plan
        seed = (plan.seed, self.number)
        folder = self.folder / "explored"
        return Exploration(folder, self.model, self.loop.starts, plan.explore, plan.features.device, seed)

    def choose(self) -> list[Atoms]:
        """Frames for the next generation; none where all candidates have labels already."""
        earlier = [self.loop.generation(k).selected for k in range(self.number + 1)]
        known = frozenset(geometry_hash(atoms) for path in earlier for atoms in read_structures(path))
        frames = self.exploration.candidates(known, self.loop.plan.pool)
        return self.exploration.chosen(frames, self.loop.plan.count, self._quiet) if frames else []

    @property
    def _quiet(self) -> Progress:
        """Of single stages there are many."""
        return Silent()


def _errors(found: Evaluation) -> Document:
    """What can be written as JSON: errors that are not known are left out."""
    return cast(Document, {key: value for key, value in found.metrics().items() if np.isfinite(value)})

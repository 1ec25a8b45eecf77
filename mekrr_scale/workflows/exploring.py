"""Exploration of a model: dynamics that stop where it is unsure, and the frames worth a label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ase import Atoms

from mekrr_scale.distributed import Steps
from mekrr_scale.errors import SimulationError, StructureError
from mekrr_scale.files import Document
from mekrr_scale.models import MekrrCalculator, Model, Potential
from mekrr_scale.pipeline import Workers, processes
from mekrr_scale.progress import Progress, Silent
from mekrr_scale.simulation import Bounds, MdPlan, run_md, select
from mekrr_scale.structures import (
    Labels,
    check_structure,
    geometry_hash,
    read_structures,
    with_predictions,
    without_results,
    write_structure,
)
from mekrr_scale.workflows.plan import ExplorePlan

_UNIT = 1000.0  # fs in a ps
_LEAST_RUNS = 4  # what ``processes`` counts as one process's work


@dataclass(frozen=True)
class Exploration:
    """The runs of one generation.

    Args:
        folder: for trajectories.
        seed: of this generation alone.
    """

    folder: Path
    model: Model
    starts: Sequence[Atoms]
    plan: ExplorePlan
    device: str
    seed: Sequence[int]

    @property
    def blind(self) -> bool:
        """Whether the model cannot tell its grade."""
        return self.model.posterior is None

    @property
    def runs(self) -> list[tuple[int, int, float]]:
        """Number, start and temperature of each."""
        pairs = [(start, t) for start in range(len(self.starts)) for t in self.plan.temperatures]
        return [(k, start, t) for k, (start, t) in enumerate(pairs)]

    def trajectory(self, run: int) -> Path:
        """Where a run writes."""
        return self.folder / f"run-{run:03d}.xyz"

    def beyond(self, run: int) -> Path:
        """The frame whose grade stopped it."""
        return self.folder / f"run-{run:03d}.beyond.xyz"

    def explored(self, steps: Steps, progress: Progress) -> list[Document]:
        """What became of each run; those that ended before are not made again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        names = {run[0]: f"explore-{run[0]:03d}" for run in self.runs}
        left = [run for run in self.runs if not steps.has(names[run[0]])]
        progress.stage("explore", len(self.runs), "runs")
        progress.advance(len(self.runs) - len(left))
        many = min(max(1, len(left)), processes(self.plan.workers, self.device, _LEAST_RUNS * len(left)))
        with Workers(self._run, many) as workers:
            for run, found in workers.each(left):
                steps.step(names[run[0]], lambda found=found: found)  # type: ignore[misc]
                progress.advance()
        return [steps.step(names[run[0]], dict) for run in self.runs]

    def _run(self, run: tuple[int, int, float]) -> dict[str, Any]:
        """One trajectory, to its end or to where the model is too unsure."""
        number, start, temperature = run
        plan = self.plan
        dtype = torch.float64 if plan.dtype == "float64" else torch.float32
        calculator = MekrrCalculator(self.model, dtype=dtype, device=self.device)
        asked = plan.blind_steps if self.blind else plan.steps
        how = MdPlan(
            steps=asked,
            timestep=plan.timestep,
            temperature=temperature,
            friction=plan.friction,
            interval=plan.interval,
            checkpoint=plan.checkpoint,
            seed=int(np.random.SeedSequence([*self.seed, number]).generate_state(1)[0]),
            bounds=Bounds(force=plan.force, grade=None if self.blind else plan.grade, every=plan.interval),
        )
        path, reason, beyond = self.trajectory(number), "", None
        try:
            run_md(self.starts[start], calculator, path, how, Silent())
        except SimulationError as error:
            reason, beyond = str(error).partition("; the last good")[0], error.beyond
        grades = [float(frame.info["largest_grade"]) for frame in _frames(path) if "largest_grade" in frame.info]
        if beyond is not None:
            grades.append(float(beyond.info["largest_grade"]))
            write_structure(self.beyond(number), with_predictions(beyond))
        reached = asked if not reason else _reached(path, beyond)
        return {
            "start": start,
            "temperature": temperature,
            "steps": reached,
            "asked": asked,
            "ps": reached * plan.timestep / _UNIT,
            "stopped": reason,
            "largest_grade": max(grades, default=None),
        }

    def candidates(self, known: frozenset[int], pool: int) -> list[Atoms]:
        """Frames to choose from, without any results: those where runs stopped, and others spread over the runs.

        Args:
            known: hashes of geometries that have labels.
            pool: frames at most, beside those where runs stopped.
        """
        where = [frame for k, _, _ in self.runs if self.beyond(k).exists() for frame in read_structures(self.beyond(k))]
        rest = [frame for k, _, _ in self.runs for frame in _frames(self.trajectory(k)) if frame.info.get("step")]
        taken = (
            rest if len(rest) <= pool else [rest[i] for i in np.linspace(0, len(rest) - 1, pool).round().astype(int)]
        )
        found: dict[int, Atoms] = {}
        for frame in (*where, *taken):
            name = geometry_hash(frame)
            if name not in known and name not in found and _usable(frame):
                found[name] = without_results(frame)
        return list(found.values())

    def chosen(self, frames: Sequence[Atoms], count: int, progress: Progress) -> list[Atoms]:
        """Of the candidates those that the model would learn most from; evenly spread where it cannot tell."""
        count = min(count, len(frames))
        if self.blind:
            return [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]
        found = select(Potential(self.model, device=self.device), list(frames), count, progress=progress)
        return [frames[i] for i in found.indices]


def exceeded(runs: Sequence[Document], blind: bool) -> bool:
    """Whether the model left what it knows in any run; one that cannot tell is taken to have."""
    return blind or any(run["stopped"] for run in runs)


def _frames(path: Path) -> Iterator[Atoms]:
    """Of a trajectory, which may have none: a run can stop at its first step."""
    return read_structures(path) if path.exists() and path.stat().st_size else iter(())


def _reached(path: Path, beyond: Atoms | None) -> int:
    """The last step that is known of a run that stopped."""
    if beyond is not None:
        return int(beyond.info["step"])
    steps = [int(cast(Mapping[str, Any], frame.info)["step"]) for frame in _frames(path)]
    return max(steps, default=0)


def _usable(frame: Atoms) -> bool:
    try:
        check_structure(frame, Labels(None, None, None), need_energy=False)
    except StructureError:
        return False
    return True

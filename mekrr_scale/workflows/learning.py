"""The loop: explore, select, label, extract, fit, evaluate, until the grade is never exceeded or the budget ends."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
from ase import Atoms

from mekrr_scale.backbones import load_backbone, trusting_code
from mekrr_scale.distributed import claim
from mekrr_scale.errors import ConfigError
from mekrr_scale.files import JSON, Document, Lock, file_hash, publish_text, replacing
from mekrr_scale.labelling import CalculatorSpec
from mekrr_scale.outputs import check_folder, write_report
from mekrr_scale.plans import to_dict
from mekrr_scale.progress import Progress, shown_progress
from mekrr_scale.regression import UNITS
from mekrr_scale.structures import Inputs, bare, read_labels, read_structures, without_results
from mekrr_scale.version import __version__
from mekrr_scale.workflows.generation import Generation, Loop, Waiting
from mekrr_scale.workflows.plan import LearnPlan
from mekrr_scale.workflows.report import LearnReport
from mekrr_scale.workflows.toml import load_learn_plan

_FREE = frozenset({"generations", "label_workers"})  # may differ when a loop goes on


def learn(
    plan: LearnPlan | Path | str,
    folder: Path | str,
    progress: Progress | None = None,
    trust_code: bool = False,
) -> LearnReport:
    """Grow a potential: dynamics of the model find frames it is unsure of, a reference labels them, the next is fitted.

    Each generation is a folder with its frames, features, model, trajectories and figures. Whatever ends a call, the
    same call goes on where it was and ends alike: every step is made once, and draws follow from the seed and the
    generation's number.

    Args:
        plan: or its TOML file. A calculator ``module:Class(...)`` in a file needs ``trust_code``.
        folder: for generations, the last model (``model.mekrr``) and ``learn.json``.
        trust_code: code that the plan's file, or a checkpoint, names is from where you trust.

    Raises:
        ConfigError: a key or value that cannot be, a folder of another loop, a calculator that is not there.
        StructureError: files that cannot be read, or frames of which none could be labelled.
    """
    folder = Path(folder)
    check_folder(folder, "--output")
    with shown_progress(progress) as shown, trusting_code(trust_code):
        from_file = not isinstance(plan, LearnPlan)
        plan = plan if isinstance(plan, LearnPlan) else load_learn_plan(plan)
        calculator = None if plan.calculator is None else CalculatorSpec.parse(plan.calculator, from_file)
        if calculator is not None:
            calculator.make()  # before any work
        load_backbone(plan.features.backbone)
        first = _first_frames(plan)
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder / ".lock", f"the loop in {folder}")
        try:
            claim(folder / "plan.json", "a loop", _claim(plan), _FREE)
            return looped(Loop(plan, folder, calculator, _starts(plan, first), shown), first)
        finally:
            lock.release()


def _first_frames(plan: LearnPlan) -> list[Atoms]:
    """The frames to begin with, and with what labels.

    Raises:
        StructureError: they cannot be read, or lack the labels that they are said to carry.
    """
    found = list(read_structures([Path(path) for path in plan.frames]))
    if not plan.labelled:
        return [without_results(atoms) for atoms in found]
    for place, atoms in enumerate(found):
        if read_labels(atoms, plan.keys).energy is None:
            raise ConfigError(
                f"labelled = true, and frame {place} has no energy; name its key (keys = {{ energy = ... }}), or let "
                "the loop label them (labelled = false)"
            )
    return found


def _starts(plan: LearnPlan, first: list[Atoms]) -> list[Atoms]:
    """Structures that explorations start from: positions and cells alone."""
    given = plan.explore.structures
    found = first if given is None else list(read_structures(Path(given)))
    count = min(plan.explore.starts, len(found))
    return [bare(found[i]) for i in np.linspace(0, len(found) - 1, count).round().astype(int)]


def _claim(plan: LearnPlan) -> dict[str, JSON]:
    """What has to be the same when a loop goes on."""
    found: dict[str, Any] = {**to_dict(plan), "version": __version__}
    files = {"frames": plan.frames, "test": (plan.test,), "explore.structures": (plan.explore.structures,)}
    for name, paths in files.items():  # by what they hold, wherever they lie
        known = [_content(Path(path)) for path in paths if path is not None]
        found[f"files of {name}"] = hashlib.sha256("".join(known).encode()).hexdigest()[:16]
    for section, key in ((found, "frames"), (found, "test"), (found["explore"], "structures")):
        section.pop(key, None)
    return cast("dict[str, JSON]", json.loads(json.dumps(found, default=str)))


def _content(path: Path) -> str:
    """A hash of the structures that a path stands for.

    Raises:
        StructureError: there are none.
    """
    return file_hash(path, "xxh3_128") if path.is_file() else Inputs.of(path, None).fingerprint


def looped(loop: Loop, first: list[Atoms]) -> LearnReport:
    """Generation after generation, from the frames of the first one to convergence or the last that is allowed."""
    done: list[Document] = []
    loop.generation(0).begin(lambda: first)
    for number in range(loop.plan.generations):
        generation = loop.generation(number)
        try:
            figures, more = _generation(loop, generation)
        except Waiting as waiting:
            return _told(LearnReport(loop.folder, "waiting", done, waiting.path, waiting.frames))
        done.append(figures)
        if not more:
            return _told(LearnReport(loop.folder, "converged", done))
        following = loop.generation(number + 1)
        if not following.steps.has("select"):
            frames = generation.choose()
            if not frames:
                return _told(LearnReport(loop.folder, "exhausted", done))
            following.begin(lambda frames=frames: frames)  # type: ignore[misc]
    return _told(LearnReport(loop.folder, "budget", done))


def _generation(loop: Loop, generation: Generation) -> tuple[Document, bool]:
    """Figures of a generation, which is made or found; and whether its model left what it knows."""
    number = generation.number
    generation.begin(list)  # was written by the generation before
    labelled = generation.label()
    extracted = generation.extract()
    fitted = generation.fit()
    tested = generation.evaluate()
    errors = cast("dict[str, float]", fitted["errors"])
    said = ", ".join(
        f"{name} {errors[f'{name}_rmse']:.3g} {unit.short}" for name, unit in UNITS.items() if f"{name}_rmse" in errors
    )
    loop.progress.note(f"generation {number}: {fitted['frames']} frames, cross-validated RMSE: {said}")
    more, runs = generation.explore()
    figures: dict[str, Any] = {
        "generation": number,
        "labelled": labelled["labelled"],
        "failed": labelled["failed"],
        "rejected": extracted["rejected"],
        "frames": fitted["frames"],
        "landmarks": fitted["landmarks"],
        "errors": fitted["errors"],
        **tested,
        "explored": runs,
        "exceeded": more,
    }
    publish_text(generation.folder / "figures.json", json.dumps(figures, indent=2))
    with replacing(loop.folder / "model.mekrr") as temporary:
        shutil.copyfile(generation.model_file, temporary)
    return figures, more


def _told(report: LearnReport) -> LearnReport:
    write_report(report.folder / "learn.json", report.to_dict())
    return report

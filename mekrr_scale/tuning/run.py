"""A data set to its best model within a time: look, race, extract, fit, test, tell."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from mekrr_scale.arrays import usable_device
from mekrr_scale.backbones import trusting_code
from mekrr_scale.checks import quick_check
from mekrr_scale.config import FitConfig, config_text
from mekrr_scale.distributed import claim
from mekrr_scale.errors import ConfigError
from mekrr_scale.files import JSON, Document, Lock, file_hash, publish_text
from mekrr_scale.models import Potential, load_model, load_prior
from mekrr_scale.outputs import check_folder, write_report
from mekrr_scale.pipeline import FitPlan, evaluate, fit
from mekrr_scale.plans import plan_of, to_dict
from mekrr_scale.progress import Progress, shown_progress
from mekrr_scale.report import (
    page_beside,
    parity_plot,
    results_beside,
    save_html,
    with_evaluation,
    write_figure,
    write_page,
)
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import Frames
from mekrr_scale.tuning.arms import Cost
from mekrr_scale.tuning.features import Amount
from mekrr_scale.tuning.final import CHECKS, EVALUATION, in_full
from mekrr_scale.tuning.frames import Data, gathered, label_table
from mekrr_scale.tuning.journal import Clock, Journal, Timed, number
from mekrr_scale.tuning.plan import TunePlan
from mekrr_scale.tuning.race import raced
from mekrr_scale.tuning.report import TuneReport
from mekrr_scale.tuning.state import TEST, Tuning
from mekrr_scale.version import __version__

_WRITTEN = (
    "model.mekrr",
    "model.html",
    "config.toml",
    "tune.json",
    "test.json",
    "summary.txt",
    "race.png",
    "parity.png",
)
_FREE = frozenset({"budget", "part", "device"})  # may differ when a tuning goes on
_FEWEST = 20  # frames of the test, whatever the time


def tune(
    structures: Frames,
    folder: Path | str,
    plan: TunePlan | None = None,
    test: Frames | None = None,
    progress: Progress | None = None,
    trust_code: bool = False,
) -> TuneReport | None:
    """The best model of labelled structures that a time allows.

    Networks, their layers and invariants race on growing subsets by cross-validated errors; features of all
    structures are made with the winner; kernel and landmarks are chosen; the model is fitted, calibrated and tested.
    What was made is kept: called again after a kill, it goes on where it was.

    Args:
        structures: files or structures with energies, and forces or stress where they are known.
        folder: for ``model.mekrr``, ``config.toml`` (the same fit again, without the race: ``mekrr-scale fit``),
            ``tune.json``, figures, and everything that was made on the way.
        test: files or structures that errors are reported on; by default a part of ``structures``.
        trust_code: checkpoints that hold code are from where you trust.

    Returns:
        The report; None of a part (``TunePlan.part``), whose scores lie in the folder.

    Raises:
        ConfigError: a folder of another tuning, or that cannot be written.
        StructureError: files that cannot be read, or no usable frame.
        BackboneError: no network to try.
        SolverError: nothing could be fitted.
    """
    plan, folder = plan_of(plan, TunePlan), Path(folder)
    usable_device(plan.device)
    check_folder(folder, "--output")
    with shown_progress(progress) as shown, trusting_code(trust_code):
        shown.stage("read structures")
        prior = None if plan.prior is None else plan.prior.pinned()
        if prior is not None:
            load_prior(prior)  # before any work
        data = gathered(structures, test, plan)
        for name, value in label_table(data):
            shown.note(f"{name:22}{value}")
        for line in data.remarks:
            shown.note(line)
        _check_files(folder)
        (folder / "steps").mkdir(parents=True, exist_ok=True)
        index, count = plan.part
        own = "" if count == 1 else f"-{index}-of-{count}"
        lock = Lock(folder / f".lock{own}", f"the tuning in {folder}")
        try:
            claim(folder / "plan.json", "a tuning", _claim(replace(plan, prior=prior), data), _FREE)
            clock = Clock(folder / f"clock{own}.json", plan.budget)
            tuning = Tuning(plan, data, folder, Journal(folder / "steps", clock), Timed(shown, clock))
            return _tuned(tuning)
        finally:
            lock.release()


def _check_files(folder: Path) -> None:
    """Nothing of another's is replaced: a folder of no tuning holds none of the files that one writes."""
    written = [folder / name for name in _WRITTEN]
    there = [] if (folder / "plan.json").exists() else [path.name for path in written if path.exists()]
    if there:
        raise ConfigError(f"{folder} is no folder of a tuning, and {', '.join(there)} would be replaced; name another")


def _claim(plan: TunePlan, data: Data) -> dict[str, JSON]:
    """What has to be the same when a tuning goes on."""
    frames = hashlib.sha256(repr([data.content(atoms) for atoms in (*data.training, *data.test)]).encode())
    found: dict[str, JSON] = {**cast(Any, to_dict(plan)), "frames": frames.hexdigest(), "version": __version__}
    for spec in plan.backbones or ():
        if spec.checkpoint is not None and Path(spec.checkpoint).is_file():
            found[f"checkpoint {spec.checkpoint}"] = file_hash(Path(spec.checkpoint), "sha256")
    return cast("dict[str, JSON]", json.loads(json.dumps(found, default=str)))


def _tuned(tuning: Tuning) -> TuneReport | None:
    race = raced(tuning)
    names = [arm.name for arm in race.leaders]
    if tuning.plan.part[1] > 1:
        said = f"{names[0]} leads in it" if names else "there was no candidate for it"
        tuning.progress.tell(f"part {tuning.plan.part[0]} of {tuning.plan.part[1]} is done; {said}")
        return None
    tuning.progress.tell(f"the race is over: {' and '.join(names)}")
    finals = in_full(tuning, race)
    search = finals[0]
    if len(finals) > 1:
        tuning.progress.tell(f"{search.arm.name} is the best in full")
    plan, steps = search.run()
    much, stores = search.with_more(race, plan)
    what = hashlib.sha256(repr(([store.id for store in stores], to_dict(plan))).encode()).hexdigest()[:8]
    model = _model(tuning, plan, stores, f"model-{what}")
    errors = _tested(tuning, race.costs[search.arm], f"test-{what}")
    report = TuneReport(
        folder=tuning.folder,
        arm=search.arm,
        scores=tuple(race.scores),
        finals=tuple(one.score() for one in finals),
        amount=much,
        steps=tuple(steps),
        plan=plan,
        validation=cast("dict[str, float]", model["errors"]),
        metrics=cast("dict[str, float]", errors.get("metrics", {})),
        coverage=cast("dict[str, float]", errors.get("coverage", {})),
        tested=int(number(errors, "structures")) if errors else 0,
        data=_sizes(tuning, much),
        limited=search.limited,
        remarks=tuple(tuning.data.remarks),
        seconds=tuning.journal.clock.used,
        unphysical=cast("list[str]", model.get("unphysical", [])),
        warnings=cast("list[str]", errors.get("warnings", [])),
    )
    write_figure(tuning.folder / "race.png", report.plot(), overwrite=True)
    write_report(tuning.folder / "tune.json", report.to_dict())
    publish_text(tuning.folder / "summary.txt", f"{report.words()}\n")
    return report


def _sizes(tuning: Tuning, much: Amount) -> dict[str, int]:
    return {
        "frames": len(tuning.data.training),
        "used": much.used,
        "with_directions": 0 if much.directions == "none" else much.frames,
        "test": len(tuning.data.test),
        "with_forces": tuning.data.survey.found["forces"],
        "with_stress": tuning.data.survey.found["stress"],
    }


def _model(tuning: Tuning, plan: FitPlan, stores: Sequence[FeatureStore], name: str) -> Document:
    """The last fit: the model, and the configuration that repeats it."""
    target = tuning.folder / "model.mekrr"

    def make() -> Document:
        tuning.progress.before = "model"
        paths = tuple(str(store.path.relative_to(tuning.folder)) for store in stores)
        publish_text(tuning.folder / "config.toml", config_text(FitConfig(paths, plan, "model-again.mekrr"), _ABOUT))
        report = fit(stores, plan, tuning.progress)
        report.model.save(target, overwrite=True)
        checks = quick_check(report.model, tuning.plan.device, CHECKS * tuning.plan.budget, tuning.progress)
        write_page(report, stores, page_beside(target), name=target.name, overwrite=True, checks=checks)
        return {
            "errors": report.chosen.errors(),
            "model": file_hash(target, "sha256"),
            "warnings": list(report.warnings),
            "remarks": list(report.remarks),
            "unphysical": [] if checks is None else checks.failed,
        }

    found = tuning.journal.step(name, make)
    if not target.is_file() or file_hash(target, "sha256") != found["model"]:
        raise ConfigError(
            f"{target} is not the model of this tuning any more; put it back, or delete "
            f"{tuning.folder / 'steps' / name}.json to fit it again"
        )
    return found


_ABOUT = "Written by mekrr-scale tune: `mekrr-scale fit config.toml` makes the same model again."


def _tested(tuning: Tuning, cost: Cost, name: str) -> Document:
    """Errors on frames that nothing was chosen by."""
    test = tuning.data.test
    if not test:
        return {}

    def make() -> Document:
        frame = cost.frames(1, 0) * sum(map(len, test)) / len(test) * EVALUATION
        room = max(TEST * tuning.plan.budget, 0.5 * tuning.journal.clock.left)
        count = min(len(test), max(_FEWEST, int(room / max(frame, 1e-9))))
        chosen = np.sort(np.random.default_rng([tuning.plan.seed, 2]).permutation(len(test))[:count])
        tuning.progress.before = ""
        tuning.progress.stage("test", count)
        potential = Potential(load_model(tuning.folder / "model.mekrr"), device=tuning.plan.device)
        sure = potential.model.posterior is not None
        frames = [test[i] for i in chosen]
        found = evaluate(potential, frames, tuning.data.keys, True, tuning.progress, sure)
        title = f"{tuning.folder.name}: {count} frames of the test"
        parity_plot(tuning.folder / "parity.png", found, title=title, overwrite=True)
        write_report(tuning.folder / "test.json", found.to_dict())
        target = tuning.folder / "model.mekrr"
        page = with_evaluation(results_beside(potential.model, target), found, "test", frames)
        save_html(page, page_beside(target), overwrite=True)
        return {
            "metrics": found.metrics(),
            "coverage": found.coverage(),
            "warnings": found.warnings(),
            "structures": count,
        }

    return tuning.journal.step(name, make)

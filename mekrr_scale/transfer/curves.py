"""Learning curves: errors against the number of training structures, for several ways to transfer."""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from mekrr_scale.backbones import Backbone, BackboneEnergies, load_backbone, new_backbone
from mekrr_scale.errors import ConfigError, StructureError
from mekrr_scale.files import (
    Document,
    Lock,
    file_hash,
    is_whole,
    publish_text,
    replacing,
    sealed,
    unsealed,
    warn_unsealed,
)
from mekrr_scale.outputs import check_folder
from mekrr_scale.pipeline import FitPlan, identity_text
from mekrr_scale.progress import LOGGER, Progress, Silent, shown_progress
from mekrr_scale.structures import Predictor
from mekrr_scale.transfer.adapt import finetune, pretrain
from mekrr_scale.transfer.curve_plan import CurvePlan, Variant
from mekrr_scale.transfer.errors import errors_on
from mekrr_scale.transfer.examples import Example
from mekrr_scale.transfer.kernel_fit import fit_kernel
from mekrr_scale.transfer.networks import NETWORKS
from mekrr_scale.transfer.plan import TrainPlan
from mekrr_scale.transfer.report import TrainReport
from mekrr_scale.version import __version__


@dataclass(frozen=True)
class CurvePoint:
    """One run: errors on the test set in meV/atom and meV/angstrom."""

    variant: str
    size: int
    repeat: int
    energy_mae: float
    energy_rmse: float
    energy_rmse_shifted: float
    force_mae: float
    force_rmse: float
    rate: float | None  # that was chosen
    seconds: float


def run_curve(
    training: Sequence[Example],
    validation: Sequence[Example],
    test: Sequence[Example],
    folder: Path,
    plan: CurvePlan,
    progress: Progress | None = None,
) -> list[CurvePoint]:
    """Run all variants, sizes and repeats; what an earlier call has finished is read, not run again.

    Every variant of a size and repeat sees the same structures, and smaller subsets are parts of
    larger ones.

    Args:
        validation: chooses learning rates and when to stop, never the test set.
        folder: a file for each run; ``curve.csv`` and what ``report.curve_plot`` draws are the sums.

    Returns:
        All runs that are in the folder, those of other variants, sizes and repeats of earlier calls too.

    Raises:
        ConfigError: more structures asked for than there are, an unknown block, one that leaves none to
            learn, or a folder of another curve.
        StructureError: a structure that cannot be used.
    """
    if max(plan.sizes) > len(training):
        raise ConfigError(f"size {max(plan.sizes)} asked for, but there are {len(training)} training structures")
    for what, examples in (("validation", validation), ("test", test)):
        if not examples:
            raise StructureError(f"the {what} set is empty; give structures for it")
    _check_blocks(plan)
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder / ".lock", f"the curve in {folder}")
    try:
        _claim(folder, plan, training, validation, test)
        return _all_runs(training, validation, test, folder, plan, progress)
    finally:
        lock.release()


def _all_runs(
    training: Sequence[Example],
    validation: Sequence[Example],
    test: Sequence[Example],
    folder: Path,
    plan: CurvePlan,
    progress: Progress | None,
) -> list[CurvePoint]:
    jobs = [(v, n, r) for r in range(plan.repeats) for n in plan.sizes for v in plan.variants]
    points = []
    with shown_progress(progress, "runs") as shown:
        shown.stage("learning curve", len(jobs), "runs")
        for variant, size, repeat in jobs:
            asked = (str(variant), size, repeat)
            path = _file(folder, *asked)
            point = finished(path, asked)
            if point is None:
                order = np.random.default_rng([plan.seed, repeat]).permutation(len(training))[:size]
                point = _run([training[i] for i in order], validation, test, variant, repeat, plan, folder / "work")
                publish_text(path, json.dumps(sealed(asdict(point))))
                shown.note(
                    f"{variant}, {size} structures, repeat {repeat}: forces {point.force_rmse:.1f} meV/A, energy "
                    f"{point.energy_rmse:.2f} meV/atom ({point.seconds:.0f} s)"
                )
            points.append(point)
            shown.advance()
    points = _with_earlier(points, folder, [str(variant) for variant in plan.variants])
    _write_table(folder / "curve.csv", points)
    return points


def _file(folder: Path, variant: str, size: int, repeat: int) -> Path:
    """Where a run is kept."""
    return folder / f"{variant.replace(':', '-')}-n{size}-r{repeat}.json"


def _with_earlier(points: Sequence[CurvePoint], folder: Path, variants: Sequence[str]) -> list[CurvePoint]:
    """Runs beside those of earlier calls that were not asked for now; of each repeat and size, ours first."""
    found = {_file(folder, point.variant, point.size, point.repeat): point for point in points}
    for path in sorted(set(folder.glob("*-n*-r*.json")) - set(found)):
        point = _point(path)
        if point is not None and _file(folder, point.variant, point.size, point.repeat) == path:
            found[path] = point
    order = {variant: place for place, variant in enumerate(variants)}
    return sorted(found.values(), key=lambda one: (one.repeat, one.size, order.get(one.variant, len(order))))


def summarized(points: Sequence[CurvePoint], key: str) -> dict[tuple[str, int], tuple[float, float, float]]:
    """Mean, lowest and highest value over the repeats, by variant and size."""
    found: dict[tuple[str, int], list[float]] = {}
    for point in points:
        found.setdefault((point.variant, point.size), []).append(getattr(point, key))
    return {place: (float(np.mean(values)), min(values), max(values)) for place, values in found.items()}


def _run(
    examples: Sequence[Example],
    held: Sequence[Example],
    test: Sequence[Example],
    variant: Variant,
    repeat: int,
    plan: CurvePlan,
    work: Path,
) -> CurvePoint:
    begin = time.perf_counter()
    predictor, rate = _learned(examples, held, variant, repeat, plan, work)
    found = asdict(errors_on(predictor, test))
    seconds = time.perf_counter() - begin
    return CurvePoint(variant=str(variant), size=len(examples), repeat=repeat, rate=rate, seconds=seconds, **found)


def _learned(
    examples: Sequence[Example],
    held: Sequence[Example],
    variant: Variant,
    repeat: int,
    plan: CurvePlan,
    work: Path,
) -> tuple[Predictor, float | None]:
    if not variant.trains:
        return _kernel(examples, load_backbone(plan.backbone), plan, work), None
    train = replace(plan.train, blocks=variant.block_plan(), seed=plan.seed + repeat)
    reports = [
        (_trained(examples, held, variant, plan, replace(train, learning_rate=rate)), rate) for rate in plan.rates
    ]
    report, rate = min(reports, key=lambda pair: pair[0].best.validation)
    if variant.kind == "kernel-finetuned":
        return _kernel(examples, report.backbone, plan, work), rate
    return BackboneEnergies(report.backbone), rate


def _trained(
    examples: Sequence[Example], held: Sequence[Example], variant: Variant, plan: CurvePlan, how: TrainPlan
) -> TrainReport:
    if variant.kind != "scratch":
        return finetune(load_backbone(plan.backbone), examples, held, how, progress=Silent())
    backbone = NETWORKS[variant.option].new() if variant.option else new_backbone(plan.backbone)
    return pretrain(backbone, examples, held, how, Silent())


def _kernel(examples: Sequence[Example], backbone: Backbone, plan: CurvePlan, work: Path) -> Predictor:
    with_forces = any(example.labels.forces is not None for example in examples) and plan.train.force_weight > 0
    atoms = sum(len(example.atoms) for example in examples)
    at = plan.kernel
    how = replace(
        at,
        landmarks=replace(at.landmarks, count=min(at.landmarks.count, atoms)),
        validation=replace(at.validation, folds=min(at.validation.folds, len(examples))),
    )
    return fit_kernel(examples, backbone, work, how, plan.derivatives if with_forces else "none", progress=Silent())


def _check_blocks(plan: CurvePlan) -> None:
    """A misspelt block, or one that leaves none to learn, is refused before anything runs."""
    named = [v for v in plan.variants if v.kind in ("frozen", "kernel-finetuned") and v.option]
    if any(variant.kind == "frozen" and not variant.option for variant in plan.variants):
        raise ConfigError("variant 'frozen' needs a block, e.g. frozen:conv3; `expanded` makes one of every block")
    blocks = list(new_backbone(plan.backbone).blocks()) if named else []
    for variant in named:
        try:
            variant.block_plan().learning_rates(blocks, plan.rates[0])
        except ConfigError as error:
            raise ConfigError(f"variant {str(variant)!r}: {error}") from None


def _text(value: object) -> str:
    return identity_text(value) if isinstance(value, FitPlan) else repr(value)


def _claim(folder: Path, plan: CurvePlan, *sets: Sequence[Example]) -> None:
    """The folder is for this curve, or new; sizes, repeats and variants may be added to it."""
    free = ("sizes", "variants", "repeats")
    claim = {key: _text(value) for key, value in vars(plan).items() if key not in free}
    ids = repr([[example.id for example in examples] for examples in sets])
    if plan.backbone.checkpoint is not None:
        claim["backbone_content"] = file_hash(Path(plan.backbone.checkpoint), "sha256")
    claim |= {"data": hashlib.sha256(ids.encode()).hexdigest()[:16], "version": __version__}
    path = folder / "plan.json"
    if not path.exists():
        others = [name for name in ("curve.csv", "curve.png") if (folder / name).exists()]
        if others:
            raise ConfigError(f"{folder} holds {others[0]}, but is no folder of a curve; name another folder")
        publish_text(path, json.dumps(sealed(claim), indent=2))
        return
    found = read_document(path)
    if found is None:
        raise ConfigError(f"{path} is damaged; delete it if the runs in {folder} are of this very curve, else them too")
    untold = {key for key in claim if key.endswith("_content") and key not in found}  # by 0.1.0
    differing = [key for key in claim if key not in untold and found.get(key) != claim[key]]
    if differing:
        raise ConfigError(
            f"{folder} holds a curve with other {', '.join(differing)}; name another folder, or delete this one"
        )


def finished(path: Path, asked: tuple[str, int, int]) -> CurvePoint | None:
    """A run that is done; a damaged one, or another under this name, is run again."""
    if not path.exists():
        return None
    point = _point(path)
    if point is None:
        LOGGER.warning("%s is damaged; the run is made again", path)
    return None if point is None or (point.variant, point.size, point.repeat) != asked else point


def _point(path: Path) -> CurvePoint | None:
    """The run that a file keeps; None where it is damaged."""
    try:
        return CurvePoint(**cast("dict[str, Any]", read_document(path)))
    except TypeError:
        return None


def read_document(path: Path) -> Document | None:
    """What a file of the folder holds, without its seal; None where it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    whole = is_whole(found)
    if whole is None:
        warn_unsealed(path)
    return None if whole is False else unsealed(found)


def _write_table(path: Path, points: Sequence[CurvePoint]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, fieldnames=[column.name for column in fields(CurvePoint)])
        table.writeheader()
        table.writerows(asdict(point) for point in points)

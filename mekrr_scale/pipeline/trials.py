"""Candidates of a fit: kernels, landmarks, rows and solutions, one after the other."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch
from mekrr_scale.baselines import Baseline, BaselineKind
from mekrr_scale.cache import KeptRows
from mekrr_scale.distributed import ALONE, Checkpoint, Group
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.kernels import AtomKernel, Landmarks, SetKernel, SpeciesMixing, atom_kernel
from mekrr_scale.landmarks import (
    Displaced,
    FarthestPoint,
    LandmarkSelection,
    LeverageScores,
    Uniform,
    Warm,
    WholeStructures,
)
from mekrr_scale.matrixfree import FreeForceRows
from mekrr_scale.model import Model
from mekrr_scale.pipeline.data import FitData
from mekrr_scale.pipeline.plan import FitPlan, LengthScale
from mekrr_scale.pool import median_distance
from mekrr_scale.progress import Progress
from mekrr_scale.rows import DerivativeRows, EnergyRows, Folds, Rows, RowSource
from mekrr_scale.solvers import (
    LARGEST_EIGEN,
    SMALLEST_ALPHA,
    AlphaSweep,
    Direct,
    Exact,
    Falkon,
    MixedRows,
    PathPoint,
    Solution,
)
from mekrr_scale.transforms import Standardize, Transform
from mekrr_scale.whitening import whiten


@dataclass(frozen=True)
class Trial:
    """A fitted candidate."""

    kernel: SetKernel
    baseline: Baseline
    landmarks: Landmarks
    rows: RowSource
    solution: Solution
    point: PathPoint
    summary: Mapping[str, Any]


def candidates(plan: FitPlan, data: FitData) -> Iterator[tuple[Standardize, BaselineKind, LengthScale]]:
    """What is to be tried, but for the mixings of species."""
    named: BaselineKind = "prior" if data.stores[0].header.prior else "backbone"
    kinds: tuple[BaselineKind, ...] = plan.baselines or (
        (named, "composition") if data.has_prior and plan.folds and not data.labelled else ("composition",)
    )
    wrong = {"backbone", "prior"} & set(kinds) - {named}
    if wrong:
        raise ConfigError(
            "baseline 'prior' needs a store that was extracted with --prior"
            if named == "backbone"
            else "the store holds the energies of a prior, not the backbone's own; use baseline 'prior'"
        )
    lengths = plan.length_scales if plan.kernel != "gaussian-sum" else plan.length_scales[:1]
    yield from product(plan.standardize, kinds, lengths)


def alphas_of(plan: FitPlan) -> tuple[float, ...]:
    """Mixings of species to try; not a number where a matrix is given instead."""
    return (math.nan,) if plan.mixing is not None else plan.alphas


def median(plan: FitPlan, batches: Iterable[FeatureBatch], transform: Transform, group: Group = ALONE) -> float:
    """The median distance of transformed features, where a length scale is relative to it."""
    if not any(length.relative for length in plan.length_scales):
        return 1.0
    kernel = SetKernel(atom_kernel("gaussian", length_scale=1.0), SpeciesMixing(), "sum", transform)
    return group.agree(median_distance(batches, kernel, plan.seed, group=group))


def set_kernel(plan: FitPlan, length: LengthScale, alpha: float, median: float, transform: Transform) -> SetKernel:
    """The kernel of a candidate."""

    def absolute(scale: LengthScale) -> float:
        return scale.value * (median if scale.relative else 1.0)

    parameters = dict(plan.kernel_parameters)
    if plan.kernel == "gaussian-sum":
        parameters["length_scales"] = tuple(absolute(scale) for scale in plan.length_scales)
    else:
        parameters["length_scale"] = absolute(length)
    atom: AtomKernel = atom_kernel(plan.kernel, **parameters)
    return SetKernel(atom, plan.mixing or SpeciesMixing(alpha), plan.reduce, transform)


def selection(plan: FitPlan) -> LandmarkSelection:
    """How the plan chooses landmarks."""
    if plan.warm is None:
        return _selection(plan)
    return Warm(Model.load(plan.warm).landmarks, _selection(plan) if plan.n_landmarks else None)


def _selection(plan: FitPlan) -> LandmarkSelection:
    if plan.solver == "exact":
        return WholeStructures(0, plan.seed)
    count, seed = plan.n_landmarks, plan.seed
    match plan.landmarks:
        case "uniform":
            return Uniform(count, seed, plan.balance)
        case "displaced":
            return Displaced(count, seed, plan.balance)
        case "farthest":
            return FarthestPoint(count, seed, plan.balance)
        case "leverage":
            return LeverageScores(count, seed, balance=plan.balance)
        case "structures":
            return WholeStructures(count, seed)


def tries(
    plan: FitPlan,
    data: FitData,
    kernels: Mapping[float, SetKernel],
    kind: BaselineKind,
    folds: Folds | None,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> Iterator[tuple[float, Trial]]:
    """A trial for every alpha: of one pass where the Gram matrices of a sweep fit in memory."""
    group = data.group
    baseline = data.baseline(kind, plan)
    first = next(iter(kernels.values()))
    batches = data.moved if plan.landmarks == "displaced" and data.derivatives else data.energies
    landmarks = agreed(selection(plan).select(batches, first, group), group)
    if checkpoint is not None:
        checkpoint = checkpoint.part("", {"landmarks": fingerprint(landmarks), "baseline": _bits(baseline.energies)})
    grams = 4 * landmarks.n_sets**2 * 8 * max(plan.folds, 1) * (1 + 2 * data.derivatives)
    able = plan.solver == "direct" and plan.reduce == "sum" and plan.device == "cpu" and grams <= plan.memory_bytes
    swept = [alpha for alpha in kernels if able and alpha >= SMALLEST_ALPHA]
    solutions: Mapping[float, Solution] = {}
    if len(swept) > 1:
        apart, alike = first.with_alpha(1.0), first.with_alpha(0.0)
        both = MixedRows(*(_rows(plan, data, k, landmarks, baseline, folds) for k in (apart, alike)))
        part = None if checkpoint is None else checkpoint.part("sweep", {"alphas": swept, "kernel": repr(first.atom)})
        with deferred(part):
            solutions = AlphaSweep(direct(plan, data), tuple(swept), plan.cut).solve(
                both,
                apart.gram_blocks(landmarks),
                alike.gram(landmarks),
                baseline,
                plan.folds,
                lambda rows: progress.advance(rows * len(swept)),
                group,
                part,
            )
    for alpha, kernel in kernels.items():
        whitened = plan.solver != "exact" and iterative(plan, data, kernel.n_columns(landmarks))
        rows: RowSource = _rows(plan, data, kernel, landmarks, baseline, folds)
        if not whitened:  # else the solver keeps them itself, in the whitened basis
            rows = KeptRows(rows, plan.memory_bytes)
        if alpha in solutions:
            solution = solutions[alpha]
        elif plan.solver == "exact":
            solution = _solve_exact(plan, rows, baseline)
            progress.advance(landmarks.n_sets)
        else:
            named = {"kernel": repr(kernel.atom), "alpha": alpha, "transform": fingerprint(kernel.transform)}
            part = None if checkpoint is None else checkpoint.part(f"alpha{alpha:g}", named)
            solution = _resumable(plan, data, kernel, landmarks, rows, baseline, progress, part)
        yield alpha, trial(plan, kernel, baseline, landmarks, rows, solution)


def _resumable(
    plan: FitPlan,
    data: FitData,
    kernel: SetKernel,
    landmarks: Landmarks,
    rows: RowSource,
    baseline: Baseline,
    progress: Progress,
    checkpoint: Checkpoint | None,
) -> Solution:
    """One candidate's solution, or what is left of it to do."""
    finished = None if checkpoint is None else checkpoint.load("solution")
    if finished is not None:
        if plan.solver != "falkon":
            progress.advance(data.n_rows)
        return Solution.restored(finished)
    with deferred(checkpoint):
        makers = kernel.gram_block_makers(landmarks.on(plan.device))
        whitening = whiten(makers, plan.cut, plan.whitening, data.group).on(plan.device)
        if iterative(plan, data, whitening.rank):
            progress.stage("first pass", data.n_rows)
            solution = _falkon(plan, data).solve(
                rows, whitening, baseline, plan.folds, progress.advance, data.group, checkpoint, _Iterations(progress)
            )
        else:
            solution = direct(plan, data).solve(
                rows, whitening, baseline, plan.folds, progress.advance, data.group, checkpoint
            )
        if checkpoint is not None and checkpoint.began():
            if data.group.rank == 0:
                checkpoint.save("solution", solution.state())
            checkpoint.end_if_stopped()
    return solution


@dataclass
class _Iterations:
    """Tells of every iteration of Falkon; passes over kept rows are not counted row by row."""

    progress: Progress
    began: bool = False

    def __call__(self, step: int, most: int, residual: float) -> None:
        if not self.began:
            self.began = True
            self.progress.stage("iterations", most, "iterations")
            self.progress.advance(step - 1)
        self.progress.advance(1)
        if step % 10 == 0:
            self.progress.note(f"iteration {step}: relative residual {residual:.1e}")


def deferred(checkpoint: Checkpoint | None) -> AbstractContextManager[None]:
    """Signals wait for a good moment where there is a checkpoint to write."""
    return nullcontext() if checkpoint is None else checkpoint.stop.deferred()


def agreed(landmarks: Landmarks, group: Group) -> Landmarks:
    """The first rank's landmarks, on all of them."""
    if group.size == 1:
        return landmarks
    features, species, owner = (
        group.broadcast(tensor.contiguous()) for tensor in (landmarks.features, landmarks.species, landmarks.owner)
    )
    return Landmarks(features, species, owner, landmarks.n_sets)


def fingerprint(item: Landmarks | Transform) -> str:
    """A hash of the numbers in it."""
    if isinstance(item, Landmarks):
        return _bits(item.features, item.species, item.owner)
    return _bits(item.mean, item.scale)


def _bits(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _rows(
    plan: FitPlan,
    data: FitData,
    kernel: SetKernel,
    landmarks: Landmarks,
    baseline: Baseline,
    folds: Folds | None,
) -> Rows:
    landmarks = landmarks.on(plan.device)
    parts: list[RowSource] = [EnergyRows(data.energies, kernel, landmarks, baseline, folds)]
    if data.derivatives:
        parts.append(DerivativeRows(data.moved, kernel, landmarks, baseline, folds))
    if data.backbone is not None:
        parts.append(FreeForceRows(data.labelled, data.backbone, kernel, landmarks, baseline, folds, data.group))
    return Rows(tuple(parts))


def trial(
    plan: FitPlan, kernel: SetKernel, baseline: Baseline, landmarks: Landmarks, rows: RowSource, solution: Solution
) -> Trial:
    """A solution with its cross-validated errors."""
    nan = math.nan
    points = solution.path.points
    point = solution.path.best(plan.select) if points else PathPoint(solution.ridges[0], (1.0, 0, 0), nan, nan, nan)
    summary = {
        "length_scale": getattr(kernel.atom, "length_scale", getattr(kernel.atom, "length_scales", None)),
        "ridge": point.ridge,
        "weights": point.weights,
        "energy_rmse": point.energy_rmse,
        "force_rmse": point.force_rmse,
        "stress_rmse": point.stress_rmse,
        "rank": solution.stats.get("rank", landmarks.n_sets),
    }
    return Trial(kernel, baseline, landmarks, rows, solution, point, summary)


def direct(plan: FitPlan, data: FitData) -> Direct:
    """The solver for stored rows of all kinds."""
    forces = plan.force_weights if data.derivatives else (0.0,)
    stresses = plan.stress_weights if data.derivatives else (0.0,)
    weights = tuple(product(plan.energy_weights, forces, stresses))
    return Direct(plan.ridges, weights, plan.select)


def iterative(plan: FitPlan, data: FitData, rank: int) -> bool:
    """Whether Falkon solves: asked for, or ``direct`` with a Gram matrix that is better dealt to the ranks.

    Above LARGEST_EIGEN a Cholesky factor in panels takes the place of eigendecompositions. It is Falkon's
    preconditioner with all rows for its subset: exact but for rounding and the folds, which few iterations mend.
    """
    return plan.solver == "falkon" or (rank > LARGEST_EIGEN and len(direct(plan, data).weights) == 1)


def _falkon(plan: FitPlan, data: FitData) -> Falkon:
    forces = plan.force_weights[0] if data.derivatives or data.labelled else 0.0
    stresses = plan.stress_weights[0] if data.derivatives else 0.0
    weights = (plan.energy_weights[0], forces, stresses)
    room = {"memory_bytes": plan.memory_bytes, "scratch": plan.scratch, "device_bytes": _device_bytes(plan)}
    try:
        options = {**room, **({"subset": 1.0} if plan.solver == "direct" else plan.falkon)}
        return Falkon(plan.ridges, weights, select=plan.select, seed=plan.seed, **options)
    except TypeError as error:
        raise ConfigError(f"falkon options: {error}") from error


def _device_bytes(plan: FitPlan) -> int:
    """Half of what is free on the GPU, for rows."""
    return torch.cuda.mem_get_info(plan.device)[0] // 2 if torch.device(plan.device).type == "cuda" else 0


def _solve_exact(plan: FitPlan, rows: RowSource, baseline: Baseline) -> Solution:
    blocks = list(rows)
    if not blocks:
        raise SolverError("there is not a single row to fit; no structure in the store has a usable label")
    gram = torch.cat([block.rows for block in blocks]).double()
    if gram.shape[0] != gram.shape[1]:
        raise ConfigError("solver 'exact' needs an energy for every structure; leave out those without")
    joined = [torch.cat([getattr(b, name) for b in blocks]) for name in ("target", "weight", "counts", "scale", "fold")]
    target, weight, counts, scale, fold = joined
    return Exact(plan.ridges).solve(gram, target, weight, counts, scale, baseline, fold if plan.folds else None)

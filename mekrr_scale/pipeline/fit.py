"""A store to a model: candidates are cross-validated, the best one is fitted to everything."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale import __version__
from mekrr_scale.backbones import Backbone
from mekrr_scale.baselines import Baseline, BaselineKind
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.kernels import AtomKernel, Landmarks, SetKernel, SpeciesMixing, atom_kernel
from mekrr_scale.landmarks import (
    Displaced,
    FarthestPoint,
    LandmarkSelection,
    LeverageScores,
    Uniform,
    WholeStructures,
    median_distance,
)
from mekrr_scale.matrixfree import FreeForceRows, ModeCosts
from mekrr_scale.model import Model
from mekrr_scale.pipeline.calibrate import LARGEST_RANK, Fitted, calibrate
from mekrr_scale.pipeline.data import FitData
from mekrr_scale.pipeline.plan import FitPlan, LengthScale
from mekrr_scale.posterior import Posterior
from mekrr_scale.progress import Progress, Silent
from mekrr_scale.rows import DerivativeRows, EnergyRows, Folds, Rows, assign_folds
from mekrr_scale.solvers import (
    SMALLEST_ALPHA,
    AlphaSweep,
    Direct,
    Exact,
    Falkon,
    MixedRows,
    PathPoint,
    Result,
    Solution,
)
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import LabelKeys
from mekrr_scale.transforms import Standardize, Transform
from mekrr_scale.whitening import whiten

_SUSPICIOUS = 0.5  # eV/atom that a kernel should have to explain at most


@dataclass(frozen=True)
class FitReport:
    """A model and how it was chosen."""

    model: Model
    solution: Solution
    trials: Sequence[Mapping[str, Any]]  # every candidate with its best cross-validated errors
    reference: Float64[Tensor, " structures"]  # eV/atom less the species' reference energies
    predicted: Float64[Tensor, " structures"]  # the same, by the models of the other folds
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class _Trial:
    kernel: SetKernel
    baseline: Baseline
    landmarks: Landmarks
    rows: Rows
    solution: Solution
    point: PathPoint
    summary: Mapping[str, Any]


def fit(
    stores: Sequence[FeatureStore | Path | str] | FeatureStore | Path | str,
    plan: FitPlan | None = None,
    progress: Progress | None = None,
    structures: Iterable[Atoms] | None = None,
    keys: LabelKeys | None = None,
) -> FitReport:
    """Fit a model to one store or several of the same kind.

    Args:
        structures: those of the store, to fit their forces without stored tangents (matrix-free,
            solver ``falkon``, baseline ``composition`` or ``isolated``).
        keys: where their labels are.

    Raises:
        ConfigError: options that do not fit the data.
        StoreError: a store that is damaged or of another kind.
        SolverError: no usable row, or a system that breaks down.
    """
    plan = plan or FitPlan()
    progress = progress or Silent()
    data = FitData.open(stores, plan, structures, keys)
    if data.backbone is not None:
        progress.note(_modes(data.backbone, data.labelled[0][0], plan))
    folds = assign_folds(data.energies, plan.folds) if plan.folds else None
    candidates = list(_candidates(plan, data))
    alphas = (math.nan,) if plan.mixing is not None else plan.alphas
    progress.stage("fit", len(candidates) * len(alphas) * data.passes(plan))
    best: _Trial | None = None
    trials = []
    warnings: list[str] = []
    scales: dict[Standardize, float] = {}
    for standardize, kind, length in candidates:
        transform = data.transform(standardize)
        if standardize not in scales:
            scales[standardize] = _median(plan, data, transform)
        kernels = {alpha: _kernel(plan, length, alpha, scales[standardize], transform) for alpha in alphas}
        for alpha, trial in _tries(plan, data, kernels, kind, folds, progress):
            summary = {"standardize": standardize, "baseline": kind, "alpha": alpha, **trial.summary}
            trials.append(summary)
            if plan.folds:
                progress.note(_line(summary))
            if best is None or trial.point.score(plan.select) < best.point.score(plan.select):
                best = replace(trial, summary=summary)
    assert best is not None
    if best.solution.result not in (Result.SUCCESS, Result.MAX_STEPS, Result.STAGNATED):
        raise SolverError(best.solution.result.value)
    if best.solution.result is not Result.SUCCESS:
        warnings.append(best.solution.result.value)
    reference, predicted, spread = _out_of_fold(best, data, folds)
    if spread > _SUSPICIOUS:
        warnings.append(
            f"energies scatter by {spread:.2f} eV/atom around the baseline, which is much; are they total energies "
            "in eV (--units), of one level of theory?"
        )
    posterior = _posterior(best, data, plan, folds, progress)
    return FitReport(
        _model(best, data, plan, reference, predicted, posterior), best.solution, trials, reference, predicted, warnings
    )


def _candidates(plan: FitPlan, data: FitData) -> Iterator[tuple[Standardize, BaselineKind, LengthScale]]:
    kinds: tuple[BaselineKind, ...] = plan.baselines or (
        ("backbone", "composition") if data.has_prior and plan.folds and not data.labelled else ("composition",)
    )
    lengths = plan.length_scales if plan.kernel != "gaussian-sum" else plan.length_scales[:1]
    yield from product(plan.standardize, kinds, lengths)


def _median(plan: FitPlan, data: FitData, transform: Transform) -> float:
    if not any(length.relative for length in plan.length_scales):
        return 1.0
    kernel = SetKernel(atom_kernel("gaussian", length_scale=1.0), SpeciesMixing(), "sum", transform)
    return median_distance(data.energies, kernel, plan.seed)


def _kernel(plan: FitPlan, length: LengthScale, alpha: float, median: float, transform: Transform) -> SetKernel:
    def absolute(scale: LengthScale) -> float:
        return scale.value * (median if scale.relative else 1.0)

    parameters = dict(plan.kernel_parameters)
    if plan.kernel == "gaussian-sum":
        parameters["length_scales"] = tuple(absolute(scale) for scale in plan.length_scales)
    else:
        parameters["length_scale"] = absolute(length)
    atom: AtomKernel = atom_kernel(plan.kernel, **parameters)
    return SetKernel(atom, plan.mixing or SpeciesMixing(alpha), plan.reduce, transform)


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


def _tries(
    plan: FitPlan,
    data: FitData,
    kernels: Mapping[float, SetKernel],
    kind: BaselineKind,
    folds: Folds | None,
    progress: Progress,
) -> Iterator[tuple[float, _Trial]]:
    """A trial for every alpha: of one pass where the Gram matrices of a sweep fit in memory."""
    baseline = data.baseline(kind, plan)
    first = next(iter(kernels.values()))
    batches = data.moved if plan.landmarks == "displaced" and data.derivatives else data.energies
    landmarks = _selection(plan).select(batches, first)
    grams = 4 * landmarks.n_sets**2 * 8 * max(plan.folds, 1) * (1 + 2 * data.derivatives)
    able = plan.solver == "direct" and plan.reduce == "sum" and grams <= plan.memory_bytes
    swept = [alpha for alpha in kernels if able and alpha >= SMALLEST_ALPHA]
    solutions: Mapping[float, Solution] = {}
    if len(swept) > 1:
        apart, alike = first.with_alpha(1.0), first.with_alpha(0.0)
        both = MixedRows(*(_rows(plan, data, k, landmarks, baseline, folds, 0) for k in (apart, alike)))
        solutions = AlphaSweep(_direct(plan, data), tuple(swept), plan.cut).solve(
            both,
            apart.gram_blocks(landmarks),
            alike.gram(landmarks),
            baseline,
            plan.folds,
            lambda rows: progress.advance(rows * len(swept)),
        )
    for alpha, kernel in kernels.items():
        rows = _rows(plan, data, kernel, landmarks, baseline, folds)
        if alpha in solutions:
            solution = solutions[alpha]
        elif plan.solver == "exact":
            solution = _solve_exact(plan, rows, baseline)
            progress.advance(landmarks.n_sets)
        else:
            whitening = whiten(kernel.gram_blocks(landmarks), plan.cut, plan.whitening)
            solver = _direct(plan, data) if plan.solver == "direct" else _falkon(plan, data)
            solution = solver.solve(rows, whitening, baseline, plan.folds, progress.advance)
        yield alpha, _trial(plan, kernel, baseline, landmarks, rows, solution)


def _rows(
    plan: FitPlan,
    data: FitData,
    kernel: SetKernel,
    landmarks: Landmarks,
    baseline: Baseline,
    folds: Folds | None,
    keep_bytes: int | None = None,
) -> Rows:
    parts: list[Iterable[Any]] = [EnergyRows(data.energies, kernel, landmarks, baseline, folds)]
    if data.derivatives:
        parts.append(DerivativeRows(data.moved, kernel, landmarks, baseline, folds))
    if data.backbone is not None:
        parts.append(FreeForceRows(data.labelled, data.backbone, kernel, landmarks, baseline, folds))
    return Rows(tuple(parts), plan.memory_bytes if keep_bytes is None else keep_bytes)


def _trial(
    plan: FitPlan, kernel: SetKernel, baseline: Baseline, landmarks: Landmarks, rows: Rows, solution: Solution
) -> _Trial:
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
    return _Trial(kernel, baseline, landmarks, rows, solution, point, summary)


def _direct(plan: FitPlan, data: FitData) -> Direct:
    forces = plan.force_weights if data.derivatives else (0.0,)
    stresses = plan.stress_weights if data.derivatives else (0.0,)
    weights = tuple(product(plan.energy_weights, forces, stresses))
    return Direct(plan.ridges, weights, plan.select)


def _falkon(plan: FitPlan, data: FitData) -> Falkon:
    forces = plan.force_weights[0] if data.derivatives or data.labelled else 0.0
    stresses = plan.stress_weights[0] if data.derivatives else 0.0
    weights = (plan.energy_weights[0], forces, stresses)
    try:
        options = {"memory_bytes": plan.memory_bytes, **plan.falkon}
        return Falkon(plan.ridges, weights, select=plan.select, seed=plan.seed, **options)
    except TypeError as error:
        raise ConfigError(f"falkon options: {error}") from error


def _solve_exact(plan: FitPlan, rows: Rows, baseline: Baseline) -> Solution:
    blocks = list(rows)
    if not blocks:
        raise SolverError("there is not a single row to fit; no structure in the store has a usable label")
    gram = torch.cat([block.rows for block in blocks]).double()
    if gram.shape[0] != gram.shape[1]:
        raise ConfigError("solver 'exact' needs an energy for every structure; leave out those without")
    joined = [torch.cat([getattr(b, name) for b in blocks]) for name in ("target", "weight", "counts", "scale", "fold")]
    target, weight, counts, scale, fold = joined
    return Exact(plan.ridges).solve(gram, target, weight, counts, scale, baseline, fold if plan.folds else None)


def _out_of_fold(
    trial: _Trial, data: FitData, folds: Folds | None
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"], float]:
    """Energies per atom less the species' references, labels and predictions by the folds' models.

    The third is the root mean square of what the kernel has to explain (eV/atom).
    """
    references, predictions = [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0, dtype=torch.float64)]
    if folds is None or not trial.solution.fold_values:
        return references[0], predictions[0], 0.0
    for block in trial.rows.parts[0]:
        per_atom = 1.0 / (block.scale * block.counts.sum(1))
        predicted = torch.zeros_like(block.target)
        for fold, (value, shift) in enumerate(zip(trial.solution.fold_values, trial.solution.fold_shifts, strict=True)):
            held = block.fold == fold
            moved = (block.counts[held] @ shift) * block.scale[held]
            predicted[held] = block.rows[held].double() @ value[:, 0] + moved
        references.append(block.target * per_atom)
        predictions.append(predicted * per_atom)
    reference, predicted = torch.cat(references), torch.cat(predictions)
    spread = float(reference.square().mean().sqrt())
    if trial.baseline.prior:
        prior = torch.cat([(batch.prior / batch.n_atoms)[~batch.energy.isnan()] for batch in data.energies])
        reference, predicted = reference + prior, predicted + prior
    return reference, predicted, spread


def _posterior(
    trial: _Trial, data: FitData, plan: FitPlan, folds: Folds | None, progress: Progress
) -> Posterior | None:
    """What the model's uncertainty comes from, where it can be calibrated at an acceptable size."""
    if not plan.uncertainty or folds is None or plan.solver == "exact" or data.labelled:
        return None
    if trial.kernel.n_columns(trial.landmarks) > LARGEST_RANK:
        progress.note(f"no uncertainties: more than {LARGEST_RANK} landmarks (uncertainty = false silences this)")
        return None
    progress.stage("uncertainty")
    fitted = Fitted(
        trial.kernel, trial.landmarks, trial.baseline, folds, trial.solution, trial.point.weights, plan.cut,
        plan.whitening,
    )  # fmt: skip
    found = calibrate(fitted, trial.rows, data)
    if found is None:
        progress.note("no uncertainties: fewer than 20 energies to calibrate them on")
    return found


def _model(
    trial: _Trial, data: FitData, plan: FitPlan, reference: Tensor, predicted: Tensor, posterior: Posterior | None
) -> Model:
    header = data.stores[0].header
    validation: dict[str, Any] = {
        key: value for key, value in trial.summary.items() if not (isinstance(value, float) and math.isnan(value))
    }
    if len(reference):
        error = predicted - reference
        validation |= {
            "folds": plan.folds,
            "structures": len(reference),
            "energy_mae": float(error.abs().mean()),
            "energy_rmse": float(error.square().mean().sqrt()),
        }
    coefficients = trial.solution.value[:, 0]
    digest = hashlib.sha256(coefficients.numpy().tobytes()).hexdigest()
    return Model(
        kernel=trial.kernel,
        landmarks=trial.landmarks,
        coefficients=coefficients,
        baseline=trial.baseline,
        backbone=header.backbone,
        spec=header.spec,
        validation=validation,
        provenance={
            "stores": [store.id for store in data.stores],
            "structures": sum(store.n_structures for store in data.stores),
            "solver": plan.solver,
            "result": trial.solution.result.name,
            "seed": plan.seed,
            "writer": f"mekrr-scale {__version__}",
            "coefficients_sha256": digest,
        },
        posterior=posterior,
    )


def _modes(backbone: Backbone, atoms: Atoms, plan: FitPlan) -> str:
    """Which way to force rows is cheaper for structures of this size."""
    costs = ModeCosts.measure(backbone, atoms)
    columns = len(plan.ridges) * (1 + plan.folds)
    return (
        f"matrix-free: {costs.sweeps:.2g} s for a pair of sweeps over {len(atoms)} atoms, {columns} of them in every "
        f"iteration (ridges x (1 + folds)); tangents of all displacements take {costs.stored:.2g} s once, the cheaper "
        f"way from {costs.break_even / columns:.1f} iterations on"
    )


def _line(summary: Mapping[str, Any]) -> str:
    length = summary["length_scale"]
    shown = f"{length:.3g}" if isinstance(length, float) else str(length)
    force = "" if math.isnan(summary["force_rmse"]) else f", forces {1e3 * summary['force_rmse']:.1f} meV/A"
    return (
        f"{summary['standardize']}, baseline {summary['baseline']}, length {shown}, alpha {summary['alpha']:g}: "
        f"cross-validated RMSE {1e3 * summary['energy_rmse']:.3f} meV/atom{force} at ridge {summary['ridge']:.1e}"
    )

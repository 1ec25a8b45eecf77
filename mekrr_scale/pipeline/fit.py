"""A store to a model: candidates are cross-validated, the best one is fitted to everything."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale import __version__
from mekrr_scale.backbones import Backbone
from mekrr_scale.distributed import ALONE, Checkpoint, Group, StopSignals
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.kernels import SpeciesMixing
from mekrr_scale.matrixfree import ModeCosts
from mekrr_scale.model import Model
from mekrr_scale.pipeline.calibrate import LARGEST_RANK, Fitted, calibrate
from mekrr_scale.pipeline.data import FitData
from mekrr_scale.pipeline.growing import frame_in, grow, keep
from mekrr_scale.pipeline.heldout import HeldOut, out_of_fold
from mekrr_scale.pipeline.mixing import UNIFORM_ALPHAS, learn_mixing
from mekrr_scale.pipeline.plan import FitPlan, LengthScale
from mekrr_scale.pipeline.trials import Trial, alphas_of, candidates, median, set_kernel, tries
from mekrr_scale.posterior import Posterior
from mekrr_scale.progress import Progress, Silent
from mekrr_scale.rows import Folds, assign_folds
from mekrr_scale.solvers import Result, Solution
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import LabelKeys
from mekrr_scale.transforms import Standardize

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


def fit(
    stores: Sequence[FeatureStore | Path | str] | FeatureStore | Path | str,
    plan: FitPlan | None = None,
    progress: Progress | None = None,
    structures: Iterable[Atoms] | None = None,
    keys: LabelKeys | None = None,
    group: Group = ALONE,
    checkpoint: Checkpoint | None = None,
    sums: Path | None = None,
) -> FitReport:
    """Fit a model to one store or several of the same kind.

    Args:
        structures: those of the store, to fit their forces without stored tangents (matrix-free,
            solver ``falkon``, baseline ``composition`` or ``isolated``).
        keys: where their labels are.
        group: the ranks of the job (``distributed.join``), all of which call this alike and get the
            same model; each owns whole shards.
        checkpoint: a folder for the state of a long fit, and signals that end it; a fit called again
            with the same goes on where it was.
        sums: a folder for the sums over the rows (solver ``direct``, one candidate, no uncertainties).
            Fitting again, with the stores grown or more of them, reads the new shards alone; kernel,
            landmarks and whitening stay those of the first fit.

    Raises:
        ConfigError: options that do not fit the data.
        StoreError: a store that is damaged or of another kind.
        SolverError: no usable row, or a system that breaks down.
        StoppedError: asked to stop by a signal.
        RankError: another rank failed.
    """
    plan = plan or FitPlan()
    progress = progress or Silent()
    data = FitData.open(stores, plan, structures, keys, group)
    if checkpoint is not None:
        checkpoint = checkpoint.part("", identity(plan, data))
    if sums is not None:
        return _grown(plan, data, sums, checkpoint, progress)
    if data.backbone is not None:
        progress.note(_modes(data.backbone, data.labelled[0][0], plan))
    folds = assign_folds(data.energies, plan.folds, group) if plan.folds else None
    if plan.learn_mixing:
        plan = _with_learned_mixing(plan, data, folds, progress)
    best, trials = _search(plan, data, folds, progress, checkpoint)
    warnings: list[str] = []
    if best.solution.result not in (Result.SUCCESS, Result.MAX_STEPS, Result.STAGNATED):
        raise SolverError(best.solution.result.value)
    if best.solution.result is not Result.SUCCESS:
        warnings.append(best.solution.result.value)
    held = out_of_fold(best, data, folds, plan.device)
    if held.spread > _SUSPICIOUS:
        warnings.append(
            f"energies scatter by {held.spread:.2f} eV/atom around the baseline, which is much; are they total "
            "energies in eV (--units), of one level of theory?"
        )
    posterior = _posterior(best, data, plan, folds, progress)
    model = _model(best, data, plan, held, posterior)
    return FitReport(model, best.solution, trials, held.reference, held.predicted, warnings)


def _search(
    plan: FitPlan, data: FitData, folds: Folds | None, progress: Progress, checkpoint: Checkpoint | None
) -> tuple[Trial, list[Mapping[str, Any]]]:
    """All candidates; the best one, and a line about each."""
    listed = list(candidates(plan, data))
    alphas = alphas_of(plan)
    if plan.solver != "falkon":
        progress.stage("fit", len(listed) * len(alphas) * data.n_rows)
    best: Trial | None = None
    trials: list[Mapping[str, Any]] = []
    scales: dict[Standardize, float] = {}
    for place, (standardize, kind, length) in enumerate(listed):
        transform = data.transform(standardize)
        if standardize not in scales:
            scales[standardize] = median(plan, data.energies, transform, data.group)
        kernels = {alpha: set_kernel(plan, length, alpha, scales[standardize], transform) for alpha in alphas}
        part = None if checkpoint is None else checkpoint.part(f"trial{place}", {})
        for alpha, trial in tries(plan, data, kernels, kind, folds, progress, part):
            summary = {"standardize": standardize, "baseline": kind, "alpha": alpha, **trial.summary}
            trials.append(summary)
            if plan.folds:
                progress.note(_line(summary))
            if best is None or trial.point.score(plan.select) < best.point.score(plan.select):
                best = replace(trial, summary=summary)
    assert best is not None
    return best, trials


def _with_learned_mixing(plan: FitPlan, data: FitData, folds: Folds | None, progress: Progress) -> FitPlan:
    """The plan with one kernel and the matrix that cross-validation finds for it.

    All other choices are those of the best uniform mixing.
    """
    uniform = replace(plan, learn_mixing=False, uncertainty=False, alphas=UNIFORM_ALPHAS)
    best, _ = _search(uniform, data, folds, progress, None)
    single = replace(
        uniform,
        standardize=(best.summary["standardize"],),
        baselines=(best.summary["baseline"],),
        length_scales=_found_length(best, plan),
        alphas=(best.summary["alpha"],),
    )

    def score(mixing: SpeciesMixing) -> float:
        found, _ = _search(replace(single, mixing=mixing), data, folds, Silent(), None)
        return found.point.score(plan.select)

    found, reached = learn_mixing(data.species, best.summary["alpha"], best.point.score(plan.select), score, progress)
    told = "; ".join(" ".join(f"{value:.2f}" for value in row) for row in found.matrix)
    progress.note(f"species mixing learned: {told} (score {best.point.score(plan.select):.4g} -> {reached:.4g})")
    return replace(single, mixing=found, uncertainty=plan.uncertainty)


def _found_length(best: Trial, plan: FitPlan) -> tuple[LengthScale, ...]:
    length = best.summary["length_scale"]
    return (LengthScale(length, relative=False),) if isinstance(length, float) else plan.length_scales


def _grown(plan: FitPlan, data: FitData, folder: Path, checkpoint: Checkpoint | None, progress: Progress) -> FitReport:
    """The fit from kept sums, and new ones."""
    if plan.learn_mixing or plan.store_weights:
        raise ConfigError("--sums keeps the sums of one kernel and of stores of equal weight")
    what = identity(plan, data)
    del what["stores"]
    kept = Checkpoint(folder, what, data.group, stop=StopSignals() if checkpoint is None else checkpoint.stop)
    progress.stage("fit", data.n_rows)
    found, grown = grow(plan, data, kept, frame_in(folder), progress)
    if found.solution.result is not Result.SUCCESS:
        raise SolverError(found.solution.result.value)
    if data.group.rank == 0:
        keep(grown, kept)
        kept.part("pass", {}).remove()
    nothing = torch.zeros(0, dtype=torch.float64)
    model = _model(found, data, plan, HeldOut(nothing, nothing), None)
    return FitReport(model, found.solution, [found.summary], nothing, nothing)


def identity(plan: FitPlan, data: FitData) -> dict[str, Any]:
    """What a fit is: all that changes its numbers."""
    free = {"device", "memory_bytes", "scratch", "uncertainty", "falkon"}
    told = {name: repr(getattr(plan, name)) for name in vars(plan) if name not in free}
    return {"version": __version__, "stores": [store.id for store in data.stores], **told}


def _posterior(trial: Trial, data: FitData, plan: FitPlan, folds: Folds | None, progress: Progress) -> Posterior | None:
    """What the model's uncertainty comes from, where it can be calibrated at an acceptable size."""
    if not plan.uncertainty or folds is None or plan.solver == "exact" or data.labelled:
        return None
    if trial.kernel.n_columns(trial.landmarks) > LARGEST_RANK:
        progress.note(f"no uncertainties: more than {LARGEST_RANK} landmarks (uncertainty = false silences this)")
        return None
    progress.stage("uncertainty", 2 * data.n_rows)
    fitted = Fitted(
        trial.kernel, trial.landmarks, trial.baseline, folds, trial.solution, trial.point.weights, plan.cut,
        plan.whitening, plan.device,
    )  # fmt: skip
    found = calibrate(fitted, trial.rows, data, progress.advance)
    if found is None:
        progress.note("no uncertainties: fewer than 20 energies to calibrate them on")
    return found


def _model(trial: Trial, data: FitData, plan: FitPlan, held: HeldOut, posterior: Posterior | None) -> Model:
    header = data.stores[0].header
    validation: dict[str, Any] = {
        key: value for key, value in trial.summary.items() if not (isinstance(value, float) and math.isnan(value))
    }
    if held.count:
        validation |= {
            "folds": plan.folds,
            "structures": held.count,
            "energy_mae": held.mae,
            "energy_rmse": held.rmse,
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
        prior=header.prior if trial.baseline.prior else {},
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

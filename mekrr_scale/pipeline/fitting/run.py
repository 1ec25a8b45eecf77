"""A store to a model: candidates are cross-validated, the best one is fitted to everything."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from ase import Atoms

from mekrr_scale.backbones import trusting_code
from mekrr_scale.distributed import ALONE, Checkpoint, Group, StopSignals
from mekrr_scale.errors import ConfigError, MekrrError, SolverError
from mekrr_scale.models import JSON, Model, Posterior, sample_document, self_contained
from mekrr_scale.pipeline.fitting.calibration import LARGEST_RANK, calibrate
from mekrr_scale.pipeline.fitting.data import FitData, Stores
from mekrr_scale.pipeline.fitting.enlarging import enlarge
from mekrr_scale.pipeline.fitting.following import following, remark
from mekrr_scale.pipeline.fitting.growing import frame_in, grow, keep
from mekrr_scale.pipeline.fitting.heldout import HeldOut, out_of_fold
from mekrr_scale.pipeline.fitting.identity import identity, of_sums, require_alike
from mekrr_scale.pipeline.fitting.outliers import by_structure
from mekrr_scale.pipeline.fitting.plan import FitPlan
from mekrr_scale.pipeline.fitting.remarks import (
    Remarks,
    at_an_end,
    cautious,
    fewer_landmarks,
    first_of_several,
    unsolved,
)
from mekrr_scale.pipeline.fitting.report import Comparison, FitReport, Grown, Tried
from mekrr_scale.pipeline.fitting.search import Candidate, choices, search, with_learned_mixing
from mekrr_scale.plans import plan_of
from mekrr_scale.progress import Progress, Silent, shown_progress
from mekrr_scale.regression import Folds, ModeCosts, Run, Structures
from mekrr_scale.solvers import Result
from mekrr_scale.store import differing_energies, shared
from mekrr_scale.structures import LabelKeys, common_electrons
from mekrr_scale.version import __version__

_SUSPICIOUS = 0.5  # eV/atom that a kernel should have to explain at most


def fit(
    stores: Stores,
    plan: FitPlan | None = None,
    progress: Progress | None = None,
    structures: Iterable[Atoms] | None = None,
    keys: LabelKeys | None = None,
    group: Group = ALONE,
    checkpoint: Checkpoint | None = None,
    sums: Path | str | None = None,
    trust_code: bool = False,
) -> FitReport:
    """Fit a model to one store or several of the same kind.

    Args:
        stores: stores, or their folders.
        plan: what to fit; by default several candidates are cross-validated.
        progress: what shows how far it is; by default a bar in terminals and notebooks.
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
        trust_code: with ``structures``: the checkpoint that the stores name is from where you trust, if it holds
            code (MACE's).

    Raises:
        ConfigError: options that do not fit the data.
        StoreError: a store that is damaged or of another kind.
        SolverError: no usable row, or a system that breaks down.
        StoppedError: asked to stop by a signal.
        RankError: another rank failed.
    """
    plan = plan_of(plan, FitPlan)
    with shown_progress(progress, "rows") as shown:
        run = Run(plan.execution, group, checkpoint, shown)
        with trusting_code(trust_code):
            data = FitData.open(stores, plan, structures, keys, group)
        require_alike(data, checkpoint=str(checkpoint is not None), sums=str(sums is not None))
        run = run.part("", identity(data))
        if sums is not None:  # elastic rows would be added with every growth
            found = _grown(replace(data, elastic=()), Path(sums), run)
        else:
            found = _fitted(data, run)
            if data.plan.rows.drop_outliers and found.outliers:
                found = _without_outliers(found, data, run)
        with trusting_code(trust_code):
            return _with_networks(found, plan) if plan.embed and group.rank == 0 else found


def compare(stores: Stores, plan: FitPlan | None = None, progress: Progress | None = None) -> Comparison:
    """The candidates of a plan and their cross-validated errors, as ``fit`` finds them: its search alone.

    Args:
        stores, plan, progress: see ``fit``.

    Raises:
        ConfigError, StoreError, SolverError: as ``fit`` does.
    """
    plan = plan_of(plan, FitPlan)
    with shown_progress(progress, "rows") as shown:
        run = Run(plan.execution, ALONE, None, shown)
        data = FitData.open(stores, plan, None, None, ALONE)
        _, best, tried = _best(data, data.folds(), run, Remarks(Silent()))
    return Comparison(data.plan, tried, best.tried)


def _with_networks(found: FitReport, plan: FitPlan) -> FitReport:
    """With a model that needs no other file, as far as there is one to take in."""
    try:
        model = self_contained(found.model, plan.licence)
    except MekrrError as error:  # a fit needs no network, and must not fail at its end
        said = f"the model's file will not hold its network's weights, and predicts where the checkpoint is: {error}"
        return replace(found, warnings=[*found.warnings, said])
    if model.unlicensed and not plan.licence:
        said = "the model's file holds weights whose licence nobody said; --licence keeps it there"
        found = replace(found, remarks=[*found.remarks, said])
    return replace(found, model=model)


def _fitted(data: FitData, run: Run) -> FitReport:
    if data.structures is not None:
        run.progress.note(_modes(data.structures, data.plan))
    remarks = Remarks(run.progress)
    remarks.add(data.references.remarks([choice.baseline for choice in choices(data.plan, data)], data.species))
    folds = data.folds()
    remarks.add(() if folds is None else folds.remarks)
    data, best, tried = _best(data, folds, run, remarks)
    curve: Sequence[Grown] = ()
    if data.plan.landmarks.grow_to:
        growth = enlarge(best, data, run)
        best, curve = growth.best, growth.curve
        remarks.add([f"landmarks grown from {curve[0].landmarks} to {best.problem.landmarks.n_sets}: {growth.ended}"])
    warnings = [] if best.solution.result is Result.SUCCESS else [best.solution.result.value]
    warnings += [*at_an_end(best), *unsolved(best)]
    remarks.add([*cautious(best), *first_of_several(data, folds), *fewer_landmarks(best.problem, data.plan)])
    held = out_of_fold(best.problem, best.solution, data, run)
    if held.spread > _SUSPICIOUS:
        warnings.append(
            f"energies scatter by {held.spread:.2f} eV/atom around the baseline, which is much; are they total "
            "energies in eV (--units), of one level of theory?"
        )
    posterior = _posterior(best, data, run)
    found = _report(best, tried, data, held, posterior, warnings)
    run.progress.stage("outliers", data.n_structures)
    single = by_structure(best.problem, best.solution, posterior, data, run)
    return replace(
        found, remarks=remarks.lines, growth=curve, outliers=single.outliers, rows=single.rows, configs=single.configs,
        stores=single.stores,
    )  # fmt: skip


def _best(data: FitData, folds: Folds | None, run: Run, remarks: Remarks) -> tuple[FitData, Candidate, list[Tried]]:
    """The data with the mixing that was learned, if one was; the best candidate, and all of them."""
    if data.plan.kernel.mixing == "learn":
        data = with_learned_mixing(data, folds, run)
    best, tried = search(data, folds, run)
    best.solution.require()
    if (weighed := following(best, data, run)) is not best:
        tried = [weighed.tried if line is best.tried else line for line in tried]
        best = weighed
        remarks.add([remark(best)])
    return data, best, tried


def _without_outliers(first: FitReport, data: FitData, run: Run) -> FitReport:
    """The fit again, without the structures that stood out in the first; these stay listed."""
    dropped = frozenset(item.id for item in first.outliers)
    run.progress.note(f"{len(dropped)} outliers are left out, and the fit is made again")
    again = _fitted(data.without(dropped), run.part("kept", {"dropped": sorted(dropped)}))
    said = f"{len(dropped)} outliers were left out: {'; '.join(item.name for item in first.outliers)}"
    return replace(again, outliers=first.outliers, remarks=[*again.remarks, said])


def _grown(data: FitData, folder: Path, run: Run) -> FitReport:
    """The fit from kept sums, and new ones."""
    plan = data.plan
    if plan.kernel.mixing == "learn" or plan.rows.store_weights:
        raise ConfigError("--sums keeps the sums of one kernel and of stores of equal weight")
    if plan.rows.drop_outliers:
        raise ConfigError("--sums looks for no outliers, which takes a pass over all rows; leave --drop-outliers out")
    if plan.landmarks.grow_to:
        raise ConfigError("--sums keeps the landmarks of its first fit; leave --grow-landmarks out, or --sums")
    kept = Checkpoint(
        folder, of_sums(data), data.group, stop=StopSignals() if run.checkpoint is None else run.checkpoint.stop
    )
    run.progress.stage("fit", data.n_rows)
    frame = frame_in(folder)
    found, sums = grow(data, kept, frame, run)
    if found.solution.result is not Result.SUCCESS:
        raise SolverError(found.solution.result.value)
    if data.group.rank == 0:
        keep(sums, kept, begun=frame is None)
        kept.part("pass", {}).remove()
    nothing = torch.zeros(0, dtype=torch.float64)
    return _report(found, [found.tried], data, HeldOut(nothing, nothing), None, [])


def _posterior(best: Candidate, data: FitData, run: Run) -> Posterior | None:
    """What the model's uncertainty comes from, where it can be calibrated at an acceptable size."""
    plan, problem = data.plan, best.problem
    if not plan.validation.uncertainty or problem.folds is None:
        return None
    if not plan.solver.takes.posterior or data.structures is not None:
        run.progress.note(
            "no uncertainties: they take solver direct or falkon, and forces stored tangents (uncertainty = false "
            "silences this)"
        )
        return None
    if problem.n_columns > LARGEST_RANK:
        run.progress.note(f"no uncertainties: more than {LARGEST_RANK} landmarks (uncertainty = false silences this)")
        return None
    run.progress.stage("uncertainty", 2 * data.n_rows)
    found = calibrate(problem, best.solution, data, run)
    if found is None:
        run.progress.note("no uncertainties: fewer than 20 energies to calibrate them on")
    return found


def _report(
    best: Candidate,
    tried: list[Tried],
    data: FitData,
    held: HeldOut,
    posterior: Posterior | None,
    warnings: list[str],
) -> FitReport:
    model = _model(best, data, held, posterior)
    solution = replace(best.solution, rows=None)
    warnings = [*warnings, *_unfinished(data)]
    return FitReport(model, data.plan, solution, tried, best.tried, held.reference, held.predicted, warnings)


def _model(best: Candidate, data: FitData, held: HeldOut, posterior: Posterior | None) -> Model:
    header, problem = data.stores[0].header, best.problem
    validation: dict[str, JSON] = best.tried.header()
    if held.errors.count:
        validation |= {
            "folds": data.plan.validation.folds,
            "structures": held.errors.count,
            "energy_mae": held.errors.mae,
            "energy_rmse": held.errors.rmse,
        }
    coefficients = best.solution.value[:, 0]
    digest = hashlib.sha256(coefficients.numpy().tobytes()).hexdigest()
    return Model(
        kernel=problem.kernel,
        landmarks=problem.landmarks,
        coefficients=coefficients,
        baseline=problem.baseline,
        backbone=header.backbone,
        spec=header.spec,
        validation=validation,
        provenance={
            "stores": [store.id for store in data.stores],
            "structures": sum(store.n_structures for store in data.stores),
            "solver": data.plan.solver.name,
            "result": best.solution.result.name,
            "seed": data.plan.seed,
            "writer": f"mekrr-scale {__version__}",
            "coefficients_sha256": digest,
        },
        posterior=posterior,
        prior=header.prior if problem.baseline.prior else {},
        compression=data.compression,
        electrons=common_electrons([store.header.electrons for store in data.stores]),
        sample=sample_document(data.samples[0].atoms if data.samples else None),
    )


def _unfinished(data: FitData) -> list[str]:
    """What the stores lack of what was to be extracted, and what they have in common."""
    lacking = [f"store {s.path} is not complete: {lack.said}" for s in data.stores for lack in s.incomplete.values()]
    said = differing_energies(data.stores)
    return lacking + shared(data.stores) + ([said] if said else [])


def _modes(structures: Structures, plan: FitPlan) -> str:
    """Which way to force rows is cheaper for structures of this size."""
    atoms = structures.listed[0].atoms
    costs = ModeCosts.measure(structures.backbone, atoms)
    columns = len(plan.solver.ridges) * (1 + plan.validation.folds)
    return (
        f"matrix-free: {costs.sweeps:.2g} s for a pair of sweeps over {len(atoms)} atoms, {columns} of them in every "
        f"iteration (ridges x (1 + folds)); tangents of all displacements take {costs.stored:.2g} s once, the cheaper "
        f"way from {costs.break_even / columns:.1f} iterations on"
    )

"""Fits that grow: sums over the rows are kept, and new shards added without reading the old ones again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mekrr_scale.arrays import RowKind
from mekrr_scale.distributed import Checkpoint, State
from mekrr_scale.errors import ConfigError
from mekrr_scale.model import Model
from mekrr_scale.pipeline.data import FitData
from mekrr_scale.pipeline.plan import FitPlan
from mekrr_scale.pipeline.trials import (
    Trial,
    agreed,
    alphas_of,
    candidates,
    direct,
    fingerprint,
    median,
    selection,
    set_kernel,
    trial,
)
from mekrr_scale.progress import Progress
from mekrr_scale.rows import DerivativeRows, EnergyRows, Rows, RowSource, assign_folds
from mekrr_scale.solvers.direct import refit_shift
from mekrr_scale.solvers.moments import MomentTable, accumulate, restored_table, table_tensors
from mekrr_scale.store import deal
from mekrr_scale.whitening import Whitening, WhiteningBlock, whiten

_FRAME, _SUMS = "frame.mekrr", "sums"


@dataclass(frozen=True)
class Sums:
    """What is kept: the basis (kernel, landmarks, baseline, whitening) and the sums over rows in it."""

    frame: Model  # of the first fit; its coefficients are not used
    whitening: Whitening
    moments: MomentTable | None
    shards: Sequence[str]  # hashes of the shard files that are in the sums


def grow(plan: FitPlan, data: FitData, kept: Checkpoint, frame: Model | None, progress: Progress) -> tuple[Trial, Sums]:
    """Add what is new in the stores to the sums in a folder, and solve.

    Args:
        kept: where the sums are; its identity refuses those of another plan.
        frame: the model that fixes the basis, if there are sums already.

    Raises:
        ConfigError: several candidates, another solver than ``direct``, sums of another plan, or of
            shards that the stores hold no longer.
    """
    listed = list(candidates(plan, data))
    if plan.solver != "direct" or len(listed) * len(alphas_of(plan)) > 1 or data.labelled:
        raise ConfigError(
            "--sums keeps one pass of solver 'direct': give one length scale, alpha, baseline and standardize "
            "(those that a fit without --sums has chosen)"
        )
    group = data.group
    folds = assign_folds((), plan.folds, group, exact=False) if plan.folds else None
    sums = _loaded(plan, data, kept, frame) if frame is not None else _begun(plan, data, progress)
    done = frozenset(sums.shards)
    present = {info.xxh3_128 for store in data.stores for info in store.shards}
    if done - present:
        raise ConfigError(
            f"the sums in {kept.folder} hold {len(done - present)} shards that the stores no longer have; "
            "give all stores, or another folder"
        )
    fresh = replace(data, stores=deal(data.stores, group.rank, group.size, done))
    basis = sums.frame
    parts: list[RowSource] = [EnergyRows(fresh.energies, basis.kernel, basis.landmarks, basis.baseline, folds)]
    if data.derivatives:
        parts.append(DerivativeRows(fresh.moved, basis.kernel, basis.landmarks, basis.baseline, folds))
    rows = Rows(tuple(parts))
    moments = sums.moments
    if present - done:
        n_folds, n_species = max(plan.folds, 1), len(basis.baseline.species)
        what = {"shards": sorted(present), "done": sorted(done), "landmarks": fingerprint(basis.landmarks)}
        part = kept.part("pass", what)
        with part.stop.deferred():
            added = accumulate(rows, sums.whitening, n_species, n_folds, progress.advance, group, part)
        moments = added if moments is None else _joined(moments, added)
    assert moments is not None
    energy = moments[RowKind.ENERGY]
    gram = torch.stack([part.plain_gram for part in energy]).sum(0)
    moment = torch.stack([part.plain_target for part in energy]).sum(0)
    shift = refit_shift(basis.baseline, gram, moment)
    solution = direct(plan, data).from_moments(moments, sums.whitening, basis.baseline, plan.folds, group, shift)
    baseline = replace(basis.baseline, energies=basis.baseline.energies + shift)
    found = trial(plan, basis.kernel, baseline, basis.landmarks, rows, solution)
    named = {"standardize": plan.standardize[0], "baseline": listed[0][1], "alpha": alphas_of(plan)[0]}
    return replace(found, summary={**named, **found.summary}), replace(
        sums, moments=moments, shards=sorted(present | done)
    )


def keep(sums: Sums, kept: Checkpoint) -> None:
    """Write the sums; called by one rank."""
    assert sums.moments is not None
    kept.folder.mkdir(parents=True, exist_ok=True)
    frame = kept.folder / _FRAME
    if not frame.exists():
        sums.frame.save(frame)
    tensors = table_tensors(sums.moments)
    for i, block in enumerate(sums.whitening.blocks):
        tensors |= {f"block/{i}/{name}": value for name, value in vars(block).items()}
    kept.save(_SUMS, State(tensors, {"shards": list(sums.shards), "blocks": len(sums.whitening.blocks)}))


def frame_in(folder: Path) -> Model | None:
    """The model that fixes the basis of the sums in a folder; None if there are none yet."""
    path = folder / _FRAME
    return Model.load(path) if path.exists() else None


def _loaded(plan: FitPlan, data: FitData, kept: Checkpoint, frame: Model) -> Sums:
    state = kept.load_own(_SUMS)
    if state is None:
        raise ConfigError(f"the sums in {kept.folder} are damaged; delete the folder and fit again")
    frame.require_backbone(data.stores[0].header.backbone, "the stores")
    at = state.tensors
    blocks = (
        WhiteningBlock(at[f"block/{i}/columns"], at[f"block/{i}/matrix"], at[f"block/{i}/spectrum"])
        for i in range(state.values["blocks"])
    )
    whitening = Whitening(tuple(blocks), frame.kernel.n_columns(frame.landmarks))
    return Sums(frame, whitening, restored_table(at, max(plan.folds, 1)), state.values["shards"])


def _begun(plan: FitPlan, data: FitData, progress: Progress) -> Sums:
    """The basis, chosen from what there is at the first fit."""
    standardize, kind, length = next(candidates(plan, data))
    transform, baseline = data.transform(standardize), data.baseline(kind, plan)
    kernel = set_kernel(plan, length, alphas_of(plan)[0], median(plan, data.energies, transform, data.group), transform)
    batches = data.moved if plan.landmarks == "displaced" and data.derivatives else data.energies
    landmarks = agreed(selection(plan).select(batches, kernel, data.group), data.group)
    whitening = whiten(kernel.gram_block_makers(landmarks), plan.cut, plan.whitening, data.group)
    header = data.stores[0].header
    nothing = torch.zeros(kernel.n_columns(landmarks), dtype=torch.float64)
    frame = Model(kernel, landmarks, nothing, baseline, header.backbone, header.spec, {}, {})
    progress.note(f"sums: a basis of {landmarks.n_sets} landmarks, kept for all shards to come")
    return Sums(frame, whitening, None, ())


def _joined(old: MomentTable, new: MomentTable) -> MomentTable:
    return {kind: [a.added(b) for a, b in zip(old[kind], new[kind], strict=True)] for kind in RowKind}

"""Fits that grow: sums over the rows are kept, and new shards added without reading the old ones again."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from mekrr_scale.arrays import RowKind, fingerprint
from mekrr_scale.distributed import Checkpoint, State
from mekrr_scale.errors import ConfigError, ModelError
from mekrr_scale.models import Model, Whitening, WhiteningBlock
from mekrr_scale.pipeline.fitting.data import Choice, FitData, problem_of
from mekrr_scale.pipeline.fitting.report import Tried
from mekrr_scale.pipeline.fitting.search import Candidate, choices
from mekrr_scale.regression import Problem, Run, refit_shift
from mekrr_scale.solvers import Accumulating, MomentTable, joined_moments, restored_table, table_tensors
from mekrr_scale.store import deal

_FRAME, _SUMS = "frame.mekrr", "sums"


@dataclass(frozen=True)
class Sums:
    """What is kept: the basis (kernel, landmarks, baseline, whitening) and the sums over rows in it."""

    frame: Model  # of the first fit; its coefficients are not used
    whitening: Whitening
    moments: MomentTable | None
    shards: Sequence[str]  # keys of the shards that are in the sums


def grow(data: FitData, kept: Checkpoint, frame: Model | None, run: Run) -> tuple[Candidate, Sums]:
    """Add what is new in the stores to the sums in a folder, and solve.

    Args:
        kept: where the sums are; its identity refuses those of another plan.
        frame: the model that fixes the basis, if there are sums already.

    Raises:
        ConfigError: several candidates, another solver than ``direct``, sums of another plan, or of
            shards that the stores hold no longer.
    """
    plan, group, solver = data.plan, data.group, data.plan.solver
    listed = list(choices(plan, data))
    if not isinstance(solver, Accumulating) or len(listed) * len(data.alphas) > 1 or data.structures is not None:
        raise ConfigError(
            "--sums keeps one pass of solver 'direct': give one length scale, alpha, baseline and standardize "
            "(those that a fit without --sums has chosen)"
        )
    folds = data.folds(exact=False)
    sums = _loaded(data, kept, frame) if frame is not None else _begun(data, listed[0], run)
    done = frozenset(sums.shards)
    present = {info.key for store in data.stores for info in store.shards}
    if done - present:
        raise ConfigError(
            f"the sums in {kept.folder} hold {len(done - present)} shards that the stores no longer have; "
            "give all stores, or another folder"
        )
    fresh = replace(data, stores=deal(data.stores, group.rank, group.size, done))
    basis = sums.frame
    problem = problem_of(plan, basis.kernel, basis.landmarks, basis.baseline, folds).of_kinds(data.source.kinds)
    rows = problem.rows(fresh.source)
    moments = sums.moments
    if present - done:
        what = {"shards": sorted(present), "done": sorted(done), "landmarks": fingerprint(basis.landmarks)}
        part = kept.part("pass", what)
        with part.stop.deferred():
            added = solver.accumulate(problem, rows, sums.whitening, replace(run, checkpoint=part))
        moments = added if moments is None else joined_moments(moments, added)
    assert moments is not None
    energy = moments[RowKind.ENERGY]
    gram = torch.stack([part.plain_gram for part in energy]).sum(0)
    moment = torch.stack([part.plain_target for part in energy]).sum(0)
    shift = refit_shift(basis.baseline, gram, moment)
    solution = solver.from_sums(problem, moments, sums.whitening, run, shift)
    moved = _moved(problem, shift)
    line = Tried.of(listed[0].standardize, listed[0].baseline, moved, solution)
    return Candidate(moved, solution, line), replace(sums, moments=moments, shards=sorted(present | done))


def keep(sums: Sums, kept: Checkpoint, begun: bool) -> None:
    """Write the sums; called by one rank. The model is made already, and is not lost when they cannot be written.

    Args:
        begun: whether the basis is new; one that a killed run left without any sums counts for nothing.
    """
    assert sums.moments is not None
    frame = kept.folder / _FRAME
    try:
        kept.folder.mkdir(parents=True, exist_ok=True)
        if begun:
            sums.frame.save(frame)
    except (OSError, ModelError) as error:
        warnings.warn(f"the sums could not be kept in {kept.folder}: {error}", RuntimeWarning, stacklevel=2)
        return
    tensors = table_tensors(sums.moments)
    for i, block in enumerate(sums.whitening.blocks):
        tensors |= {f"block/{i}/{name}": value for name, value in vars(block).items()}
    kept.save(_SUMS, State(tensors, {"shards": list(sums.shards), "blocks": len(sums.whitening.blocks)}))


def frame_in(folder: Path) -> Model | None:
    """The model that fixes the basis of the sums in a folder; None if there are none yet."""
    path = folder / _FRAME
    begun = path.exists() and any(folder.glob(f"{_SUMS}*.safetensors"))  # the frame is written before them
    return Model.load(path) if begun else None


def _moved(problem: Problem, shift: torch.Tensor) -> Problem:
    baseline = problem.baseline
    return replace(problem, baseline=replace(baseline, energies=baseline.energies + shift))


def _loaded(data: FitData, kept: Checkpoint, frame: Model) -> Sums:
    state = kept.load_own(_SUMS)
    if state is None:
        raise ConfigError(f"the sums in {kept.folder} are damaged; delete the folder and fit again")
    frame.require_backbone(data.stores[0].header.backbone, "the stores")
    frame.require_compression(data.stores[0].header.compression.get("hash"), "the stores")
    at = state.tensors
    blocks = (
        WhiteningBlock(at[f"block/{i}/columns"], at[f"block/{i}/matrix"], at[f"block/{i}/spectrum"])
        for i in range(cast(int, state.values["blocks"]))
    )
    whitening = Whitening(tuple(blocks), frame.kernel.n_columns(frame.landmarks))
    folds = max(data.plan.validation.folds, 1)
    return Sums(frame, whitening, restored_table(at, folds), cast(Sequence[str], state.values["shards"]))


def _begun(data: FitData, choice: Choice, run: Run) -> Sums:
    """The basis, chosen from what there is at the first fit."""
    (problem,) = data.family(choice, None)
    header = data.stores[0].header
    nothing = torch.zeros(problem.n_columns, dtype=torch.float64)
    frame = Model(
        problem.kernel, problem.landmarks, nothing, problem.baseline, header.backbone, header.spec, {}, {},
        compression=data.compression,
    )  # fmt: skip
    run.progress.note(f"sums: a basis of {problem.landmarks.n_sets} landmarks, kept for all shards to come")
    return Sums(frame, problem.whitening(data.group), None, ())

"""The posterior of a fitted model, calibrated on the structures that each fold left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, Landmarks, RowBlock, RowKind
from mekrr_scale.baselines import Baseline
from mekrr_scale.distributed import Group
from mekrr_scale.kernels import SetKernel
from mekrr_scale.pipeline.data import FitData
from mekrr_scale.posterior import (
    Calibration,
    Posterior,
    RawVariance,
    alone,
    joined,
    mean_factor,
    posterior_factor,
    raw_variance,
)
from mekrr_scale.rows import DerivativeRows, EnergyRows, Folds, RowSource
from mekrr_scale.solvers import Solution
from mekrr_scale.whitening import Whitening, WhiteningMethod, whiten

LARGEST_RANK = 4096  # Gram matrices and factors of five folds take eleven times rank^2 numbers: 1.5 GB
LOOKED_AT = 4000  # held-out structures, and atoms, that calibration looks at
MOVED_AT = 8000  # directions


@dataclass(frozen=True)
class Fitted:
    """What was fitted, as its calibration needs it."""

    kernel: SetKernel
    landmarks: Landmarks
    baseline: Baseline
    folds: Folds
    solution: Solution
    weights: tuple[float, float, float]  # of energy, force and stress rows
    cut: float
    whitening: WhiteningMethod
    device: str = "cpu"  # of the rows


@dataclass
class _Held:
    """Errors and raw variances of rows of one kind."""

    errors: list[Tensor] = field(default_factory=list)
    variances: list[RawVariance] = field(default_factory=list)

    def everyones(self, group: Group) -> _Held:
        """Those of all ranks."""
        if group.size == 1:
            return self
        errors = group.joined(torch.cat([torch.zeros(0, dtype=torch.float64), *self.errors]))
        return _Held([errors] if len(errors) else [], [_variances(self.variances, group)])

    def calibration(self) -> Calibration | None:
        if not self.errors:
            return None
        return Calibration.of(torch.cat(self.errors), joined(self.variances))


def calibrate(
    fitted: Fitted, rows: RowSource, data: FitData, progress: Callable[[int], None] = lambda rows: None
) -> Posterior | None:
    """Two passes over the rows: Gram matrices by fold, then errors beside variances.

    At most a few thousand structures, directions and atoms are looked at in the second, drawn by
    the structures' hashes.

    Returns:
        None where there are too few held-out energies to calibrate on.
    """
    group = data.group
    makers = fitted.kernel.gram_block_makers(fitted.landmarks)
    whitening = whiten(makers, fitted.cut, fitted.whitening, group)
    grams = [group.sum(gram.cpu()) for gram in _grams(fitted, rows, whitening.on(fitted.device), progress)]
    total = sum(grams[1:], grams[0].clone())
    ridge = fitted.solution.ridges[0]
    factors = [posterior_factor(total - gram, ridge, whitening) for gram in grams]
    energies, atoms = _energies(fitted, data, whitening, factors, progress)
    forces = _forces(fitted, data, whitening, factors) if data.derivatives and fitted.weights[1] else None
    energies = energies.everyones(group)
    forces = None if forces is None else forces.everyones(group)
    told = group.gather_json(sorted(atoms))
    lone = {z: _variances(atoms.get(z, []), group) for z in sorted(set().union(*told))}
    calibration = energies.calibration()
    if calibration is None:
        return None
    # What is calibrated are errors and variances of models that miss a fold. The final model misses none: with its
    # own variances intervals are too narrow (they shrink more than errors do), with those of the folds too wide.
    # The mean of both held 66 to 71 % where 68 % were asked for, these 61 to 64 % and 72 to 75 % (benchmarks)
    parts = chain([(total, 0.5)], ((total - gram, 0.5 / len(grams)) for gram in grams))
    return Posterior(
        factor=group.broadcast(mean_factor(parts, ridge, whitening).contiguous()),
        cut=fitted.cut,
        whitening=fitted.whitening,
        energy=calibration,
        force=None if forces is None else forces.calibration(),
        thresholds={z: float(raw.total(calibration.outside_weight).quantile(0.999)) for z, raw in lone.items()},
    )


def _variances(parts: Sequence[RawVariance], group: Group) -> RawVariance:
    """Those of all ranks, one after the other."""
    nothing = torch.zeros(0, dtype=torch.float64)
    own = joined([RawVariance(nothing, nothing), *parts])
    return RawVariance(group.joined(own.outside), group.joined(own.open))


def _grams(
    fitted: Fitted, rows: RowSource, whitening: Whitening, progress: Callable[[int], None]
) -> list[Float64[Tensor, "rank rank"]]:
    """Phi' W Phi of each fold, under the weights that were chosen."""
    shape = whitening.rank, whitening.rank
    grams = [torch.zeros(*shape, dtype=torch.float64, device=fitted.device) for _ in range(fitted.folds.count)]
    for made in rows:
        block = made.on(fitted.device)
        weight = dict(zip(RowKind, fitted.weights, strict=True))[block.kind]
        if not weight:
            continue
        phi = whitening.rows(block.rows) * (weight * block.weight).sqrt()[:, None]
        for fold, gram in enumerate(grams):
            part = phi[block.fold == fold]
            gram.addmm_(part.T, part)
        progress(len(block.target))
    return grams


def _energies(
    fitted: Fitted,
    data: FitData,
    whitening: Whitening,
    factors: Sequence[Tensor],
    progress: Callable[[int], None],
) -> tuple[_Held, Mapping[int, Sequence[RawVariance]]]:
    """Energy errors of held-out structures, and variances of held-out atoms by species."""
    held = _Held()
    found: dict[int, list[RawVariance]] = {}
    structures = sum(store.n_structures for store in data.stores)
    atoms = sum(store.n_atoms for store in data.stores)
    for batch in data.energies:
        progress(batch.n_structures)
        looked_at = batch.take(_drawn(batch, LOOKED_AT / structures) & ~batch.energy.isnan())
        for block in EnergyRows((looked_at,), fitted.kernel, fitted.landmarks, fitted.baseline, fitted.folds):
            prior = fitted.kernel.diagonal(looked_at)
            _compare(held, fitted, block, torch.ones_like(block.fold, dtype=torch.bool), prior, whitening, factors)
        part = _drawn(batch, LOOKED_AT / atoms)
        fold = fitted.folds.of(batch)
        for run in batch.runs:
            owner = torch.repeat_interleave(torch.arange(batch.n_structures), run.ptr.diff())
            for f, factor in enumerate(factors):
                features = run.features[part[owner] & (fold[owner] == f)]
                if not len(features):
                    continue
                lone = alone(features.double(), torch.full((len(features),), run.z))
                matrix = fitted.kernel.rows(lone, fitted.landmarks)
                variance = raw_variance(matrix, fitted.kernel.diagonal(lone), whitening, factor)
                found.setdefault(run.z, []).append(variance)
    return held, found


def _forces(fitted: Fitted, data: FitData, whitening: Whitening, factors: Sequence[Tensor]) -> _Held:
    """Errors of held-out forces along the stored directions."""
    held = _Held()
    directions = sum(store.n_directions for store in data.stores)
    for batch in data.moved:
        labels = batch.directions
        if labels is None:
            continue
        chosen = _drawn(batch, MOVED_AT / max(directions, 1))
        if not bool(chosen.any()):
            continue
        prior = fitted.kernel.derivative_diagonal(batch, chosen)
        owner = torch.repeat_interleave(torch.arange(batch.n_structures), labels.ptr.diff())
        rows = DerivativeRows((batch,), fitted.kernel, fitted.landmarks, fitted.baseline, fitted.folds, torch.float64)
        for block in rows:
            if block.kind is RowKind.FORCE:
                known = (labels.kind == int(RowKind.FORCE)) & ~labels.label.isnan()
                _compare(held, fitted, block, chosen[owner][known], prior[known], whitening, factors)
    return held


def _compare(
    held: _Held,
    fitted: Fitted,
    block: RowBlock,
    chosen: Tensor,
    prior: Float64[Tensor, " rows"],
    whitening: Whitening,
    factors: Sequence[Tensor],
) -> None:
    """Errors of the chosen rows under the models of the other folds, and their deviations."""
    for fold, factor in enumerate(factors):
        part = chosen & (block.fold == fold)
        if not bool(part.any()):
            continue
        matrix = block.rows[part].double()
        predicted = (matrix @ fitted.solution.fold_values[fold])[:, 0]
        shifted = (block.counts[part] @ fitted.solution.fold_shifts[fold]) * block.scale[part]
        held.errors.append(block.target[part] - predicted - shifted)
        held.variances.append(raw_variance(matrix, prior[part], whitening, factor))


def _drawn(batch: FeatureBatch, part: float) -> Bool[Tensor, " structures"]:
    """Which structures are looked at: a part of them by their content."""
    return (batch.ids & 0xFFFFFF).double() / 2**24 < part

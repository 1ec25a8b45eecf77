"""The posterior of a fitted model, calibrated on the structures that each fold left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from mekrr_scale.arrays import N_ELEMENTS, FeatureBatch, RowKind, alone
from mekrr_scale.distributed import Group
from mekrr_scale.models import (
    Calibration,
    PerAtom,
    Posterior,
    RawVariance,
    SetCalibration,
    SetSums,
    Whitening,
    joined_variances,
    mean_factor,
    posterior_factor,
    raw_variance,
)
from mekrr_scale.pipeline.fitting.data import FitData
from mekrr_scale.pipeline.fitting.heldout import by_model_without
from mekrr_scale.pipeline.fitting.origins import bases_without_own
from mekrr_scale.regression import Precision, Problem, RowBlock, Rows, Run, Source
from mekrr_scale.solvers import Solution

LARGEST_RANK = 4096  # Gram matrices and factors of five folds take fourteen times rank^2 numbers: 1.9 GB
LOOKED_AT = 4000  # held-out structures, and atoms, that calibration looks at
RARE = 200  # atoms of an element at least, where there are as many
MOVED_AT = 8000  # directions


@dataclass
class _Held:
    """Errors and raw variances of rows of one kind."""

    errors: list[Tensor] = field(default_factory=list)
    variances: list[RawVariance] = field(default_factory=list)
    new: list[Tensor] = field(default_factory=list)  # parts of the prior variances that are outside of the landmarks

    def everyones(self, group: Group) -> _Held:
        """Those of all ranks."""
        if group.size == 1:
            return self
        nothing = torch.zeros(0, dtype=torch.float64)
        errors, new = (group.joined(torch.cat([nothing, *parts])) for parts in (self.errors, self.new))
        return _Held([errors] if len(errors) else [], [_variances(self.variances, group)], [new])

    def calibration(self) -> Calibration | None:
        if not self.errors:
            return None
        new = float(torch.cat(self.new).median())
        return Calibration.of(torch.cat(self.errors), joined_variances(self.variances), new)


@dataclass
class _LeftOut:
    """Structures of each fold as one set, under the model that misses it; everything per atom."""

    sums: SetSums
    errors: Float64[Tensor, " folds"]  # summed, eV
    parts: list[Float64[Tensor, "3 structures"]] = field(default_factory=list)  # variances outside and open, and fold

    @classmethod
    def none(cls, folds: int, columns: int) -> _LeftOut:
        return cls(SetSums.none(folds, columns), torch.zeros(folds, dtype=torch.float64))

    def add(
        self, fold: int, error: Float64[Tensor, " rows"], rows: Float64[Tensor, "rows columns"],
        variance: RawVariance, size: Float64[Tensor, " rows"],
    ) -> None:  # fmt: skip
        """Count structures of a fold in.

        Args:
            size: what a row is divided by to be of an energy per atom.
        """
        found = PerAtom(rows.cpu() / size[:, None], variance.outside / size.square(), variance.open / size.square())
        place = torch.full((len(size),), fold)
        self.sums.add(found, place)
        self.errors[fold] += (error / size).sum()
        self.parts.append(torch.stack([found.outside, found.open, place.double()]))

    def calibration(self, factors: Sequence[Tensor], energy: Calibration, group: Group) -> SetCalibration:
        """That of sets, beside the one of single structures."""
        sums, errors = SetSums.of_table(group.sum(self.sums.table)), group.sum(self.errors)
        nothing = torch.zeros(0, 3, dtype=torch.float64)
        outside, opened, fold = group.joined(torch.cat([nothing, *(part.T for part in self.parts)])).T
        ratios = errors / sums.count / sums.raw_deviations(factors, energy.outside_weight)
        deviations = RawVariance(outside, opened).total(energy.outside_weight).sqrt()
        return SetCalibration.of(deviations, fold.long(), ratios[sums.count > 0], energy.within_95)


def calibrate(problem: Problem, solution: Solution, data: FitData, run: Run) -> Posterior | None:
    """Two passes over the rows: Gram matrices by fold, then errors beside variances.

    At most a few thousand structures, directions and atoms are looked at in the second, drawn by
    the structures' hashes.

    Returns:
        None where there are too few held-out energies to calibrate on.
    """
    group, ridge = data.group, solution.ridges[0]
    whitening = problem.whitening(group)
    grams = [group.sum(gram.cpu()) for gram in _grams(problem, solution, data.source, whitening, run)]
    total = sum(grams[1:], grams[0].clone())
    device = run.execution.device
    whole = [posterior_factor(total - gram, ridge, whitening).to(device) for gram in grams]
    whitenings, factors = [], []
    for basis, gram, factor in zip(bases_without_own(problem, data, whitening), grams, whole, strict=True):
        factors.append(factor if basis.within is None else basis.factor(total - gram, ridge).to(device))
        whitenings.append(basis.whitening.on(device))
    precise = replace(problem, precision=Precision(torch.float64, torch.float64))  # variances are small differences
    look = _Look(
        precise.on(device), solution, data, whitenings, factors, whitening.on(device), whole, _learned(problem, data)
    )
    left_out = _LeftOut.none(problem.n_folds, len(solution.fold_values[0]))
    energies, atoms = look.energies(run, left_out)
    forces = look.forces(run) if data.derivatives and solution.weights[RowKind.FORCE] else None
    energies = energies.everyones(group)
    forces = None if forces is None else forces.everyones(group)
    present = group.gather_json(sorted(atoms))
    lone = {z: _variances(atoms.get(z, []), group) for z in sorted(set().union(*present))}
    calibration = energies.calibration()
    if calibration is None:
        return None
    # What is calibrated are errors and variances of models that miss a fold. The final model misses none: with its
    # own variances intervals are too narrow (they shrink more than errors do), with those of the folds too wide.
    # The mean of both held 66 to 71 % where 68 % were asked for, these 61 to 64 % and 72 to 75 % (benchmarks)
    parts = chain([(total, 0.5)], ((total - gram, 0.5 / len(grams)) for gram in grams))
    return Posterior(
        factor=group.broadcast(mean_factor(parts, ridge, whitening).contiguous()),
        cut=problem.basis.cut,
        whitening=problem.basis.method,
        energy=calibration,
        force=None if forces is None else forces.calibration(),
        thresholds={z: float(raw.total(calibration.outside_weight).quantile(0.999)) for z, raw in lone.items()},
        sets=left_out.calibration(factors, calibration, group),
    )


def _variances(parts: Sequence[RawVariance], group: Group) -> RawVariance:
    """Those of all ranks, one after the other."""
    nothing = torch.zeros(0, dtype=torch.float64)
    own = joined_variances([RawVariance(nothing, nothing), *parts])
    return RawVariance(group.joined(own.outside), group.joined(own.open))


def _grams(
    problem: Problem, solution: Solution, source: Source, whitening: Whitening, run: Run
) -> list[Float64[Tensor, "rank rank"]]:
    """Phi' W Phi of each fold, under the weights that were chosen."""
    device = run.execution.device
    rows: Rows = solution.rows or problem.on(device).rows(source)
    placed, folds = whitening.on(device), problem.n_folds
    shape = whitening.rank, whitening.rank
    grams = [torch.zeros(*shape, dtype=torch.float64, device=device) for _ in range(folds)]
    for made in rows:
        run.progress.advance(len(made.target))
        block = made.on(device)
        weight = solution.weights[block.kind]
        if not weight:
            continue
        phi = placed.rows(block.rows) * (weight * block.weight).sqrt()[:, None]
        for fold, gram in enumerate(grams):
            part = phi[block.fold == fold]
            gram.addmm_(part.T, part)
    return grams


def _learned(problem: Problem, data: FitData) -> list[frozenset[int]]:
    """For each fold the elements of the structures of the others, of all ranks."""
    seen = torch.zeros(problem.n_folds, N_ELEMENTS, dtype=torch.int64)
    for batch in data.energies:
        inside = torch.nn.functional.one_hot(problem.fold_of(batch), problem.n_folds)
        seen[:, list(batch.species)] += inside.T @ batch.counts(batch.species)
    seen = data.group.sum(seen)
    return [frozenset((seen.sum(0) > own).nonzero()[:, 0].tolist()) for own in seen]


@dataclass(frozen=True)
class _Look:
    """Held-out structures under the models of the folds that miss them."""

    problem: Problem  # with kernel elements in float64
    solution: Solution
    data: FitData
    whitenings: Sequence[Whitening]  # of each fold, see ``bases_without_own``
    factors: Sequence[Tensor]
    whole: Whitening  # of all landmarks, and the folds' factors in it
    whole_factors: Sequence[Tensor]
    learned: Sequence[frozenset[int]]  # elements that the model without a fold has seen

    def energies(self, run: Run, left_out: _LeftOut) -> tuple[_Held, Mapping[int, Sequence[RawVariance]]]:
        """Energy errors of structures, and variances of atoms by species."""
        held = _Held()
        found: dict[int, list[RawVariance]] = {}
        structures = sum(store.n_structures for store in self.data.stores)
        counts = self.data.species_counts
        parts = {z: max(LOOKED_AT / sum(counts.values()), RARE / n) for z, n in counts.items()}
        for batch in self.data.energies:
            run.progress.advance(batch.n_structures)
            looked_at = batch.take(_drawn(batch, LOOKED_AT / structures) & batch.with_energy)
            for block in self.problem.rows(Source((looked_at,)), {RowKind.ENERGY}):
                prior = self.problem.kernel.diagonal(looked_at)
                self._compare(held, block, torch.ones_like(block.fold, dtype=torch.bool), prior, left_out)
            self._atoms(batch, parts, found)
        return held, found

    def _atoms(self, batch: FeatureBatch, parts: Mapping[int, float], found: dict[int, list[RawVariance]]) -> None:
        """Variances of the atoms of some structures, each under the models that miss it.

        A model that misses all of an element knows nothing of it, and neither does a threshold from it. Landmarks
        that come from the atoms themselves are not left out: what the final model learned from is not beyond it.

        Args:
            parts: of the structures that are looked at for each element, more for rare ones.
        """
        kernel, fold = self.problem.kernel, self.problem.fold_of(batch)
        for run in batch.runs:
            part = _drawn(batch, parts.get(run.z, 0.0))
            owner = torch.repeat_interleave(torch.arange(batch.n_structures), run.ptr.diff())
            for f, factor in enumerate(self.whole_factors):
                if run.z not in self.learned[f]:
                    continue
                features = run.features[part[owner] & (fold[owner] == f)]
                if not len(features):
                    continue
                lone = alone(features.double(), torch.full((len(features),), run.z))
                matrix = kernel.rows(lone, self.problem.landmarks)
                variance = raw_variance(matrix, kernel.diagonal(lone), self.whole, factor)
                found.setdefault(run.z, []).append(variance)

    def forces(self, run: Run) -> _Held:
        """Errors of forces along the stored directions."""
        held = _Held()
        directions = sum(store.n_directions for store in self.data.stores)
        for batch in self.data.moved:
            labels = batch.directions
            if labels is None:
                continue
            run.progress.advance(len(labels.kind))
            chosen = _drawn(batch, MOVED_AT / max(directions, 1))
            if not bool(chosen.any()):
                continue
            prior = self.problem.kernel.derivative_diagonal(batch, chosen)
            known = batch.along(RowKind.FORCE)
            for block in self.problem.rows(Source((), (batch,)), {RowKind.FORCE}):
                self._compare(held, block, chosen[batch.owner][known], prior[known])
        return held

    def _compare(
        self,
        held: _Held,
        block: RowBlock,
        chosen: Tensor,
        prior: Float64[Tensor, " rows"],
        left_out: _LeftOut | None = None,
    ) -> None:
        """Errors of the chosen rows under the models of the other folds, and their deviations."""
        for fold, factor in enumerate(self.factors):
            part = chosen & (block.fold == fold)
            if not bool(part.any()):
                continue
            matrix = block.rows[part].double()
            error = block.target[part] - by_model_without(fold, matrix, block, part, self.solution)
            variance = raw_variance(matrix, prior[part], self.whitenings[fold], factor)
            held.errors.append(error)
            held.variances.append(variance)
            held.new.append(variance.outside / prior[part].cpu())
            if left_out is not None:
                left_out.add(fold, error, matrix, variance, block.scale[part] * block.counts[part].sum(1))


def _drawn(batch: FeatureBatch, part: float) -> Bool[Tensor, " structures"]:
    """Which structures are looked at: a part of them by their content."""
    return (batch.ids & 0xFFFFFF).double() / 2**24 < part

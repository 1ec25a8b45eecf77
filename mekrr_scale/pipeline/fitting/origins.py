"""Landmarks that come from left-out structures: without them these are as new as any other.

Of few data every atom is a landmark. What the landmarks cannot express of a structure that gave them is rounding
alone, while for a new one it is most of the variance (3BPA, 50 frames, 4,000 landmarks: 470 times as much), so that
held-out structures must be looked at without those of their fold: in a basis that does not span their atoms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mekrr_scale.arrays import Landmarks
from mekrr_scale.models import Whitening, WhiteningBlock, posterior_factor, whiten
from mekrr_scale.pipeline.fitting.data import FitData
from mekrr_scale.regression import Problem

_SCARCE = 10  # atoms a landmark: with more, few atoms of a structure are landmarks


@dataclass(frozen=True)
class FoldBasis:
    """What the landmarks span that do not come from a fold, within what all of them span.

    Whitened rows of all landmarks, Phi = K T, times ``within`` = T' K_Z,kept T_kept are those of the kept ones.
    """

    whitening: Whitening  # for rows of all landmarks
    within: Float64[Tensor, "rank kept_rank"] | None = None  # None: the basis is that of all

    def factor(self, gram: Float64[Tensor, "rank rank"], ridge: float) -> Float64[Tensor, "columns kept_rank"]:
        """``posterior_factor`` of Phi' W Phi of all landmarks, in this basis."""
        inside = gram if self.within is None else self.within.T @ gram @ self.within
        return posterior_factor(inside, ridge, self.whitening)


def scarce(atoms: int, landmarks: int) -> bool:
    """Whether so many of the atoms are landmarks that left-out structures are expressed by their own."""
    return atoms <= _SCARCE * landmarks


def bases_without_own(problem: Problem, data: FitData, common: Whitening) -> Iterator[FoldBasis]:
    """For each fold the basis of the landmarks that do not come from it; that of all where this makes no difference."""
    landmarks = problem.landmarks
    if not landmarks.singletons or not scarce(data.counted_atoms, landmarks.n_sets):
        yield from [FoldBasis(common)] * problem.n_folds
        return
    fold = _folds_of_landmarks(problem, data)
    makers = problem.kernel.gram_block_makers(landmarks)
    bridge = [block.matrix.T @ make() for block, make in zip(common.blocks, makers, strict=True)]  # T' K_ZZ
    for own in range(problem.n_folds):
        kept = (fold != own).nonzero()[:, 0]
        if not 0 < len(kept) < len(fold):
            yield FoldBasis(common)
            continue
        whitening = _of_some(problem, kept, data)
        spread = whitening.coefficients(torch.eye(whitening.rank, dtype=torch.float64))
        parts = (part @ spread[block.span] for block, part in zip(common.blocks, bridge, strict=True))
        yield FoldBasis(whitening, torch.cat(list(parts)))


def _folds_of_landmarks(problem: Problem, data: FitData) -> Int64[Tensor, " landmarks"]:
    """The fold of the nearest atom of the same element, among those of all ranks: of a displaced copy its own."""
    landmarks = problem.landmarks
    nearest = torch.full((landmarks.n_sets,), torch.inf, dtype=torch.float64)
    fold = torch.full((landmarks.n_sets,), -1)
    for batch in data.energies:
        of_structure = problem.fold_of(batch)
        for run in batch.runs:
            chosen = (landmarks.species == run.z).nonzero()[:, 0]
            if not len(chosen) or not len(run.features):
                continue
            points = landmarks.features[chosen].cpu()
            distance, place = torch.cdist(points, run.features.to(points)).min(1)
            owner = torch.repeat_interleave(torch.arange(batch.n_structures), run.ptr.diff())
            closer = distance.double() < nearest[chosen]
            nearest[chosen[closer]] = distance.double()[closer]
            fold[chosen[closer]] = of_structure[owner[place[closer]]]
    everyones = torch.stack(data.group.gather(torch.stack([nearest, fold.double()])))  # ranks, 2, landmarks
    best = everyones[:, 0].argmin(0)
    found: Tensor = everyones[best, 1, torch.arange(landmarks.n_sets)].long()
    return found


def _of_some(problem: Problem, kept: Int64[Tensor, " kept"], data: FitData) -> Whitening:
    """The basis of some landmarks, for rows of all."""
    landmarks = problem.landmarks
    part = Landmarks(landmarks.features[kept], landmarks.species[kept], torch.arange(len(kept)), len(kept))
    found = whiten(problem.kernel.gram_block_makers(part), problem.basis.cut, "cholesky", data.group)
    channels = problem.n_columns // landmarks.n_sets
    columns = torch.cat([kept + channel * landmarks.n_sets for channel in range(channels)])
    blocks = (WhiteningBlock(columns[block.columns], block.matrix, block.spectrum) for block in found.blocks)
    return Whitening(tuple(blocks), problem.n_columns)

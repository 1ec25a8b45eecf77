"""How much the elements of source and target learn from each other, found by cross-validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import SpeciesMixing
from mekrr_scale.progress import Progress

UNIFORM_ALPHAS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_STEPS = (0.3, 0.15, 0.05)  # of a matrix element, one after the other
_MOST = 6  # species
_GAIN = 1e-3  # a smaller one of the score is no reason to go on
_ROUNDING = 1e-12


def learn_mixing(
    species: Sequence[int],
    alpha: float,
    score: float,
    evaluate: Callable[[SpeciesMixing], float],
    progress: Progress,
) -> tuple[SpeciesMixing, float]:
    """A mixing matrix B with unit diagonal, by coordinate search on its elements.

    Begins at 1 - alpha off the diagonal; elements are moved up and down one after the other, as long
    as the score falls, in steps that become smaller. Matrices that are not positive semi-definite
    are passed over.

    Args:
        score: of the uniform matrix of that alpha.
        evaluate: the cross-validated score of a matrix.

    Raises:
        ConfigError: fewer than two species, or more than six.
    """
    if not 1 < len(species) <= _MOST:
        raise ConfigError(
            f"a mixing matrix is learned for 2 to {_MOST} species, the stores hold {len(species)}; use alpha instead"
        )
    pairs = list(combinations(range(len(species)), 2))
    best = torch.full((len(species), len(species)), 1.0 - alpha, dtype=torch.float64).fill_diagonal_(1.0)
    progress.stage("species mixing", unit="fits")
    for step in _STEPS:
        improved = True
        while improved:
            improved = False
            for i, j in pairs:
                for moved in _neighbours(best, i, j, step):
                    progress.advance()
                    reached = evaluate(_mixing(species, moved))
                    if reached < score * (1 - _GAIN):
                        best, score, improved = moved, reached, True
    return _mixing(species, best), score


def _neighbours(matrix: Float64[Tensor, "s s"], i: int, j: int, step: float) -> Iterator[Float64[Tensor, "s s"]]:
    """Matrices with one element moved, where they are positive semi-definite."""
    for sign in (1, -1):
        moved = matrix.clone()
        moved[i, j] = moved[j, i] = min(1.0, max(-1.0, float(matrix[i, j]) + sign * step))
        if not torch.equal(moved, matrix) and float(torch.linalg.eigvalsh(moved)[0]) > -_ROUNDING:
            yield moved


def _mixing(species: Sequence[int], matrix: Float64[Tensor, "s s"]) -> SpeciesMixing:
    return SpeciesMixing(0.0, tuple(species), tuple(tuple(row) for row in matrix.tolist()))

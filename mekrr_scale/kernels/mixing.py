"""How much atoms of one element learn from atoms of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.errors import ConfigError


@dataclass(frozen=True)
class SpeciesMixing:
    """B[z, z'] = (1 - alpha) + alpha [z = z'], or any symmetric positive semi-definite matrix.

    alpha = 0 makes all elements one, alpha = 1 keeps them apart (arXiv 2306.01589, eq. 11).

    Raises:
        ConfigError: alpha outside [0, 1], or a matrix that is not symmetric and semi-definite.
    """

    alpha: float = 0.0
    species: tuple[int, ...] = ()  # rows of the matrix, where one is given
    matrix: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise ConfigError(f"alpha is {self.alpha}; it mixes between 0 (all species alike) and 1 (apart)")
        if not self.matrix:
            return
        size = len(self.species)
        if len(self.matrix) != size or any(len(row) != size for row in self.matrix):
            raise ConfigError(f"the species mixing matrix must be {size} x {size} for species {list(self.species)}")
        values = torch.tensor(self.matrix, dtype=torch.float64)
        if not torch.allclose(values, values.T):
            raise ConfigError("the species mixing matrix is not symmetric")
        lowest = float(torch.linalg.eigvalsh(values)[0])
        if lowest < -1e-10 * float(values.abs().max()):
            raise ConfigError(f"the species mixing matrix has a negative eigenvalue ({lowest:.3g}); it must have none")

    @property
    def separate(self) -> bool:
        """Whether atoms of different species never meet (B is diagonal)."""
        if not self.matrix:
            return self.alpha == 1.0
        return all(value == 0.0 for i, row in enumerate(self.matrix) for j, value in enumerate(row) if i != j)

    def table(self, rows: Sequence[int], columns: Sequence[int]) -> Float64[Tensor, "rows columns"]:
        """B for lists of atomic numbers.

        Raises:
            ConfigError: a species that the given matrix has no row for.
        """
        if not self.matrix:
            same = torch.tensor([[float(a == b) for b in columns] for a in rows], dtype=torch.float64)
            return (1.0 - self.alpha) + self.alpha * same.reshape(len(rows), len(columns))
        absent = sorted({*rows, *columns} - set(self.species))
        if absent:
            raise ConfigError(f"the species mixing matrix has no row for species {absent}; it has {list(self.species)}")
        values = torch.tensor(self.matrix, dtype=torch.float64)
        return values[[self.species.index(z) for z in rows]][:, [self.species.index(z) for z in columns]]

"""Approximate inverses of the normal operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mekrr_scale.arrays import eigh
from mekrr_scale.distributed import ExactSum, Group, PanelGram, PanelMatrix
from mekrr_scale.models import Whitening

LARGEST_EIGEN = 4096  # above this rank a preconditioner is factored by Cholesky, in panels over the ranks


@runtime_checkable
class Preconditioner(Protocol):
    """An approximate inverse of the operator."""

    def apply(self, residual: Float64[Tensor, "rank columns"]) -> Float64[Tensor, "rank columns"]: ...


@dataclass(frozen=True)
class SpectralPreconditioner:
    """(P + lambda)^-1 for every column's ridge lambda, from one eigendecomposition of P."""

    spectrum: Float64[Tensor, " rank"]
    vectors: Float64[Tensor, "rank rank"]
    ridges: Float64[Tensor, " columns"]

    @classmethod
    def of(cls, gram: Float64[Tensor, "rank rank"], ridges: Float64[Tensor, " columns"]) -> SpectralPreconditioner:
        """Decompose an approximation P of Phi' W Phi."""
        spectrum, vectors = eigh(gram)
        return cls(spectrum.clamp_min(0.0), vectors, ridges)

    def apply(self, residual: Float64[Tensor, "rank columns"]) -> Float64[Tensor, "rank columns"]:
        return self.vectors @ ((self.vectors.T @ residual) / (self.spectrum[:, None] + self.ridges.to(residual.device)))


@dataclass(frozen=True)
class PanelPreconditioner:
    """(P + mu)^-1 from Cholesky factors dealt to the ranks; mu is the smallest ridge of a decade.

    An eigendecomposition of a large matrix costs about thirty factorisations. With a ridge up to
    ten times too small the preconditioned spectrum widens by that much, which CG hardly notices.
    """

    factors: Sequence[tuple[PanelMatrix, Int64[Tensor, " some"]]]  # and the columns that it is for

    @classmethod
    def of(cls, gram: PanelMatrix, ridges: Float64[Tensor, " columns"]) -> PanelPreconditioner:
        """Factor an approximation of Phi' W Phi; it is given up.

        Raises:
            SolverError: it is not positive definite with the ridge.
        """
        groups = decades(ridges)
        factors = []
        for place, (ridge, columns) in enumerate(groups):
            matrix = gram if place == len(groups) - 1 else gram.copy()
            factors.append((matrix.shift(ridge).cholesky(), columns))
        return cls(factors)

    def apply(self, residual: Float64[Tensor, "rank columns"]) -> Float64[Tensor, "rank columns"]:
        found = torch.empty_like(residual)
        for factor, columns in self.factors:
            found[:, columns] = factor.solve(residual[:, columns])
        return found


def decades(ridges: Float64[Tensor, " columns"]) -> list[tuple[float, Int64[Tensor, " some"]]]:
    """Columns in groups whose ridges are at most tenfold the group's smallest."""
    groups = []
    left = ridges.clone()
    while bool(torch.isfinite(left).any()):
        smallest = float(left.min())
        inside = left <= 10.0 * smallest * (1 + 1e-9)
        groups.append((smallest, inside.nonzero()[:, 0]))
        left[inside] = torch.inf
    return groups


def classical_gram(whitening: Whitening, total_weight: float) -> Float64[Tensor, "rank rank"]:
    """(sum of weights / M) T' K_ZZ^2 T: Falkon's approximation of Phi' W Phi.

    It assumes that rows look like rows of K_ZZ, which sums over sets do not.
    """
    gram = torch.zeros(whitening.rank, whitening.rank, dtype=torch.float64, device=whitening.device)
    start = 0
    for block in whitening.blocks:
        inverse = torch.linalg.pinv(block.matrix)  # equal to T' K_ZZ, since T' K_ZZ T = 1
        part = slice(start, start + len(inverse))
        gram[part, part] = inverse @ inverse.T
        start += len(inverse)
    return gram * (total_weight / whitening.n_columns)


class SubsetGram:
    """Phi_s' W Phi_s of a part of the rows, summed on every rank or, if it is large, in panels."""

    def __init__(self, rank: int, group: Group, device: torch.device) -> None:
        self.rank, self.group = rank, group
        self._whole = ExactSum(rank, rank, bins=3, device=device) if rank <= LARGEST_EIGEN else None
        self._matrix: PanelMatrix | None = None
        self._panels = None if rank <= LARGEST_EIGEN else PanelGram(rank, group, device=device)

    def add(self, rows: Float64[Tensor, "rows rank"]) -> None:
        if self._whole is not None:
            self._whole.add(rows.T @ rows)
        if self._panels is not None:
            self._panels.add(rows)

    def meet(self) -> None:
        """All rows are in: go along with ranks that have more, before anything else is sent."""
        if self._panels is not None:
            self._matrix = self._panels.finish()

    def preconditioner(self, factor: float, ridges: Float64[Tensor, " columns"]) -> Preconditioner:
        """Of ``factor`` times the sum; called once."""
        if self._whole is not None:
            return SpectralPreconditioner.of(self._whole.value(self.group) * factor, ridges)
        assert self._matrix is not None
        for panel in self._matrix.panels.values():
            panel.mul_(factor)
        return PanelPreconditioner.of(self._matrix, ridges)

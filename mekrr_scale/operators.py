"""Linear maps on rows: the whitened normal operator and its preconditioners."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mekrr_scale.arrays import RowBlock, RowKind, RowMap
from mekrr_scale.distributed import ALONE, ExactSum, Group
from mekrr_scale.distributed.panels import PanelMatrix
from mekrr_scale.whitening import Whitening, eigh


@dataclass(frozen=True)
class NormalOperator:
    """beta -> Phi' W Phi beta + lambda beta, each column with its ridge and left-out fold.

    With rows that are whitened already Phi is applied as it is; else as K (T beta), which costs
    less than whitening the rows in every pass but rounds more, since T beta is large. The sum over
    blocks does not depend on their order, nor on the ranks that they lie on.
    """

    rows: Iterable[RowBlock]  # of this rank
    whitening: Whitening | None  # None: the rows are whitened
    weights: dict[RowKind, float]
    excluded: Int64[Tensor, " columns"]  # fold left out by each column; -1 for none
    ridges: Float64[Tensor, " columns"]
    progress: Callable[[int], None] = lambda rows: None
    group: Group = ALONE

    def apply(self, beta: Float64[Tensor, "rank columns"]) -> Float64[Tensor, "rank columns"]:
        """The same on all ranks, each of which gives the same beta."""
        expanded = beta if self.whitening is None else self.whitening.coefficients(beta)
        total = ExactSum(*expanded.shape, device=beta.device)
        excluded = self.excluded.to(beta.device)
        for made in self.rows:
            block = made.on(beta.device)
            w = (block.weight * self.weights[block.kind])[:, None] * (block.fold[:, None] != excluded)
            total.add(block.matrix.T @ ((block.matrix @ expanded) * w))
            self.progress(len(block.target))
        found = total.value(self.group)
        pulled = found if self.whitening is None else self.whitening.pull(found)
        return pulled + self.ridges.to(beta.device) * beta


@dataclass(frozen=True)
class WhitenedRows:
    """Rows with Phi = K T in place of K."""

    rows: Iterable[RowBlock]
    whitening: Whitening

    def __iter__(self) -> Iterator[RowBlock]:
        for block in self.rows:
            if isinstance(block.matrix, Tensor):
                yield replace(block, matrix=self.whitening.rows(block.matrix))
            else:
                yield replace(block, matrix=WhitenedMap(block.matrix, self.whitening))


@dataclass(frozen=True)
class WhitenedMap:
    """Phi = K T of rows that are a map."""

    map: RowMap
    whitening: Whitening

    @property
    def shape(self) -> tuple[int, int]:
        return self.map.shape[0], self.whitening.rank

    @property
    def T(self) -> _WhitenedAdjoint:  # noqa: N802  as of a matrix
        return _WhitenedAdjoint(self)

    def __matmul__(self, beta: Float64[Tensor, "rank k"]) -> Float64[Tensor, "rows k"]:
        found: Tensor = self.map @ self.whitening.coefficients(beta)
        return found

    def __getitem__(self, chosen: Tensor) -> Float64[Tensor, "chosen rank"]:
        return self.whitening.rows(self.map[chosen])


@dataclass(frozen=True)
class _WhitenedAdjoint:
    of: WhitenedMap

    def __matmul__(self, values: Float64[Tensor, "rows k"]) -> Float64[Tensor, "rank k"]:
        return self.of.whitening.pull(self.of.map.T @ values)


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

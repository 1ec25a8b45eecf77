"""Linear maps on rows: the whitened normal operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from jaxtyping import Float64, Int64
from torch import Tensor

from mekrr_scale.arrays import ByKind
from mekrr_scale.distributed import ALONE, ExactSum, Group
from mekrr_scale.models import Whitening
from mekrr_scale.regression import RowBlock, RowMap


@dataclass(frozen=True)
class NormalOperator:
    """beta -> Phi' W Phi beta + lambda beta, each column with its ridge and left-out fold.

    With rows that are whitened already Phi is applied as it is; else as K (T beta), which costs
    less than whitening the rows in every pass but rounds more, since T beta is large. The sum over
    blocks does not depend on their order, nor on the ranks that they lie on.
    """

    rows: Iterable[RowBlock]  # of this rank
    whitening: Whitening | None  # None: the rows are whitened
    weights: ByKind[float]
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

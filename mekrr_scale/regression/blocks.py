"""Rows of the design matrix, block by block, and what passes over them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from mekrr_scale.arrays import RowKind
from mekrr_scale.errors import ConfigError


@runtime_checkable
class RowMap(Protocol):
    """Rows that are not held: what is asked of a matrix of rows, for solvers that need products alone."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def T(self) -> Any: ...  # noqa: N802  takes ``@`` too: the adjoint

    def __matmul__(self, vectors: Any) -> Any: ...

    def __getitem__(self, chosen: Any) -> Any: ...


@dataclass(frozen=True)
class RowBlock:
    """Rows of the weighted least-squares problem, before whitening."""

    kind: RowKind
    matrix: Float[Tensor, "rows columns"] | RowMap
    target: Float64[Tensor, " rows"]  # what the kernel has to explain; baseline taken off
    weight: Float64[Tensor, " rows"]
    share: Float64[Tensor, " rows"]  # the row's part in the mean over structures; sums to 1 for each
    counts: Float64[Tensor, "rows species"]  # species counts; zero in derivative rows
    scale: Float64[Tensor, " rows"]  # what labels were multiplied with: 1, or 1/n for ``mean``
    fold: Int64[Tensor, " rows"]
    key: Int64[Tensor, " rows"]  # drawn from the row's content: what random parts of the rows go by

    @property
    def rows(self) -> Float[Tensor, "rows columns"]:
        """The matrix, for solvers that need the rows themselves.

        Raises:
            ConfigError: the rows are a map.
        """
        if not isinstance(self.matrix, Tensor):
            raise ConfigError("these rows are products alone (matrix-free); solve with Falkon, or extract tangents")
        return self.matrix

    def on(self, device: torch.device | str) -> RowBlock:
        """Everything that the algebra of the rows takes, on a device."""
        if torch.device(device).type == "cpu" and self.target.device.type == "cpu":
            return self
        names = ("target", "weight", "share", "counts", "scale", "fold")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@runtime_checkable
class Rows(Protocol):
    """Rows that can be passed over again and again, also from the middle on."""

    def __iter__(self) -> Iterator[RowBlock]: ...

    def blocks(self, skip: int = 0) -> Iterator[RowBlock | None]:
        """All blocks in order, with None in place of the first ``skip``, which cost nothing."""


@dataclass(frozen=True)
class ChainedRows:
    """Several kinds of rows, one after the other."""

    parts: tuple[Rows, ...]

    def __iter__(self) -> Iterator[RowBlock]:
        return (block for block in self.blocks() if block is not None)

    def blocks(self, skip: int = 0) -> Iterator[RowBlock | None]:
        """See ``Rows``."""
        for part in self.parts:
            for block in part.blocks(skip):
                skip -= block is None
                yield block


@dataclass(frozen=True)
class ListedRows:
    """Blocks that are held already: of the user's own, or in a test."""

    listed: tuple[RowBlock, ...]

    def __iter__(self) -> Iterator[RowBlock]:
        return iter(self.listed)

    def blocks(self, skip: int = 0) -> Iterator[RowBlock | None]:
        """See ``Rows``."""
        for place, block in enumerate(self.listed):
            yield None if place < skip else block

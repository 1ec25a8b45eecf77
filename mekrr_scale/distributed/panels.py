"""Symmetric matrices too large for one rank: block columns dealt to the ranks in turn.

Each panel is the part of some columns from the diagonal down. Panel k lies on rank k mod R, so that
the work of a right-looking Cholesky factorisation, which shrinks to the right, stays balanced
(block-cyclic layout in one dimension, as in ScaLAPACK). Every panel sees the same operations for any
number of ranks: results are equal bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.distributed.group import ALONE, Group
from mekrr_scale.distributed.sums import ExactSum
from mekrr_scale.errors import SolverError

WIDTH = 512  # columns of a panel
_ROWS = 1024  # exchanged at once
_BINS = 3  # a Gram matrix to 2^-56 of its largest element


def bounds_of(size: int, width: int = WIDTH) -> list[tuple[int, int]]:
    """First and last column of each panel."""
    return [(a, min(a + width, size)) for a in range(0, size, width)]


@dataclass(frozen=True)
class PanelMatrix:
    """The lower part of a symmetric matrix, or a lower triangular factor."""

    size: int
    panels: dict[int, Float64[Tensor, "below columns"]]  # of this rank, by number
    group: Group = ALONE
    width: int = WIDTH
    device: torch.device | str = "cpu"  # of the panels; a rank without one takes part in what the others send

    @property
    def bounds(self) -> list[tuple[int, int]]:
        return bounds_of(self.size, self.width)

    def copy(self) -> PanelMatrix:
        panels = {k: p.clone() for k, p in self.panels.items()}
        return PanelMatrix(self.size, panels, self.group, self.width, self.device)

    def add(self, other: PanelMatrix, factor: float = 1.0) -> PanelMatrix:
        """Add a multiple of another matrix of the same layout, in place."""
        for k, panel in self.panels.items():
            panel.add_(other.panels[k], alpha=factor)
        return self

    def shift(self, ridge: float) -> PanelMatrix:
        """Add a multiple of the identity, in place."""
        for panel in self.panels.values():
            panel.diagonal().add_(ridge)
        return self

    def product(self, vectors: Float64[Tensor, "size k"]) -> Float64[Tensor, "size k"]:
        """The symmetric matrix times vectors, the same on all ranks."""
        total = ExactSum(*vectors.shape, device=vectors.device)
        for k, panel in self.panels.items():
            a, b = self.bounds[k]
            part = torch.zeros_like(vectors)
            part[a:] = panel @ vectors[a:b]
            part[a:b] += panel[b - a :].T @ vectors[b:]
            total.add(part)
        return total.value(self.group)

    def cholesky(self) -> PanelMatrix:
        """The factor L of the matrix L L'; takes the place of the matrix.

        Raises:
            SolverError: the matrix is not positive definite.
        """
        bounds = self.bounds
        for k, (a, b) in enumerate(bounds):
            owner = k % self.group.size
            failed = torch.zeros(1, dtype=torch.int64)
            if owner == self.group.rank:
                panel = self.panels[k]
                corner, info = torch.linalg.cholesky_ex(panel[: b - a])
                failed[0] = int(info)
                panel[: b - a] = corner
                if not int(info):
                    below = panel[b - a :]
                    below.copy_(torch.linalg.solve_triangular(corner, below.T, upper=False).T)
            if int(self.group.broadcast(failed, owner)):
                raise SolverError("the matrix is not positive definite in floating point; increase the ridge")
            later = [j for j in self.panels if j > k]
            if self.group.size > 1:
                shape = (self.size - a, b - a)
                empty = torch.empty(*shape, dtype=torch.float64, device=self.device)
                column = self.panels[k] if owner == self.group.rank else empty
                column = self.group.broadcast(column.contiguous(), owner)
            else:
                column = self.panels[k]
            for j in later:
                c, d = bounds[j]
                self.panels[j].addmm_(column[c - a :], column[c - a : d - a].T, alpha=-1.0)
        return self

    def solve(self, right: Float64[Tensor, "size k"]) -> Float64[Tensor, "size k"]:
        """(L L')^-1 right, for a factor; the same on all ranks."""
        bounds = self.bounds
        x = right.clone()
        for k, (a, b) in enumerate(bounds):
            owner = k % self.group.size
            if owner == self.group.rank:
                panel = self.panels[k]
                x[a:b] = torch.linalg.solve_triangular(panel[: b - a], x[a:b], upper=False)
                x[b:] -= panel[b - a :] @ x[a:b]
            if self.group.size > 1:
                x[a:] = self.group.broadcast(x[a:].contiguous(), owner)
        for k, (a, b) in reversed(list(enumerate(bounds))):
            owner = k % self.group.size
            if owner == self.group.rank:
                panel = self.panels[k]
                moved = x[a:b] - panel[b - a :].T @ x[b:]
                x[a:b] = torch.linalg.solve_triangular(panel[: b - a].T, moved, upper=True)
            if self.group.size > 1:
                x[a:b] = self.group.broadcast(x[a:b].contiguous(), owner)
        return x


class PanelGram:
    """Phi' Phi of rows that lie on different ranks, in panels.

    ``add`` and ``finish`` are collective: every rank calls ``add`` for each of its blocks, then
    ``finish``, which goes on until the others are done too.
    """

    def __init__(self, size: int, group: Group = ALONE, width: int = WIDTH, device: torch.device | str = "cpu") -> None:
        self.size, self.group, self.width, self.device = size, group, width, device
        own = [(k, b) for k, b in enumerate(bounds_of(size, width)) if k % group.size == group.rank]
        self._sums = {k: ExactSum(size - a, b - a, bins=_BINS, device=device) for k, (a, b) in own}

    def add(self, rows: Float64[Tensor, "rows size"], more: bool = True) -> bool:
        """Add rows (times the roots of their weights); whether any rank has more to come."""
        sizes = self.group.gather(torch.tensor([[len(rows), int(more)]]))
        for source, size in enumerate(sizes):
            for start in range(0, int(size[0, 0]), _ROWS):
                count = min(_ROWS, int(size[0, 0]) - start)
                mine = source == self.group.rank
                part = rows[start : start + count] if mine else rows.new_empty(count, self.size)
                self._update(self.group.broadcast(part.contiguous(), source))
        return any(int(size[0, 1]) for size in sizes)

    def finish(self) -> PanelMatrix:
        """The matrix; the sums are given up."""
        nothing = torch.zeros(0, self.size, dtype=torch.float64, device=self.device)
        while self.add(nothing, more=False):
            pass
        panels = {}
        for k in sorted(self._sums):
            panels[k] = self._sums.pop(k).value()
        return PanelMatrix(self.size, panels, self.group, self.width, self.device)

    def _update(self, rows: Tensor) -> None:
        for k, total in self._sums.items():
            a, b = bounds_of(self.size, self.width)[k]
            total.add(rows[:, a:].T @ rows[:, a:b])


def panels_of(matrix: Float64[Tensor, "n n"], group: Group = ALONE, width: int = WIDTH) -> PanelMatrix:
    """The panels of a matrix that every rank holds."""
    bounds: Sequence[tuple[int, int]] = bounds_of(len(matrix), width)
    own = {k: matrix[a:, a:b].clone() for k, (a, b) in enumerate(bounds) if k % group.size == group.rank}
    return PanelMatrix(len(matrix), own, group, width, matrix.device)

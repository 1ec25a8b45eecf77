"""Sums over the rows from which every ridge, weight and fold follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import RowBlock, RowKind
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.whitening import Whitening


@dataclass
class Moments:
    """Sums over the rows of one kind and fold; r is the target, N the species counts.

    Rows are kept as they are (times the root of their weight) while they are fewer than half
    the rank: a Gram matrix of so few is singular, and the rows themselves are shorter.
    """

    target: Float64[Tensor, " rank"]  # Phi' W r
    counts: Float64[Tensor, "rank species"]  # Phi' W N
    target_square: float = 0.0  # r' W r
    target_counts: Tensor = field(default_factory=lambda: torch.zeros(0))  # N' W r
    counts_square: Tensor = field(default_factory=lambda: torch.zeros(0))  # N' W N
    share: float = 0.0  # what to divide by for a mean over structures
    rows: int = 0
    # unweighted, of total energies: what the composition baseline is refitted from
    plain_gram: Tensor = field(default_factory=lambda: torch.zeros(0))  # N' N
    plain_target: Tensor = field(default_factory=lambda: torch.zeros(0))  # N' r
    _summed: Tensor | None = None
    _kept: list[Tensor] = field(default_factory=list)

    @classmethod
    def zero(cls, rank: int, species: int) -> Moments:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64)

        return cls(
            zeros(rank), zeros(rank, species), 0.0, zeros(species), zeros(species, species),
            0.0, 0, zeros(species, species), zeros(species),
        )  # fmt: skip

    @property
    def factor(self) -> Float64[Tensor, "rows rank"] | None:
        """W^1/2 Phi, or None where there are too many rows to keep them."""
        if self._summed is not None:
            return None
        return torch.cat(self._kept) if self._kept else self.target.new_zeros(0, len(self.target))

    @property
    def gram(self) -> Float64[Tensor, "rank rank"]:
        """Phi' W Phi; rows that were kept are not any more."""
        self._flush()
        return self.target.new_zeros(len(self.target), len(self.target)) if self._summed is None else self._summed

    def add(self, phi: Tensor, block: RowBlock, chosen: Tensor) -> None:
        rows, r, w, scale = phi[chosen], block.target[chosen], block.weight[chosen], block.scale[chosen]
        if not len(r):
            return
        plain = block.counts[chosen]
        n = plain * scale[:, None]
        rooted = rows * w.sqrt()[:, None]
        self._kept.append(rooted)
        if sum(map(len, self._kept)) > len(self.target) // 2:
            self._flush()
        root = w.sqrt()
        self.target += rooted.T @ (root * r)
        self.counts += rooted.T @ (root[:, None] * n)
        self.target_square += float((w * r).dot(r))
        self.target_counts += n.T @ (w * r)
        self.counts_square += (n * w[:, None]).T @ n
        self.share += float(block.share[chosen].sum())
        self.rows += len(r)
        self.plain_gram += plain.T @ plain
        self.plain_target += plain.T @ (r / scale)

    def projected(self, basis: Float64[Tensor, "rank smaller"]) -> Moments:
        """The same sums for rows Phi P."""
        if not self.rows:
            return self
        factor = self.factor
        return replace(
            self,
            target=basis.T @ self.target,
            counts=basis.T @ self.counts,
            _summed=basis.T @ self.gram @ basis if factor is None else None,
            _kept=[] if factor is None else [factor @ basis],
        )

    def squared_error(self, beta: Tensor, shift: Tensor) -> Tensor:
        """Weighted squared errors of solutions [rank, k] after a shift of the baseline."""
        moved = self.target - self.counts @ shift
        square = self.target_square - 2 * shift @ self.target_counts + shift @ self.counts_square @ shift
        factor = self.factor
        if factor is None:
            fitted, size = ((self.gram @ beta) * beta).sum(0), float(self.gram.norm())
        else:
            fitted, size = (factor @ beta).square().sum(0), float(factor.square().sum())
        error = fitted - 2 * moved @ beta + square
        # what rounding leaves of the cancellation: an error below it is not known, and must not win
        unknown = 4 * torch.finfo(torch.float64).eps * size * beta.square().sum(0)
        return torch.maximum(error, unknown)

    def _flush(self) -> None:
        if not self._kept:
            return
        rows = torch.cat(self._kept)
        self._kept = []
        if self._summed is None:
            self._summed = rows.T @ rows
        else:
            self._summed.addmm_(rows.T, rows)


def accumulate(
    rows: Iterable[RowBlock],
    whitening: Whitening,
    n_species: int,
    n_folds: int,
    progress: Callable[[int], None] = lambda rows: None,
) -> dict[RowKind, list[Moments]]:
    """Sums over all rows in one pass, by kind and fold; memory does not depend on the rows.

    Raises:
        SolverError: no rows, or rows that are not finite.
    """
    moments = {kind: [Moments.zero(0, n_species) for _ in range(n_folds)] for kind in RowKind}
    for block in rows:
        phi = whitening.rows(block.rows)
        if not bool(torch.isfinite(phi.sum())):
            raise SolverError("a row of the design matrix is not finite; check the features (`store verify`)")
        check_folds(block, n_folds)
        for fold in range(n_folds):
            part = moments[block.kind][fold]
            if len(part.target) == 0:
                part = moments[block.kind][fold] = Moments.zero(whitening.rank, n_species)
            part.add(phi, block, block.fold == fold if n_folds > 1 else torch.ones_like(block.fold, dtype=torch.bool))
        progress(len(block.target))
    if not any(part.rows for parts in moments.values() for part in parts):
        raise SolverError("there is not a single row to fit; no structure in the store has a usable label")
    return moments


def check_folds(block: RowBlock, n_folds: int) -> None:
    """Refuse rows whose folds are not those of the solve.

    Raises:
        ConfigError: more folds in the rows than asked for.
    """
    if n_folds > 1 and len(block.fold) and int(block.fold.max()) >= n_folds:
        raise ConfigError(f"rows of fold {int(block.fold.max())} in a solve with {n_folds} folds; assign them alike")

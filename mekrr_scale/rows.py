"""Rows of the least-squares problem, streamed from feature batches.

    min_c  sum_r w_r (y_r - phi_r c)^2 + lambda c' K_ZZ c

Energy rows: phi = K(x, Z). For ``sum`` y is the energy less its baseline and w = 1/n^2, so
errors count per atom; for ``mean`` both are per atom already and w = 1. Derivative rows: the
derivative of phi along each stored direction, y = -u.F or V sigma:eps less that of the prior
(over n for ``mean``). A force row has w = 1/K, K the structure's number of displacement rows: if
these are orthonormal, the K rows estimate the mean squared force component. A stress row has
w = 1/(K n^2), K its number of strain rows: errors of the virial per atom. The weights w_E, w_F,
w_S multiply these later, so that one pass serves every combination of them. Where stores have
weights of their own (source and target of a transfer), these multiply the rows and their shares
in the cross-validated means alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, RowBlock, RowKind
from mekrr_scale.baselines import Baseline
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.draws import draw
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import Landmarks, SetKernel

_EXACT_FOLDS = 2_000_000  # above this many structures folds come from the hash alone


@dataclass(frozen=True)
class Folds:
    """Parts for cross-validation; a trajectory, and copies of a structure, stay together."""

    count: int
    keys: NDArray[np.uint64]  # sorted; empty where folds come from the hash alone
    parts: NDArray[np.int64]

    def of(self, batch: FeatureBatch) -> Int64[Tensor, " structures"]:
        """The fold of each structure of a batch.

        Raises:
            ConfigError: a structure that the folds were not made of.
        """
        keys = _fold_keys(batch)
        if len(self.keys) == 0:
            return torch.from_numpy((keys % np.uint64(self.count)).astype(np.int64))
        places = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        if not np.array_equal(self.keys[places], keys):
            raise ConfigError("a structure is not among those that the folds were made of; give the same data to both")
        return torch.from_numpy(self.parts[places])


def assign_folds(batches: Iterable[FeatureBatch], count: int, group: Group = ALONE, exact: bool = True) -> Folds:
    """Folds of nearly equal size that do not depend on the order of the structures.

    Args:
        batches: of this rank.
        exact: look at all structures first. Without, a structure's fold comes from its content alone,
            whatever else there is: folds of data that will grow.

    Raises:
        ConfigError: fewer than two folds, or fewer structures (trajectories) than folds.
    """
    if count < 2:
        raise ConfigError(f"{count} folds asked for; cross-validation needs at least 2")
    by_hash = Folds(count, np.empty(0, np.uint64), np.empty(0, np.int64))
    if not exact:
        return by_hash
    found: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
    total = 0
    for batch in batches:
        total += batch.n_structures
        if total <= _EXACT_FOLDS:
            found.append(_fold_keys(batch))
    if int(group.sum(torch.tensor(total))) > _EXACT_FOLDS:
        return by_hash
    own = torch.from_numpy(np.unique(np.concatenate(found)).astype(np.int64))
    keys = np.unique(group.joined(own).numpy().astype(np.uint64))
    if len(keys) < count:
        raise ConfigError(
            f"{count} folds asked for, but the data hold {len(keys)} different structures or trajectories; "
            "use fewer folds (trajectories stay together if --group-key named them at extraction)"
        )
    return Folds(count, keys, np.arange(len(keys)) % count)


def _fold_keys(batch: FeatureBatch) -> NDArray[np.uint64]:
    """Pseudo-random numbers of the structures, equal within a group."""
    ids = batch.ids.numpy().astype(np.uint64)
    groups = batch.groups.numpy()
    keys = np.where(groups >= 0, groups.astype(np.uint64) * np.uint64(2) + np.uint64(1), ids * np.uint64(2))
    return draw(keys, -1)


@runtime_checkable
class RowSource(Protocol):
    """Rows that can be passed over again and again, also from the middle on."""

    def __iter__(self) -> Iterator[RowBlock]: ...

    def blocks(self, skip: int = 0) -> Iterator[RowBlock | None]:
        """All blocks in order, with None in place of the first ``skip``, which cost nothing."""


@dataclass(frozen=True)
class EnergyRows:
    """One row for each structure with a known energy."""

    batches: Iterable[FeatureBatch]
    kernel: SetKernel
    landmarks: Landmarks
    baseline: Baseline
    folds: Folds | None = None
    dtype: torch.dtype = torch.float64

    def __iter__(self) -> Iterator[RowBlock]:
        return (block for block in self.blocks() if block is not None)

    def blocks(self, skip: int = 0) -> Iterator[RowBlock | None]:
        """See ``RowSource``."""
        for batch in self.batches:
            known = ~batch.energy.isnan()
            if not bool(known.any()):
                continue
            if skip > 0:
                skip -= 1
                yield None
                continue
            matrix = self.kernel.rows(batch, self.landmarks, self.dtype)
            size = batch.n_atoms.double()
            per_atom = self.kernel.reduce == "mean"
            scale = 1.0 / size if per_atom else torch.ones_like(size)
            yield RowBlock(
                kind=RowKind.ENERGY,
                matrix=matrix if bool(known.all()) else matrix[known],
                target=(self.baseline.residual(batch) * scale)[known],
                weight=batch.importance * (torch.ones_like(size) if per_atom else size.reciprocal().square())[known],
                share=torch.full_like(size, batch.importance)[known],
                counts=batch.counts(self.baseline.species).double()[known],
                scale=scale[known],
                fold=(self.folds.of(batch) if self.folds else torch.zeros(len(size), dtype=torch.int64))[known],
                key=batch.ids[known],
            )


@dataclass(frozen=True)
class DerivativeRows:
    """One row for each stored direction with a known label; forces and stresses apart."""

    batches: Iterable[FeatureBatch]
    kernel: SetKernel
    landmarks: Landmarks
    baseline: Baseline
    folds: Folds | None = None
    dtype: torch.dtype = torch.float32

    def __iter__(self) -> Iterator[RowBlock]:
        return (block for block in self.blocks() if block is not None)

    def blocks(self, skip: int = 0) -> Iterator[RowBlock | None]:
        """See ``RowSource``."""
        for batch in self.batches:
            labels = batch.directions
            if labels is None:
                continue
            known = {
                kind: (labels.kind == int(kind)) & ~labels.label.isnan() for kind in (RowKind.FORCE, RowKind.STRESS)
            }
            known = {kind: chosen for kind, chosen in known.items() if bool(chosen.any())}
            skipped = min(skip, len(known))
            skip -= skipped
            yield from [None] * skipped
            if skipped < len(known):
                matrix = self.kernel.derivative_rows(batch, self.landmarks, self.dtype)
                for kind, chosen in islice(known.items(), skipped, None):
                    yield self._block(batch, matrix, kind, chosen)

    def _block(self, batch: FeatureBatch, matrix: Tensor, kind: RowKind, chosen: Tensor) -> RowBlock:
        labels = batch.directions
        assert labels is not None
        owner = torch.repeat_interleave(torch.arange(batch.n_structures), labels.ptr.diff())[chosen]
        place = chosen.nonzero()[:, 0] - labels.ptr[:-1][owner]
        size = batch.n_atoms.double()[owner]
        target = labels.label[chosen]
        if self.baseline.prior:
            target = target - labels.prior[chosen]
            if bool(target.isnan().any()):
                raise ConfigError("the store holds no backbone forces; use baseline 'composition', or extract again")
        share = batch.importance / torch.bincount(owner, minlength=batch.n_structures).double()[owner]
        intensive = self.kernel.reduce == "mean"  # whose rows are those of ``sum`` over n
        scale = size.reciprocal() if intensive else torch.ones_like(size)
        per_atom = torch.ones_like(size) if kind == RowKind.FORCE else size.reciprocal()
        return RowBlock(
            kind=kind,
            matrix=matrix[chosen],
            target=target * scale,
            weight=share * (per_atom / scale).square(),
            share=share,
            counts=torch.zeros(len(target), len(self.baseline.species), dtype=torch.float64),
            scale=scale,
            fold=(self.folds.of(batch)[owner] if self.folds else torch.zeros_like(owner)),
            key=torch.from_numpy(draw((batch.ids[owner] + place).numpy().astype(np.uint64), 0).astype(np.int64)),
        )


@dataclass(frozen=True)
class Rows:
    """Several kinds of rows, one after the other."""

    parts: tuple[RowSource, ...]

    def __iter__(self) -> Iterator[RowBlock]:
        return (block for block in self.blocks() if block is not None)

    def blocks(self, skip: int = 0) -> Iterator[RowBlock | None]:
        """See ``RowSource``."""
        for part in self.parts:
            for block in part.blocks(skip):
                skip -= block is None
                yield block

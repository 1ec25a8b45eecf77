"""Rows of stored features: energies, and derivatives along stored directions.

    min_c  sum_r w_r (y_r - phi_r c)^2 + lambda c' K_ZZ c

Energy rows: phi = K(x, Z). For ``sum`` y is the energy less its baseline and w = 1/n^2, so
errors count per atom; for ``mean`` both are per atom already and w = 1. Derivative rows: the
derivative of phi along each stored direction, y = -u.F or V sigma:eps less that of the prior
(over n for ``mean``). A force row has w = 1/K, K the structure's number of displacement rows: if
these are orthonormal, the K rows estimate the mean squared force component. A stress row has
w = 1/(K n^2), K its number of strain rows: errors of the virial per atom. The weights of the
kinds multiply these later, so that one pass serves every combination of them. Where stores
(source and target of a transfer), configuration types or single structures have weights of their
own, these multiply the rows, their shares in the cross-validated means and their part in the
composition baseline alike: a structure of weight 2 counts like two of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from mekrr_scale.arrays import DERIVATIVES, FeatureBatch, RowKind, draw
from mekrr_scale.errors import ConfigError
from mekrr_scale.regression.blocks import RowBlock, Rows
from mekrr_scale.regression.source import Source
from mekrr_scale.regression.terms import RowTerms

_PER_ATOM = frozenset({RowKind.STRESS, RowKind.ELASTIC})  # derivative labels that grow with the structure


def stored_rows(problem: RowTerms, source: Source, kinds: frozenset[RowKind]) -> Iterator[Rows]:
    """What a source's batches give: rows of structures, kind by kind, then those along directions.

    Each takes a pass of its own: a kind that few fits weigh is left out where no weight of the problem is above zero.
    """
    if RowKind.ENERGY in kinds:
        yield EnergyRows(source.energies, problem)
    if kinds & DERIVATIVES and source.moved is not None:
        yield DerivativeRows(source.moved, problem, kinds & DERIVATIVES)


@dataclass(frozen=True)
class EnergyRows:
    """One row for each structure with a known energy."""

    batches: Iterable[FeatureBatch]
    problem: RowTerms

    def __iter__(self) -> Iterator[RowBlock]:
        return (block for block in self.blocks() if block is not None)

    def blocks(self, skip: int = 0) -> Iterator[RowBlock | None]:
        """See ``Rows``."""
        for batch in self.batches:
            known = batch.with_energy
            if not bool(known.any()):
                continue
            if skip > 0:
                skip -= 1
                yield None
                continue
            yield self._block(batch, known)

    def _block(self, batch: FeatureBatch, known: Tensor) -> RowBlock:
        at = self.problem
        matrix = at.kernel.rows(batch, at.landmarks, at.precision.energy)
        scale = at.kernel.label_scale(batch.n_atoms)
        size = batch.n_atoms.double()
        weight = batch.weight(RowKind.ENERGY)
        return RowBlock(
            kind=RowKind.ENERGY,
            matrix=matrix if bool(known.all()) else matrix[known],
            target=(at.baseline.residual(batch) * scale)[known],
            weight=(weight * (at.kernel.energy_scale(batch.n_atoms) / size).square())[known],
            share=weight[known],
            counts=batch.counts(at.baseline.species).double()[known],
            scale=scale[known],
            fold=at.fold_of(batch)[known],
            key=batch.ids[known],
        )


@dataclass(frozen=True)
class DerivativeRows:
    """One row for each stored direction with a known label; the kinds apart."""

    batches: Iterable[FeatureBatch]
    problem: RowTerms
    kinds: frozenset[RowKind]

    def __iter__(self) -> Iterator[RowBlock]:
        return (block for block in self.blocks() if block is not None)

    def blocks(self, skip: int = 0) -> Iterator[RowBlock | None]:
        """See ``Rows``."""
        for batch in self.batches:
            labels = batch.directions
            if labels is None:
                continue
            known = {kind: batch.along(kind) for kind in sorted(self.kinds)}
            known = {kind: chosen for kind, chosen in known.items() if bool(chosen.any())}
            skipped = min(skip, len(known))
            skip -= skipped
            yield from [None] * skipped
            if skipped < len(known):
                at = self.problem
                precision = torch.float64 if RowKind.ELASTIC in known else at.precision.derivative  # slopes cancel
                matrix = at.kernel.derivative_rows(batch, at.landmarks, precision)
                for kind, chosen in islice(known.items(), skipped, None):
                    yield self._block(batch, matrix, kind, chosen)

    def _block(self, batch: FeatureBatch, matrix: Tensor, kind: RowKind, chosen: Tensor) -> RowBlock:
        labels, at = batch.directions, self.problem
        assert labels is not None
        owner = batch.owner[chosen]
        place = chosen.nonzero()[:, 0] - labels.ptr[:-1][owner]
        size = batch.n_atoms.double()[owner]
        target = labels.label[chosen]
        if at.baseline.prior:
            target = target - labels.prior[chosen]
            if bool(target.isnan().any()):
                raise ConfigError("the store holds no backbone forces; use baseline 'composition', or extract again")
        share = (batch.weight(kind) / torch.bincount(owner, minlength=batch.n_structures))[owner]
        scale = at.kernel.label_scale(batch.n_atoms)[owner]
        per_atom = size.reciprocal() if kind in _PER_ATOM else torch.ones_like(size)
        return RowBlock(
            kind=kind,
            matrix=matrix[chosen],
            target=target * scale,
            weight=share * (per_atom / scale).square(),
            share=share,
            counts=torch.zeros(len(target), len(at.baseline.species), dtype=torch.float64),
            scale=scale,
            fold=at.fold_of(batch)[owner],
            key=torch.from_numpy(draw((batch.ids[owner] + place).numpy().astype(np.uint64), 0).astype(np.int64)),
        )

"""Prior variances: the diagonal of the set kernel and of its second derivatives, structure by structure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels.atom import AtomKernel
from mekrr_scale.kernels.channels import Channels
from mekrr_scale.kernels.transforms import Transform

PAIRS = 2**24  # numbers of one array of pairs (128 MB), which bounds the memory of large structures


@dataclass(frozen=True)
class _Structure:
    features: Float64[Tensor, "atoms dim"]  # transformed; about their mean where only distances count
    table: Float64[Tensor, "species species"]  # weight of each pair in K(x, x)
    place: Int64[Tensor, " atoms"]  # of each atom's species in the table

    def weights(self, a: int, b: int) -> Float64[Tensor, "rows atoms"]:
        """Of the pairs of atoms [a, b) with all."""
        return self.table[self.place[a:b]][:, self.place]


def _tiles(atoms: int) -> Iterator[tuple[int, int]]:
    """Ranges of atoms whose pairs with all others are held at once."""
    rows = max(1, PAIRS // max(atoms, 1))
    return ((a, min(a + rows, atoms)) for a in range(0, atoms, rows))


@dataclass(frozen=True)
class PriorVariances:
    """Of a set kernel's rows, before anything is learned."""

    atom: AtomKernel
    channels: Channels
    transform: Transform

    def structures(
        self, batch: FeatureBatch, chosen: Bool[Tensor, " structures"] | None = None
    ) -> Float64[Tensor, " structures"]:
        """As ``SetKernel.diagonal``."""
        asked = torch.ones(batch.n_structures, dtype=torch.bool) if chosen is None else chosen
        found = self._single_atoms(batch, asked)
        for i in (asked & (batch.n_atoms > 1)).nonzero()[:, 0].tolist():
            atoms = self._structure(batch, i)
            for a, b in _tiles(len(atoms.features)):
                gram = self.atom.gram(atoms.features[a:b], atoms.features)
                found[i] += (gram * atoms.weights(a, b)).sum()
        return found

    def _single_atoms(self, batch: FeatureBatch, asked: Bool[Tensor, " structures"]) -> Float64[Tensor, " structures"]:
        """K(x, x) of structures of one atom, by formula: what calibration asks for by the thousand."""
        found = torch.zeros(batch.n_structures, dtype=torch.float64)
        for run in batch.runs:
            counts = run.ptr.diff()
            here = asked & (batch.n_atoms == 1) & (counts == 1)
            if not bool(here.any()):
                continue
            features = self.transform.apply(run.z, run.features[here.repeat_interleave(counts)], torch.float64)
            weight = torch.zeros(batch.n_structures, dtype=torch.float64)
            for channel in self.channels.names:
                own = self.channels.weight(channel, run, batch.n_atoms)
                weight += own * float(self.channels.table(channel, [run.z], [run.z])) * own
            found[here] = self.atom.itself(features) * weight[here]
        return found

    def directions(
        self, batch: FeatureBatch, chosen: Bool[Tensor, " structures"] | None = None, chunk: int = 64
    ) -> Float64[Tensor, " directions"]:
        """As ``SetKernel.derivative_diagonal``."""
        labels = batch.directions
        if labels is None or any(run.tangents is None for run in batch.runs):
            raise ConfigError("the store holds no tangents; extract again with --derivatives")
        found = torch.zeros(len(labels.label), dtype=torch.float64)
        for i in range(batch.n_structures):
            first, last = int(labels.ptr[i]), int(labels.ptr[i + 1])
            if first == last or not (chosen is None or bool(chosen[i])):
                continue
            atoms = self._structure(batch, i)
            tangents = self._structure_tangents(batch, i)
            for a, b in _tiles(len(atoms.features)):
                self._tile(atoms, tangents, a, b, chunk, found[first:last])
        return found

    def _tile(
        self,
        atoms: _Structure,
        tangents: Float64[Tensor, "directions atoms dim"],
        a: int,
        b: int,
        chunk: int,
        found: Float64[Tensor, " directions"],
    ) -> None:
        """Add what the pairs of atoms [a, b) with all others give to every direction."""
        left, right = self.atom.left(atoms.features[a:b]), self.atom.right(atoms.features)
        t, weights = left @ right.T, atoms.weights(a, b)
        slope, curvature = self.atom.slope(t) * weights, self.atom.curvature(t) * weights
        chunk = max(1, min(chunk, PAIRS // t.numel()))
        for i in range(0, len(tangents), chunk):
            moved = tangents[i : i + chunk]
            dleft = self.atom.left_tangent(atoms.features[a:b].expand_as(moved[:, a:b]), moved[:, a:b])
            dright = self.atom.right_tangent(atoms.features.expand_as(moved), moved)
            bend = ((dleft @ right.T) * (left @ dright.mT) * curvature).sum((1, 2))
            found[i : i + chunk] += bend + ((dleft @ dright.mT) * slope).sum((1, 2))

    def _structure(self, batch: FeatureBatch, i: int) -> _Structure:
        """One structure's atoms, by species, and what the weights of their pairs are made of."""
        runs = [run for run in batch.runs if run.ptr[i + 1] > run.ptr[i]]
        spans = [slice(int(run.ptr[i]), int(run.ptr[i + 1])) for run in runs]
        counts = torch.tensor([span.stop - span.start for span in spans], dtype=torch.int64)
        parts = [
            self.transform.apply(run.z, run.features[span], torch.float64)
            for run, span in zip(runs, spans, strict=True)
        ]
        features = torch.cat(parts)
        if self.atom.stationary:
            features = features - features.mean(0)
        species = [run.z for run in runs]
        table = torch.zeros(len(runs), len(runs), dtype=torch.float64)
        for channel in self.channels.names:
            own = torch.cat([self.channels.weight(channel, run, batch.n_atoms)[i : i + 1] for run in runs])
            table += own[:, None] * self.channels.table(channel, species, species) * own
        return _Structure(features, table, torch.repeat_interleave(torch.arange(len(runs)), counts))

    def _structure_tangents(self, batch: FeatureBatch, i: int) -> Float64[Tensor, "directions atoms dim"]:
        """Transformed tangents of one structure's atoms, in the order of ``_structure``."""
        parts = []
        for run in batch.runs:
            count = int(run.ptr[i + 1] - run.ptr[i])
            if count and run.tangents is not None:
                rows = run.tangents.features[run.tangents.ptr[i] : run.tangents.ptr[i + 1]]
                parts.append(self.transform.apply_tangent(run.z, rows, torch.float64).unflatten(0, (-1, count)))
        return torch.cat(parts, 1)

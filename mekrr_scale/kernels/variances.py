"""Prior variances: the diagonal of the set kernel and of its second derivatives, structure by structure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels.atom import AtomKernel
from mekrr_scale.kernels.channels import Channels
from mekrr_scale.kernels.transforms import Transform


@dataclass(frozen=True)
class _Structure:
    features: Float64[Tensor, "atoms dim"]  # transformed; about their mean where only distances count
    weights: Float64[Tensor, "atoms atoms"]  # of each pair in K(x, x)


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
        found = torch.zeros(batch.n_structures, dtype=torch.float64)
        for i in range(batch.n_structures):
            if not (chosen is None or bool(chosen[i])):
                continue
            atoms = self._structure(batch, i)
            gram = self.atom.gram(atoms.features, atoms.features)
            found[i] = (gram * atoms.weights).sum()
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
            left, right = self.atom.left(atoms.features), self.atom.right(atoms.features)
            t = left @ right.T
            slope, curvature = self.atom.slope(t) * atoms.weights, self.atom.curvature(t) * atoms.weights
            tangents = self._structure_tangents(batch, i)
            for a in range(0, last - first, chunk):
                moved = tangents[a : a + chunk]
                dleft = self.atom.left_tangent(atoms.features.expand_as(moved), moved)
                dright = self.atom.right_tangent(atoms.features.expand_as(moved), moved)
                bend = ((dleft @ right.T) * (left @ dright.mT) * curvature).sum((1, 2))
                found[first + a : first + a + len(moved)] = bend + ((dleft @ dright.mT) * slope).sum((1, 2))
        return found

    def _structure(self, batch: FeatureBatch, i: int) -> _Structure:
        """One structure's atoms, by species, and the weights of their pairs."""
        runs = [run for run in batch.runs if run.ptr[i + 1] > run.ptr[i]]
        spans = [slice(int(run.ptr[i]), int(run.ptr[i + 1])) for run in runs]
        counts = torch.tensor([span.stop - span.start for span in spans])
        parts = [
            self.transform.apply(run.z, run.features[span], torch.float64)
            for run, span in zip(runs, spans, strict=True)
        ]
        features = torch.cat(parts)
        if self.atom.stationary:
            features = features - features.mean(0)
        species = [run.z for run in runs]
        weights = torch.zeros(len(features), len(features), dtype=torch.float64)
        for channel in self.channels.names:
            own = torch.cat([self.channels.weight(channel, run, batch.n_atoms)[i : i + 1] for run in runs])
            table = own[:, None] * self.channels.table(channel, species, species) * own
            weights += table.repeat_interleave(counts, 0).repeat_interleave(counts, 1)
        return _Structure(features, weights)

    def _structure_tangents(self, batch: FeatureBatch, i: int) -> Float64[Tensor, "directions atoms dim"]:
        """Transformed tangents of one structure's atoms, in the order of ``_structure``."""
        parts = []
        for run in batch.runs:
            count = int(run.ptr[i + 1] - run.ptr[i])
            if count and run.tangents is not None:
                rows = run.tangents.features[run.tangents.ptr[i] : run.tangents.ptr[i + 1]]
                parts.append(self.transform.apply_tangent(run.z, rows, torch.float64).unflatten(0, (-1, count)))
        return torch.cat(parts, 1)

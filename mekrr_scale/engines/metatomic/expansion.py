"""The kernel part of a model as TorchScript: ``kernels.Head``, with derivatives by autograd.

One species after the other: its atoms meet the landmarks that they may meet, by one product of augmented vectors.
"""

from typing import no_type_check

import torch
from torch import Tensor, nn

from mekrr_scale.engines.metatomic.profiles import profile_of
from mekrr_scale.kernels import Channels
from mekrr_scale.models import Model


@no_type_check
class Similarities(nn.Module):
    """Kernel elements between atoms of one species, ``s`` in the order of the model's, and landmark atoms."""

    rows: Tensor  # (120,) int64 | the place of each element among the model's species; -1: none
    right: Tensor  # (augmented, landmark_atoms)
    shift: Tensor  # (dim,)
    mean: Tensor  # (species, dim)
    origin: Tensor  # (species, dim)
    deviation: Tensor  # (species, dim)
    axes_mean: Tensor  # (species, full)
    axes: Tensor  # (species, full, dim)

    def __init__(self, model: Model) -> None:
        super().__init__()
        kernel, species = model.kernel, list(model.species)
        prepared = kernel.prepare(model.landmarks, torch.float64)
        self.profile = profile_of(kernel.atom)
        self.stationary, self.scale = bool(kernel.atom.stationary), float(kernel.atom.scale)
        apart = kernel.mixing.separate
        columns = [prepared.bounds.get(z, (0, 0)) if apart else (0, prepared.right.shape[1]) for z in species]
        self.first, self.last = [a for a, _ in columns], [b for _, b in columns]
        rows = torch.full((120,), -1, dtype=torch.int64)
        rows[species] = torch.arange(len(species))
        places = [kernel.transform.place(z) for z in species]
        deviation, mean = kernel.transform.scale[places], kernel.transform.mean[places]
        axes = model.compression
        self.compressed = axes is not None
        at = [0] if axes is None else [axes.place(z) for z in species]
        self.register_buffer("rows", rows)
        self.register_buffer("right", prepared.right.clone())
        self.register_buffer("shift", prepared.shift.clone())
        self.register_buffer("mean", mean.clone())
        self.register_buffer("origin", mean + prepared.shift * deviation)
        self.register_buffer("deviation", deviation.clone())
        self.register_buffer("axes_mean", torch.zeros(1, 1) if axes is None else axes.mean[at].clone())
        self.register_buffer("axes", torch.zeros(1, 1, 1) if axes is None else axes.basis[at].clone())

    def species(self, numbers: Tensor) -> Tensor:
        """Which of the model's species atoms are of; -1: none."""
        return self.rows[numbers]

    def coordinates(self, features: Tensor, s: int) -> Tensor:
        """Along the axes of a compression, if there is one; in float64."""
        if self.compressed:
            reduced = (features.to(torch.float64) - self.axes_mean[s]) @ self.axes[s]
            return reduced.to(features.dtype).to(torch.float64)
        return features.to(torch.float64)

    def transformed(self, features: Tensor, s: int) -> Tensor:
        """Less the mean and over the deviation of the species."""
        return (self.coordinates(features, s) - self.mean[s]) / self.deviation[s]

    def left(self, x: Tensor) -> Tensor:
        """Augmented vectors of atoms, as in ``AtomKernel.left``."""
        scaled = x * self.scale
        if not self.stationary:
            return scaled
        return torch.cat([scaled, -0.5 * (scaled * scaled).sum(1, keepdim=True), torch.ones_like(scaled[:, :1])], 1)

    def pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """k of all pairs of transformed features, which are shifted near the origin if the kernel is stationary."""
        y = b * self.scale
        if self.stationary:
            y = torch.cat([y, torch.ones_like(y[:, :1]), -0.5 * (y * y).sum(1, keepdim=True)], 1)
        found: Tensor = self.profile(self.left(a) @ y.T)
        return found

    def itself(self, features: Tensor, s: int) -> Tensor:
        """k(h, h) of every atom."""
        t = torch.zeros(features.shape[0], dtype=torch.float64, device=features.device)
        if not self.stationary:
            x = self.transformed(features, s) * self.scale
            t = (x * x).sum(1)
        found: Tensor = self.profile(t)
        return found

    def forward(self, features: Tensor, s: int) -> Tensor:
        """Of atoms in rows and landmark atoms ``first[s]`` to ``last[s]`` in columns."""
        x = (self.coordinates(features, s) - self.origin[s]) / self.deviation[s]
        found: Tensor = self.profile(self.left(x) @ self.right[:, self.first[s] : self.last[s]])
        return found


@no_type_check
class Weights(nn.Module):
    """What atoms weigh in the channels of a set kernel: u(x, z) of ``Channels``."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.names = list(Channels(model.kernel.reduce, model.kernel.mixing).names)
        self.n_species = len(model.species)
        self.averaged = model.kernel.reduce == "mean"

    def counts(self, row: Tensor, owner: Tensor, n_systems: int) -> Tensor:
        """Atoms of each species in each system."""
        flat = torch.bincount(owner * self.n_species + row, minlength=n_systems * self.n_species)
        return flat.reshape(n_systems, self.n_species).to(torch.float64)

    def sizes(self, counts: Tensor) -> Tensor:
        """What rows times coefficients are multiplied with to be energies."""
        return counts.sum(1) if self.averaged else torch.ones_like(counts[:, 0])

    def forward(self, counts: Tensor, c: int, s: int) -> Tensor:
        """Of an atom of a species in each system."""
        if self.names[c] == "sum":
            return torch.ones_like(counts[:, 0])
        size = counts.sum(1) if self.names[c] == "pooled" else counts[:, s]
        return 1.0 / torch.clamp(size, min=1.0)


@no_type_check
class Expansion(nn.Module):
    """Energies of atoms from their features: the kernel's part and the references of the elements."""

    vectors: Tensor  # (channels, species, landmark_atoms) | eV
    references: Tensor  # (species,) | eV

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.similarities, self.weights = Similarities(model), Weights(model)
        self.n_species, self.n_channels = len(model.species), len(self.weights.names)
        channels = Channels(model.kernel.reduce, model.kernel.mixing)
        given = model.head.atom_coefficients
        tables = [
            channels.table(name, list(model.species), model.landmarks.species.tolist()) * given[c]
            for c, name in enumerate(channels.names)
        ]
        self.register_buffer("vectors", torch.stack(tables))
        self.register_buffer("references", model.baseline.energies.to(torch.float64).clone())

    def forward(self, features: Tensor, numbers: Tensor, owner: Tensor, n_systems: int) -> Tensor:
        row = self.similarities.species(numbers)
        counts = self.weights.counts(row, owner, n_systems)
        sizes = self.weights.sizes(counts)
        energies = self.references[row]
        for s in range(self.n_species):
            at = torch.nonzero(row == s)[:, 0]
            if at.shape[0] > 0:
                k = self.similarities(features[at], s)
                for c in range(self.n_channels):
                    vector = self.vectors[c, s, self.similarities.first[s] : self.similarities.last[s]]
                    weight = (self.weights(counts, c, s) * sizes)[owner[at]]
                    energies = energies.index_add(0, at, (k @ vector) * weight)
        return energies

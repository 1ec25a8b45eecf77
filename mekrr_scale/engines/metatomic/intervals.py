"""A model's posterior as TorchScript: calibrated 68 % half-widths of energies, as ``Potential.uncertainty``."""

from typing import no_type_check

import torch
from torch import Tensor, nn

from mekrr_scale.engines.metatomic.expansion import Similarities, Weights
from mekrr_scale.kernels import Channels
from mekrr_scale.models import Model, Posterior, Variances

_PAIRS = 2**24  # numbers of one array of pairs (128 MB)
_ROUNDING = 64 * torch.finfo(torch.float64).eps


@no_type_check
class NoIntervals(nn.Module):
    """Of a model without a posterior, which declares no such output."""

    def atoms(self, features: Tensor, numbers: Tensor) -> Tensor:
        raise ValueError("the model keeps no posterior to tell its uncertainty from")

    def forward(self, features: Tensor, numbers: Tensor, owner: Tensor, n_systems: int, chosen: Tensor) -> Tensor:
        raise ValueError("the model keeps no posterior to tell its uncertainty from")


@no_type_check
class Intervals(nn.Module):
    """Of systems, and of atoms by themselves."""

    columns: Tensor  # (channels, landmark_atoms) int64 | of the design matrix
    meeting: Tensor  # (channels, species, landmark_atoms) | weight of a kernel element in a column
    own: Tensor  # (channels, species, species)
    whitening: Tensor  # (columns, rank)
    posterior: Tensor  # (columns, rank)

    def __init__(self, model: Model, posterior: Posterior) -> None:
        super().__init__()
        self.similarities, self.weights = Similarities(model), Weights(model)
        self.n_species, self.n_channels = len(model.species), len(self.weights.names)
        self.pairs, self.rounding = _PAIRS, _ROUNDING
        self.factor, self.outside = posterior.energy.within_68, posterior.energy.outside_weight
        kernel, landmarks, species = model.kernel, model.landmarks, list(model.species)
        channels = Channels(kernel.reduce, kernel.mixing)
        self.n_columns = kernel.n_columns(landmarks)
        starts = [c * landmarks.n_sets if landmarks.singletons else 0 for c in range(self.n_channels)]
        columns = torch.stack([start + landmarks.owner for start in starts])
        # a row of ones in every column: the weight of each landmark atom in its set
        ones = kernel.atom_coefficients(landmarks, torch.ones(self.n_columns, dtype=torch.float64))
        meeting = [
            channels.table(name, species, landmarks.species.tolist()) * ones[c] for c, name in enumerate(channels.names)
        ]
        whitening = Variances(kernel, landmarks, posterior).whitening
        identity = torch.eye(whitening.rank, dtype=torch.float64)
        self.register_buffer("columns", columns)
        self.register_buffer("meeting", torch.stack(meeting))
        self.register_buffer("own", torch.stack([channels.table(name, species, species) for name in channels.names]))
        self.register_buffer("whitening", whitening.coefficients(identity))
        self.register_buffer("posterior", posterior.factor.clone())

    def half_widths(self, rows: Tensor, prior: Tensor) -> Tensor:
        outside = prior - ((rows @ self.whitening) ** 2).sum(1)
        outside = torch.maximum(outside, self.rounding * prior.abs())
        return self.factor * torch.sqrt(self.outside * outside + ((rows @ self.posterior) ** 2).sum(1))

    def atoms(self, features: Tensor, numbers: Tensor) -> Tensor:
        """Of the energies of environments: of structures made of one alone."""
        row = self.similarities.species(numbers)
        rows = torch.zeros(len(row), self.n_columns, dtype=torch.float64, device=features.device)
        prior = torch.zeros(len(row), dtype=torch.float64, device=features.device)
        for s in range(self.n_species):
            at = torch.nonzero(row == s)[:, 0]
            if at.shape[0] > 0:
                a, b = self.similarities.first[s], self.similarities.last[s]
                k = self.similarities(features[at], s)
                part = torch.zeros(at.shape[0], self.n_columns, dtype=torch.float64, device=features.device)
                for c in range(self.n_channels):
                    part = part.index_add(1, self.columns[c, a:b], k * self.meeting[c, s, a:b])
                rows[at] = part
                prior[at] = self.similarities.itself(features[at], s) * self.own[:, s, s].sum()
        return self.half_widths(rows, prior)

    def forward(self, features: Tensor, numbers: Tensor, owner: Tensor, n_systems: int, chosen: Tensor) -> Tensor:
        """Of the energies of the chosen atoms of each system."""
        row = self.similarities.species(numbers)
        counts = self.weights.counts(row, owner, n_systems)
        features, row, owner = features[chosen], row[chosen], owner[chosen]
        rows = torch.zeros(n_systems, self.n_columns, dtype=torch.float64, device=features.device)
        moved = torch.zeros(len(row), self.similarities.mean.shape[1], dtype=torch.float64, device=features.device)
        for s in range(self.n_species):
            at = torch.nonzero(row == s)[:, 0]
            if at.shape[0] > 0:
                a, b = self.similarities.first[s], self.similarities.last[s]
                k = self.similarities(features[at], s)
                sums = torch.zeros(n_systems, k.shape[1], dtype=torch.float64, device=features.device)
                sums = sums.index_add(0, owner[at], k)
                for c in range(self.n_channels):
                    weight = self.weights(counts, c, s)[:, None]
                    rows = rows.index_add(1, self.columns[c, a:b], sums * weight * self.meeting[c, s, a:b])
                moved[at] = self.similarities.transformed(features[at], s)
        prior = [self.prior(moved[owner == i], row[owner == i], counts[i : i + 1]) for i in range(n_systems)]
        return self.weights.sizes(counts) * self.half_widths(rows, torch.stack(prior))

    def prior(self, moved: Tensor, row: Tensor, counts: Tensor) -> Tensor:
        """K(x, x) of one system."""
        table = torch.zeros(self.n_species, self.n_species, dtype=torch.float64, device=moved.device)
        for c in range(self.n_channels):
            own = torch.stack([self.weights(counts, c, s)[0] for s in range(self.n_species)])
            table = table + own[:, None] * self.own[c] * own
        if self.similarities.stationary and len(row) > 0:
            moved = moved - moved.mean(0)
        found = torch.zeros([], dtype=torch.float64, device=moved.device)
        step = max(1, self.pairs // max(len(row), 1))
        for a in range(0, len(row), step):
            pairs = self.similarities.pairs(moved[a : a + step], moved)
            found = found + (pairs * table[row[a : a + step]][:, row]).sum()
        return found

"""The sets of atoms that a model is an expansion over."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mekrr_scale.arrays.batches import SpeciesRun, bounds
from mekrr_scale.errors import ConfigError


@dataclass(frozen=True)
class Landmarks:
    """The sets that a model is an expansion over; their atoms ordered by species, then by set."""

    features: Float[Tensor, "atoms dim"] = field(repr=False)  # as in the store, before any transform
    species: Int64[Tensor, " atoms"] = field(repr=False)  # atomic numbers, ascending
    owner: Int64[Tensor, " atoms"] = field(repr=False)  # the set of each atom
    n_sets: int

    def __post_init__(self) -> None:
        if self.n_sets == 0 or len(self.features) == 0:
            raise ConfigError("there are no landmarks; choose at least one")
        if bool((self.species.diff() < 0).any()):
            raise ConfigError("landmark atoms must be ordered by species")

    @property
    def singletons(self) -> bool:
        """Whether every set is a single atom, in the order of the atoms."""
        return self.n_sets == len(self.owner) and bool((self.owner == torch.arange(self.n_sets)).all())

    def on(self, device: torch.device | str) -> Landmarks:
        """The same with features on a device, where rows are then made; the rest stays in the host's memory."""
        return replace(self, features=self.features.to(device))

    def runs(self) -> tuple[SpeciesRun, ...]:
        """The landmark sets as structures of a batch."""
        runs = []
        for z in self.species.unique().tolist():
            chosen = self.species == z
            counts = torch.bincount(self.owner[chosen], minlength=self.n_sets)
            runs.append(SpeciesRun(z, self.features[chosen], bounds(counts)))
        return tuple(runs)


def fingerprint(landmarks: Landmarks) -> str:
    """A hash of the numbers in them."""
    return content_hash(landmarks.features, landmarks.species, landmarks.owner)


def content_hash(*tensors: Tensor) -> str:
    """A short hash of the bytes of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]

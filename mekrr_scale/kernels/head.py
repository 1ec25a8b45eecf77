"""The kernel part of a model: what landmarks and coefficients make of features.

One path for all that is predicted: energies of structures whose features are known, every atom's part
and its derivative by the atom's feature, and the landmarks that an atom's part comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, Landmarks, bounds, species_runs
from mekrr_scale.errors import ModelError
from mekrr_scale.kernels.prepared import Prepared, owners
from mekrr_scale.kernels.sets import SetKernel


@dataclass(frozen=True)
class Head:
    """E(x) = K(x, Z) c, times n for ``mean``; what does not depend on x is made once and kept.

    Raises:
        ModelError: as many coefficients as no expansion over these landmarks has.
    """

    kernel: SetKernel
    landmarks: Landmarks
    coefficients: Float64[Tensor, " columns"]

    def __post_init__(self) -> None:
        expected = self.kernel.n_columns(self.landmarks)
        if len(self.coefficients) != expected:
            raise ModelError(
                f"{len(self.coefficients)} coefficients for {expected} columns; they do not belong together"
            )

    def on(self, device: torch.device | str) -> Head:
        """The same on a device, where the kernel is then evaluated."""
        if torch.device(device) == self.coefficients.device:
            return self
        return Head(self.kernel, self.landmarks.on(device), self.coefficients.to(device))

    @cached_property
    def prepared(self) -> Prepared:
        """The landmarks, in float64."""
        return self.kernel.prepare(self.landmarks, torch.float64)

    @cached_property
    def atom_coefficients(self) -> Float64[Tensor, "channels landmark_atoms"]:
        """Coefficients of the landmarks' atoms, channel by channel."""
        return self.kernel.atom_coefficients(self.landmarks, self.coefficients)

    def energies(self, batch: FeatureBatch) -> Float64[Tensor, " structures"]:
        """The kernel's part of the energies of structures (eV)."""
        values = self.kernel.rows(batch, self.landmarks) @ self.coefficients
        return values.cpu() * self.kernel.energy_scale(batch.n_atoms)

    def atoms(
        self,
        features: Float[Tensor, "atoms dim"],
        numbers: Int[Tensor, " atoms"],
        owner: Int[Tensor, " atoms"],
        n_structures: int,
        gradient: bool = False,
    ) -> tuple[Float64[Tensor, " atoms"], Float64[Tensor, "atoms dim"] | None]:
        """The kernel's part of every atom's energy (eV) and, if asked for, its derivative by the atom's feature.

        Args:
            numbers: atomic number of each atom.
            owner: structure of each atom, ascending.

        Returns:
            Both where the landmarks are.
        """
        device = self.prepared.right.device
        n_atoms = torch.bincount(owner, minlength=n_structures)
        runs, places = species_runs(features, numbers, owner, n_structures)
        found = self.kernel.evaluate(runs, n_atoms, self.landmarks, self.atom_coefficients, gradient, self.prepared)
        scale = self.kernel.energy_scale(n_atoms)[owner].to(device)
        values = torch.zeros(len(owner), dtype=torch.float64, device=device)
        slopes = torch.zeros(features.shape, dtype=torch.float64, device=device) if gradient else None
        for place, (value, slope) in zip(places, found, strict=True):
            values[place] = value * scale[place]
            if slopes is not None and slope is not None:
                slopes[place] = slope * scale[place, None]
        return values, slopes

    def similarities(self, batch: FeatureBatch) -> Float64[Tensor, "atoms landmark_atoms"]:
        """B k(h_a, z_m) / sqrt(k(h_a, h_a) k(z_m, z_m)) of all atoms, structure by structure, and landmark atoms."""
        atom, landmarks, prepared = self.kernel.atom, self.landmarks, self.prepared
        device = prepared.right.device
        own = atom.profile((atom.left(prepared.features) * prepared.right.T).sum(1))
        present, counts = landmarks.species.unique_consecutive(return_counts=True)
        first = bounds(batch.n_atoms)[:-1]
        found = torch.zeros(int(batch.n_atoms.sum()), len(landmarks.features), dtype=torch.float64)
        for run, source in zip(batch.runs, batch.sources, strict=True):
            x = self.kernel.transform.apply(run.z, run.features.to(device), torch.float64) - prepared.shift
            itself = atom.profile((atom.left(x) * atom.right(x)).sum(1))
            table = self.kernel.mixing.table([run.z], present.tolist())[0].repeat_interleave(counts)
            values = atom.gram(x, prepared.features) * table.to(device)
            found[first[owners(run)] + source] = (values / (itself[:, None] * own).sqrt()).cpu()
        return found

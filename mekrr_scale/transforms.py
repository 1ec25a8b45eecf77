"""Centring and scaling of features, fitted on the training data and saved with the model.

A transform per species makes a different kernel wherever atoms of different species meet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch
from mekrr_scale.errors import ModelError

Standardize = Literal["none", "centre", "centre-per-species", "scale", "scale-per-species"]


@dataclass(frozen=True)
class Transform:
    """h -> (h - mean_z) / scale_z with vectors for each species z, or one pair for all (z = 0)."""

    species: tuple[int, ...]
    mean: Float64[Tensor, "species dim"]
    scale: Float64[Tensor, "species dim"]

    @classmethod
    def identity(cls, dim: int) -> Transform:
        return cls((0,), torch.zeros(1, dim, dtype=torch.float64), torch.ones(1, dim, dtype=torch.float64))

    def place(self, z: int) -> int:
        """The row of ``mean`` and ``scale`` for a species.

        Raises:
            ModelError: the species was not in the data that the transform was fitted on.
        """
        if self.species == (0,):
            return 0
        if z not in self.species:
            raise ModelError(
                f"species {z} is not among those the features were standardised on ({list(self.species)}); "
                "refit with structures that contain it"
            )
        return self.species.index(z)

    def apply(self, z: int, features: Float[Tensor, "atoms dim"], dtype: torch.dtype) -> Float[Tensor, "atoms dim"]:
        """Transformed features; computed in float64, returned in the given precision."""
        place = self.place(z)
        mean, scale = self.mean[place].to(features.device), self.scale[place].to(features.device)
        return ((features.double() - mean) / scale).to(dtype)

    def apply_tangent(
        self, z: int, tangents: Float[Tensor, "rows dim"], dtype: torch.dtype
    ) -> Float[Tensor, "rows dim"]:
        """The derivative of ``apply`` along tangents."""
        return tangents.to(dtype) / self.scale[self.place(z)].to(tangents.device, dtype)


def fit_transform(batches: Iterable[FeatureBatch], kind: Standardize) -> Transform:
    """Mean and standard deviation over the atoms of a data set, in one pass (Chan et al. 1983).

    Features that do not vary keep their scale.
    """
    moments: dict[int, tuple[int, Tensor, Tensor]] = {}
    for batch in batches:
        for run in batch.runs:
            if len(run.features) == 0:
                continue
            values = run.features.double()
            mean = values.mean(0)
            part = (len(values), mean, (values - mean).square().sum(0))
            key = run.z if kind.endswith("species") else 0
            moments[key] = _merged(moments[key], part) if key in moments else part
    if not moments:
        raise ModelError("there are no atoms to standardise features on; the store is empty")
    species = tuple(sorted(moments))
    means = torch.stack([moments[z][1] for z in species])
    if kind == "none":
        return Transform.identity(means.shape[1])
    deviation = torch.stack([(moments[z][2] / moments[z][0]).sqrt() for z in species])
    if kind.startswith("centre"):
        return Transform(species, means, torch.ones_like(means))
    flat = deviation < 1e-6 * deviation.amax(1, keepdim=True).clamp_min(1e-300)
    return Transform(species, means, torch.where(flat, torch.ones_like(deviation), deviation))


def _merged(a: tuple[int, Tensor, Tensor], b: tuple[int, Tensor, Tensor]) -> tuple[int, Tensor, Tensor]:
    count = a[0] + b[0]
    shift = b[1] - a[1]
    return count, a[1] + shift * (b[0] / count), a[2] + b[2] + shift.square() * (a[0] * b[0] / count)

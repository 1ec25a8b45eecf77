"""Centring and scaling of features, fitted on the training data and saved with the model.

A transform per species makes a different kernel wherever atoms of different species meet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mekrr_scale.arrays import N_ELEMENTS, Compression, FeatureBatch
from mekrr_scale.distributed import ALONE, ExactSum, Group
from mekrr_scale.errors import ConfigError, ModelError, require_known
from mekrr_scale.kernels.choices import Standardize

_SINGLE, _DOUBLE = 1e-6, 1e-9  # of a column that does not vary, relative to its size: some ulp
_SQUARES = 1e-7  # what a difference of squares leaves, likewise


@dataclass(frozen=True)
class Transform:
    """h -> (h - mean_z) / scale_z with vectors for each species z, or one pair for all (z = 0)."""

    species: tuple[int, ...]
    mean: Float64[Tensor, "species dim"] = field(repr=False)
    scale: Float64[Tensor, "species dim"] = field(repr=False)

    @classmethod
    def identity(cls, dim: int) -> Transform:
        return cls((0,), torch.zeros(1, dim, dtype=torch.float64), torch.ones(1, dim, dtype=torch.float64))

    def knows(self, z: int) -> bool:
        """Whether the transform can be applied to a species."""
        return self.species == (0,) or z in self.species

    def place(self, z: int) -> int:
        """The row of ``mean`` and ``scale`` for a species.

        Raises:
            ModelError: the species was not in the data that the transform was fitted on.
        """
        if self.species == (0,):
            return 0
        if not self.knows(z):
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


def fit_transform(
    batches: Iterable[FeatureBatch],
    kind: Standardize,
    group: Group = ALONE,
    origin: FeatureBatch | None = None,
    compression: Compression | None = None,
) -> Transform:
    """Mean and standard deviation over the atoms of a data set, in one pass; of weighed structures by their weights.

    Squares are summed about the mean of the first batch, so that little cancels (Chan, Golub,
    LeVeque 1983). Features that do not vary keep their scale: those whose deviation is a millionth of the
    largest one, or no more than rounding leaves of numbers of their size.

    Args:
        batches: of this rank; the result is the same on all of them.
        origin: the first batch of all; needed where there are several ranks.
        compression: what made coordinates of the features. Scaling then divides by what amounts to the deviations of
            the features' components; those of the coordinates would make all axes alike, the least important ones too.

    Raises:
        ModelError: no atoms.
        ConfigError: an unknown kind, or a scale that the compression's axes do not have.
    """
    require_known("there is no standardize", kind, get_args(Standardize))
    if compression is not None:
        _require_scale(kind, compression)
    first = next(iter(batches), None) if origin is None else origin
    if first is None:
        raise ModelError("there are no atoms to standardise features on; the store is empty")
    shift = torch.cat([run.features.double() for run in first.runs]).mean(0)
    dim = len(shift)
    if kind == "none":
        return Transform.identity(dim)
    rows = N_ELEMENTS if kind.endswith("species") else 1
    counted, sums, squares = ExactSum(rows), ExactSum(rows, dim), ExactSum(rows, dim)
    for batch in batches:
        count = torch.zeros(rows, dtype=torch.float64)
        total, square = torch.zeros(2, rows, dim, dtype=torch.float64)
        for run in batch.runs:
            place = run.z if rows > 1 else 0
            moved = run.features.double() - shift
            if batch.weights is not None:
                of_atoms = batch.largest_weight.repeat_interleave(run.ptr.diff())
                count[place] += of_atoms.sum()
                total[place] += of_atoms @ moved
                square[place] += of_atoms @ moved.square_()
                continue
            count[place] += len(moved)
            total[place] += moved.sum(0)
            square[place] += moved.square_().sum(0)
        counted.add(count)
        sums.add(total)
        squares.add(square)
    counts = counted.value(group)
    present = (counts > 0).nonzero()[:, 0]
    if not len(present):
        raise ModelError("there are no atoms to standardise features on; the store is empty")
    n = counts[present, None]
    mean, variance = sums.value(group)[present] / n, squares.value(group)[present] / n
    deviation = (variance - mean.square()).clamp_min(0.0).sqrt()
    means = mean + shift
    species = tuple(present.tolist())
    if kind.startswith("centre"):
        return Transform(species, means, torch.ones_like(means))
    if compression is not None:
        return Transform(species, means, compression.scale[[compression.place(z) for z in species]])
    flat = deviation < 1e-6 * deviation.amax(1, keepdim=True).clamp_min(1e-300)
    flat |= deviation < _rounding(means, mean, first)
    return Transform(species, means, torch.where(flat, torch.ones_like(deviation), deviation))


def _require_scale(kind: Standardize, compression: Compression) -> None:
    """Axes of each species are turned to the deviations of each species, common ones to those of all."""
    if kind == ("scale-per-species" if compression.common else "scale"):
        own, way = ("common", "scale") if compression.common else ("each species' own", "scale-per-species")
        raise ConfigError(
            f"standardize {kind!r} has no meaning along {own} axes; take {way!r} or 'centre-per-species', or extract "
            "without --compress"
        )


def _rounding(
    means: Float64[Tensor, "species dim"], shifted: Float64[Tensor, "species dim"], batch: FeatureBatch
) -> Float64[Tensor, "species dim"]:
    """Deviations that are nothing but rounding: of the features (a few ulp of a column, or of a typical one where
    the column is near zero), and of their squares about the common shift, whose difference loses half the digits."""
    single = any(run.features.dtype == torch.float32 for run in batch.runs)
    size = torch.maximum(means.abs(), 0.5 * means.abs().median(1, keepdim=True).values)
    return torch.maximum((_SINGLE if single else _DOUBLE) * size, _SQUARES * shifted.abs())

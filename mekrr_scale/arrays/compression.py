"""Fewer numbers for a feature: its coordinates along principal axes, of each species or of all together.

    t = P_z' (h - m_z),    P_z' P_z = 1,    dt/du = P_z' dh/du

Distances between atoms of one species are those of the features projected onto their axes: an isometry of what is
kept. Coordinates of two species along axes of their own cannot be compared, so such a basis serves kernels under which
species never meet (alpha = 1); a common basis, one m and one P, keeps distances between all atoms and serves every
mixing.

The axes are the leading eigenvectors of the sum of what features of a species vary (their covariance) and what their
tangents hold (their mean outer product), each over its trace, so that both count alike, whatever their units; for a
common basis species count alike too, and so does what their means differ by. Within the span the axes are turned so
that P_z' diag(1/s_z^2) P_z is diagonal, s_z being the deviations of the features' components: dividing components by
s_z, which ``scale`` asks for, is then dividing coordinates by ``scale``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mekrr_scale.arrays.batches import FeatureBatch
from mekrr_scale.arrays.landmarks import content_hash
from mekrr_scale.arrays.linear import eigh
from mekrr_scale.errors import ConfigError
from mekrr_scale.files import JSON

BasisKind = Literal["species", "common"]
_FLAT = 1e-6  # deviations below this part of the largest are rounding


@dataclass(frozen=True)
class Compression:
    """Axes that features are reduced to; part of the identity of a store and of a model.

    Row 0 of the arrays serves all species that have none of their own.
    """

    species: tuple[int, ...]  # of the rows; 0 first. (0,): a common basis
    mean: Float64[Tensor, "rows full"] = field(repr=False)
    basis: Float64[Tensor, "rows full dim"] = field(repr=False)  # orthonormal columns
    spread: Float64[Tensor, "rows full"] = field(repr=False)  # deviations of the features' components

    @property
    def common(self) -> bool:
        """Whether all species have the same axes."""
        return self.species == (0,)

    @property
    def full(self) -> int:
        """Numbers of a feature before."""
        return self.basis.shape[1]

    @property
    def dim(self) -> int:
        """And after."""
        return self.basis.shape[2]

    @property
    def hash(self) -> str:
        return content_hash(torch.tensor(self.species), self.mean, self.basis, self.spread)

    @property
    def document(self) -> Mapping[str, JSON]:
        """What a store's header says of it."""
        kind: BasisKind = "common" if self.common else "species"
        return {"basis": kind, "from": self.full, "hash": self.hash}

    @property
    def scale(self) -> Float64[Tensor, "rows dim"]:
        """What coordinates are divided by where the features' components would be divided by their deviations."""
        return 1.0 / (self.basis / self.spread[:, :, None]).square().sum(1).sqrt()

    def place(self, z: int) -> int:
        """The row of a species."""
        return self.species.index(z) if z in self.species else 0

    def apply(self, z: int, features: Float[Tensor, "atoms full"]) -> Float64[Tensor, "atoms dim"]:
        """Coordinates of features of one species, in float64."""
        at = self.place(z)
        return (features.double() - self.mean[at].to(features.device)) @ self.basis[at].to(features.device)

    def apply_tangent(self, z: int, tangents: Float[Tensor, "*rows full"]) -> Float64[Tensor, "*rows dim"]:
        """The derivative of ``apply`` along tangents."""
        return tangents.double() @ self.basis[self.place(z)].to(tangents.device)

    def restore(self, z: int, coordinates: Float[Tensor, "atoms dim"]) -> Float64[Tensor, "atoms full"]:
        """The features that the coordinates of one species stand for."""
        at = self.place(z)
        return coordinates.double() @ self.basis[at].T + self.mean[at]


class Moments:
    """What features and tangents of each species vary by, summed up part by part."""

    def __init__(self) -> None:
        self._sums: dict[int, _Sums] = {}

    def add(
        self, z: int, features: Float[Tensor, "atoms full"], tangents: Float[Tensor, "rows full"] | None = None
    ) -> None:
        """Add atoms of one species, with derivatives of their features."""
        if not len(features):
            return
        at = self._sums.setdefault(z, _Sums.about(features[0].double()))
        moved = features.double() - at.origin
        at.count += len(moved)
        at.total += moved.sum(0)
        at.square += moved.T @ moved
        if tangents is not None:
            rows = tangents.double()
            at.moved += rows.T @ rows

    def add_batch(self, batch: FeatureBatch) -> None:
        """Add the structures of a batch, with their tangents where it holds them."""
        for run in batch.runs:
            self.add(run.z, run.features, None if run.tangents is None else run.tangents.features)

    @property
    def atoms(self) -> int:
        """How many were added."""
        return sum(sums.count for sums in self._sums.values())

    @property
    def full(self) -> int:
        """Numbers of a feature.

        Raises:
            ConfigError: nothing was added.
        """
        if not self._sums:
            raise ConfigError("there are no atoms to find principal axes of; the store is empty")
        return len(next(iter(self._sums.values())).origin)

    def compression(
        self, dim: int | None = None, residual: float | None = None, kind: BasisKind = "species"
    ) -> Compression:
        """Axes for a number of coordinates, or as many as leave no more than ``residual`` out.

        Args:
            residual: of the variance of the features, and of the squared length of the tangents, of every species (and,
                for a common basis, of what the species' means differ by): the largest of all these parts counts.

        Raises:
            ConfigError: neither or both are given, or they are out of range.
        """
        full = self.full
        _check(full, dim, residual)
        each = {z: _Parts.of(sums) for z, sums in sorted(self._sums.items())}
        whole = _Parts.joined(each)
        groups = {0: whole, **({} if kind == "common" else each)}
        axes = {z: _axes(parts.unit, full) for z, parts in groups.items()}
        judged = axes if kind == "common" else {z: axes[z] for z in each}
        if residual is not None:
            dim = max(_needed(axes[z], groups[z].unit, residual) for z in judged)
        assert dim is not None
        turned = {z: _turned(axes[z][:, :dim], parts.spread) for z, parts in groups.items()}
        return Compression(
            tuple(groups),
            torch.stack([parts.mean for parts in groups.values()]),
            torch.stack([turned[z] for z in groups]).contiguous(),
            torch.stack([parts.spread for parts in groups.values()]),
        )

    def left_out(self, found: Compression) -> dict[int, tuple[float, float]]:
        """Of each species the parts of the features' variance and of the tangents' square that are lost (NaN: none)."""
        lost = {}
        for z, sums in sorted(self._sums.items()):
            axes = found.basis[found.place(z)]
            parts = (_covariance(sums), sums.moved)
            shares = [1.0 - _within(part, axes) / float(part.trace()) if _any(part) else torch.nan for part in parts]
            lost[z] = (shares[0], shares[1])
        return lost


@dataclass
class _Sums:
    """Over the atoms of one species, about one of them."""

    origin: Float64[Tensor, " full"]
    count: int
    total: Float64[Tensor, " full"]
    square: Float64[Tensor, "full full"]
    moved: Float64[Tensor, "full full"]

    @classmethod
    def about(cls, origin: Float64[Tensor, " full"]) -> _Sums:
        square, moved = torch.zeros(2, len(origin), len(origin), dtype=torch.float64)
        return cls(origin, 0, torch.zeros_like(origin), square, moved)


@dataclass(frozen=True)
class _Parts:
    """Matrices of unit trace whose sum has the axes, and what else a basis keeps."""

    mean: Float64[Tensor, " full"]
    unit: Sequence[Float64[Tensor, "full full"]]
    spread: Float64[Tensor, " full"]

    @classmethod
    def of(cls, sums: _Sums) -> _Parts:
        covariance = _covariance(sums)
        unit = [part / part.trace() for part in (covariance, sums.moved) if _any(part)]
        return cls(sums.origin + sums.total / sums.count, unit, _deviations(covariance))

    @classmethod
    def joined(cls, each: Mapping[int, _Parts]) -> _Parts:
        """Of all species, which count alike."""
        means = torch.stack([parts.mean for parts in each.values()])
        mean = means.mean(0)
        between = (means - mean).T @ (means - mean) / len(means)
        units = [part for parts in each.values() for part in parts.unit]
        if _any(between):
            units.append(between / between.trace())
        spreads = torch.stack([parts.spread for parts in each.values()])
        spread = (spreads.square().mean(0) + between.diagonal()).sqrt() if len(means) > 1 else spreads[0]
        return cls(mean, units, spread)


def _check(full: int, dim: int | None, residual: float | None) -> None:
    if (dim is None) == (residual is None):
        raise ConfigError("say how far features are compressed: by a number of coordinates, or by a residual")
    if dim is not None and not 1 <= dim < full:
        raise ConfigError(f"{full} numbers cannot be compressed to {dim}; give a number from 1 to {full - 1}")
    if residual is not None and not 0 < residual < 1:
        raise ConfigError(f"a residual of {residual}: give a part between 0 and 1, such as 1e-3")


def _covariance(sums: _Sums) -> Float64[Tensor, "full full"]:
    mean = sums.total / sums.count
    return sums.square / sums.count - torch.outer(mean, mean)


def _deviations(covariance: Float64[Tensor, "full full"]) -> Float64[Tensor, " full"]:
    """Of the components; those that do not vary keep their size."""
    found = covariance.diagonal().clamp_min(0.0).sqrt()
    return torch.where(found > _FLAT * found.amax().clamp_min(1e-300), found, torch.ones_like(found))


def _any(part: Float64[Tensor, "full full"]) -> bool:
    """Whether there is more than rounding in it."""
    return float(part.trace()) > 1e-20 * len(part)


def _within(part: Float64[Tensor, "full full"], axes: Float64[Tensor, "full dim"]) -> float:
    return float(torch.einsum("ik,ij,jk->", axes, part, axes))


def _axes(units: Sequence[Float64[Tensor, "full full"]], full: int) -> Float64[Tensor, "full full"]:
    """Eigenvectors of the sum, those of the largest eigenvalues first."""
    total = torch.zeros(full, full, dtype=torch.float64)
    for part in units:
        total += part
    return eigh((total + total.T) / 2)[1].flip(1)


def _needed(axes: Float64[Tensor, "full full"], units: Sequence[Float64[Tensor, "full full"]], residual: float) -> int:
    """How many axes leave no more than the residual out of any part."""
    most = 1
    for part in units:
        left = 1.0 - torch.einsum("ik,ij,jk->k", axes, part, axes).cumsum(0)
        enough = (left <= residual).nonzero()[:, 0]
        most = max(most, int(enough[0]) + 1 if len(enough) else len(axes))
    return most


def _turned(axes: Float64[Tensor, "full dim"], spread: Float64[Tensor, " full"]) -> Float64[Tensor, "full dim"]:
    """The same span, with axes along which dividing by the deviations is diagonal."""
    scaled = axes / spread[:, None]
    return axes @ eigh(scaled.T @ scaled)[1].flip(1)

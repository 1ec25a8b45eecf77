"""Kernels between the feature vectors of two atoms.

Every kernel is a function of one argument t: t = -|x - y|^2 / 2 for kernels of the distance,
t = x.y for kernels of the inner product, with x = s h and a scale s of the kernel. Then

* t comes out of one matrix product of augmented vectors, left(x) . right(y);
* the derivative along a tangent is k'(t) (left'(x) . right(y)), one more matrix product.

So an energy row and a derivative row need only ``profile`` (k) and ``slope`` (dk/dt).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from mekrr_scale.errors import ConfigError, require_known


class AtomKernel(ABC):
    """k(h, h') of two feature vectors."""

    name: ClassVar[str]
    stationary: ClassVar[bool]  # a function of the distance (else of the inner product)

    @property
    @abstractmethod
    def scale(self) -> float:
        """The factor s that features are multiplied with."""

    @abstractmethod
    def profile(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """k as a function of t; may overwrite t."""

    @abstractmethod
    def slope(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """dk/dt; leaves t as it is."""

    @abstractmethod
    def curvature(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """d2k/dt2; leaves t as it is. Finite at t = 0, where it is multiplied with zero."""

    @final
    def left(
        self,
        features: Float[Tensor, "atoms dim"],
        out: Float[Tensor, "atoms augmented"] | None = None,
    ) -> Float[Tensor, "atoms augmented"]:
        """Augmented vectors of the atoms: [x, -|x|^2/2, 1], or x for inner products.

        Args:
            out: where to write them.
        """
        if not self.stationary:
            return torch.mul(features, self.scale, out=out)
        count, dim = features.shape
        augmented = features.new_empty(count, dim + 2) if out is None else out
        x = torch.mul(features, self.scale, out=augmented[:, :dim])
        augmented[:, dim] = torch.linalg.vector_norm(x, dim=1).square_().mul_(-0.5)
        augmented[:, dim + 1] = 1.0
        return augmented

    @final
    def left_tangent(
        self,
        features: Float[Tensor, "*atoms dim"],
        tangents: Float[Tensor, "*atoms dim"],
    ) -> Float[Tensor, "*atoms augmented"]:
        """Derivative of ``left`` along a tangent of the features."""
        x, dx = features * self.scale, tangents * self.scale
        if not self.stationary:
            return dx
        return torch.cat([dx, -(x * dx).sum(-1, keepdim=True), torch.zeros_like(dx[..., :1])], -1)

    @final
    def left_tangent_(
        self,
        features: Float[Tensor, "atoms dim"],
        tangents: Float[Tensor, "atoms dim"],
        out: Float[Tensor, "atoms augmented"],
    ) -> Float[Tensor, "atoms augmented"]:
        """The same for a tile, written to ``out``; overwrites the features."""
        if not self.stationary:
            return torch.mul(tangents, self.scale, out=out)
        dim = features.shape[1]
        dx = torch.mul(tangents, self.scale, out=out[:, :dim])
        torch.sum(features.mul_(self.scale).mul_(dx), 1, out=out[:, dim]).neg_()
        out[:, dim + 1] = 0.0
        return out

    @final
    def left_pullback(
        self,
        features: Float[Tensor, "atoms dim"],
        gradient: Float[Tensor, "atoms augmented"],
    ) -> Float[Tensor, "atoms dim"]:
        """Gradient with respect to the features, from one with respect to ``left``."""
        if not self.stationary:
            return gradient * self.scale
        dim = features.shape[1]
        return self.scale * (gradient[:, :dim] - self.scale * features * gradient[:, dim : dim + 1])

    @final
    def right(self, features: Float[Tensor, "landmarks dim"]) -> Float[Tensor, "landmarks augmented"]:
        """Augmented vectors of the landmarks: [y, 1, -|y|^2/2], or y."""
        y = features * self.scale
        if not self.stationary:
            return y
        return torch.cat([y, torch.ones_like(y[:, :1]), -0.5 * y.square().sum(1, keepdim=True)], 1)

    @final
    def right_tangent(
        self,
        features: Float[Tensor, "*landmarks dim"],
        tangents: Float[Tensor, "*landmarks dim"],
    ) -> Float[Tensor, "*landmarks augmented"]:
        """Derivative of ``right`` along a tangent of the features."""
        y, dy = features * self.scale, tangents * self.scale
        if not self.stationary:
            return dy
        return torch.cat([dy, torch.zeros_like(dy[..., :1]), -(y * dy).sum(-1, keepdim=True)], -1)

    @final
    def gram(self, a: Float[Tensor, "rows dim"], b: Float[Tensor, "columns dim"]) -> Float[Tensor, "rows columns"]:
        """k of all pairs; of features that are shifted near the origin if the kernel is stationary."""
        return self.profile(self.left(a) @ self.right(b).T)

    @final
    def itself(self, features: Float[Tensor, "atoms dim"]) -> Float[Tensor, " atoms"]:
        """k(h, h) of every atom; constant if the kernel is stationary."""
        if self.stationary:
            return self.profile(features.new_zeros(len(features)))
        return self.profile((self.left(features) * self.right(features)).sum(1))

    @final
    def to_dict(self) -> dict[str, object]:
        return {"name": self.name, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class OneLength(AtomKernel):
    """A kernel of the distance over one length scale."""

    length_scale: float
    stationary: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(self.name, length_scale=self.length_scale)

    @property
    @final
    def scale(self) -> float:
        return 1.0 / self.length_scale


def atom_kernel(name: str, **parameters: object) -> AtomKernel:
    """An atom kernel by its name in ``KERNELS``.

    Raises:
        ConfigError: unknown name or parameters.
    """
    from mekrr_scale import (
        kernels,
    )  # the face holds the table; it loads the kernel's file when it is asked for

    require_known("there is no kernel", name, kernels.KERNELS)
    made: type[AtomKernel] = getattr(kernels, kernels.KERNELS[name])
    try:
        return made(**parameters)
    except TypeError as error:
        raise ConfigError(f"{name} kernel: {error}") from error


def check_positive(kernel: str, **values: float) -> None:
    """Refuse parameters of a kernel that are not positive numbers, with a ConfigError."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{kernel} kernel: {name} is {value}, it must be a positive number")


def distance_(t: Tensor, factor: float) -> Tensor:
    """sqrt(factor) r from t = -r^2/2, in place; rounding may leave t slightly above zero."""
    return t.mul_(-2.0 * factor).clamp_min_(0.0).sqrt_()

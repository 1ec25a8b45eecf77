"""Matern kernels of smoothness 3/2 and 5/2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from mekrr_scale.kernels.atom import OneLength, distance, exp_


@final
@dataclass(frozen=True)
class Matern32(OneLength):
    """(1 + sqrt(3) r/l) exp(-sqrt(3) r/l), r the Euclidean distance."""

    name: ClassVar[str] = "matern32"

    def profile(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        r = distance(t, 3.0)
        return (1 + r) * exp_(-r)

    def slope(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 3.0 * exp_(-distance(t, 3.0))

    def curvature(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        r = distance(t, 3.0)
        return 9.0 * exp_(-r) / r.clamp_min(1e-12)


@final
@dataclass(frozen=True)
class Matern52(OneLength):
    """(1 + q + q^2/3) exp(-q), q = sqrt(5) r/l, r the Euclidean distance."""

    name: ClassVar[str] = "matern52"

    def profile(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        q = distance(t, 5.0)
        return (1 + q + q.square() / 3) * exp_(-q)

    def slope(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        q = distance(t, 5.0)
        return (5.0 / 3.0) * (1 + q) * exp_(-q)

    def curvature(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (25.0 / 3.0) * exp_(-distance(t, 5.0))

"""Matern kernels of smoothness 3/2 and 5/2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from mekrr_scale.kernels.atom import OneLength, distance_
from mekrr_scale.kernels.exponentials import exp_


@final
@dataclass(frozen=True)
class Matern32(OneLength):
    """(1 + sqrt(3) r/l) exp(-sqrt(3) r/l), r the Euclidean distance."""

    name: ClassVar[str] = "matern32"

    def profile(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        r = distance_(t, 3.0)
        return exp_(-r).mul_(r.add_(1.0))

    def slope(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return exp_(distance_(t.clone(), 3.0).neg_()).mul_(3.0)

    def curvature(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        r = distance_(t.clone(), 3.0)
        return 9.0 * exp_(-r) / r.clamp_min(1e-12)


@final
@dataclass(frozen=True)
class Matern52(OneLength):
    """(1 + q + q^2/3) exp(-q), q = sqrt(5) r/l, r the Euclidean distance."""

    name: ClassVar[str] = "matern52"

    def profile(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        q = distance_(t, 5.0)
        decay, square = exp_(-q), q.square().div_(3.0)
        return decay.mul_(square.add_(q.add_(1.0)))

    def slope(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        q = distance_(t.clone(), 5.0)
        decay = exp_(-q)
        return q.add_(1.0).mul_(5.0 / 3.0).mul_(decay)

    def curvature(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return exp_(distance_(t.clone(), 5.0).neg_()).mul_(25.0 / 3.0)

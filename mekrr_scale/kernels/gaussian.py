"""Gaussians, over one length scale or several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels.atom import AtomKernel, OneLength, check_positive
from mekrr_scale.kernels.exponentials import exp_


@final
@dataclass(frozen=True)
class Gaussian(OneLength):
    """exp(-|h - h'|^2 / 2 l^2)."""

    name: ClassVar[str] = "gaussian"

    def profile(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return exp_(t)

    def slope(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return exp_(t.clone())

    def curvature(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return exp_(t.clone())


@final
@dataclass(frozen=True)
class GaussianSum(AtomKernel):
    """The mean of Gaussians over several length scales."""

    length_scales: tuple[float, ...]
    name: ClassVar[str] = "gaussian-sum"
    stationary: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "length_scales", tuple(map(float, self.length_scales)))
        if not self.length_scales:
            raise ConfigError("gaussian-sum kernel: give at least one length scale")
        for value in self.length_scales:
            check_positive(self.name, length_scale=value)

    @property
    def scale(self) -> float:
        return 1.0

    def profile(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        total = torch.zeros_like(t)
        for length in self.length_scales:
            total += exp_(t / length**2)
        return total.div_(len(self.length_scales))

    def slope(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        total = torch.zeros_like(t)
        for length in self.length_scales:
            total += exp_(t / length**2) / length**2
        return total.div_(len(self.length_scales))

    def curvature(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        total = torch.zeros_like(t)
        for length in self.length_scales:
            total += exp_(t / length**2) / length**4
        return total.div_(len(self.length_scales))

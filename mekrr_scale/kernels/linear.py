"""The inner product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels.atom import AtomKernel, check_positive


@final
@dataclass(frozen=True)
class Linear(AtomKernel):
    """(h.h' + offset) / l^2; the offset plays the part of a bias per atom."""

    length_scale: float = 1.0
    offset: float = 0.0
    name: ClassVar[str] = "linear"
    stationary: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_positive(self.name, length_scale=self.length_scale)
        if self.offset < 0:
            raise ConfigError(f"linear kernel: offset is {self.offset}, it must not be negative")

    @property
    def scale(self) -> float:
        return 1.0 / self.length_scale

    def profile(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return t.add_(self.offset / self.length_scale**2)

    def slope(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.ones_like(t)

    def curvature(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.zeros_like(t)

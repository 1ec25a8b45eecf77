"""Powers of the inner product."""

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
class Polynomial(AtomKernel):
    """(h.h'/l^2 + offset)^degree."""

    degree: int = 2
    length_scale: float = 1.0
    offset: float = 1.0
    name: ClassVar[str] = "polynomial"
    stationary: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_positive(self.name, length_scale=self.length_scale, degree=self.degree)
        if self.offset < 0:
            raise ConfigError(f"polynomial kernel: offset is {self.offset}, it must not be negative")

    @property
    def scale(self) -> float:
        return 1.0 / self.length_scale

    def profile(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return t.add_(self.offset).pow_(self.degree)

    def slope(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.degree * (t + self.offset).pow_(self.degree - 1)

    def curvature(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if self.degree == 1:
            return torch.zeros_like(t)
        return self.degree * (self.degree - 1) * (t + self.offset).pow_(self.degree - 2)

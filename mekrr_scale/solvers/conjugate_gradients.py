"""Conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.solvers.iteration import Product
from mekrr_scale.solvers.preconditioners import Preconditioner


@final
@dataclass(frozen=True)
class ConjugateGradients:
    """Preconditioned CG (Hestenes and Stiefel 1952): in every step the smallest error in the norm of A."""

    def aim(
        self, residual: Float64[Tensor, "rank columns"], product: Product, preconditioner: Preconditioner
    ) -> tuple[Float64[Tensor, "rank columns"], Float64[Tensor, " columns"], None]:
        """See ``Method``: rho = r'z."""
        z = preconditioner.apply(residual)
        return z, (residual * z).sum(0), None

    def curvature(
        self,
        direction: Float64[Tensor, "rank columns"],
        image: Float64[Tensor, "rank columns"],
        preconditioner: Preconditioner,
    ) -> Float64[Tensor, " columns"]:
        """See ``Method``: p'Ap."""
        return (direction * image).sum(0)

"""The kernels as TorchScript: what ``AtomKernel.profile`` makes of its argument t, differentiable."""

from typing import cast, no_type_check

import torch
from torch import Tensor, nn

from mekrr_scale.errors import ModelError
from mekrr_scale.kernels import AtomKernel, Gaussian, GaussianSum, Linear, Matern32, Matern52, Polynomial

_NEAR = 1e-24  # of a squared distance: where a root has no derivative, and the kernel's is multiplied with zero


@no_type_check
class GaussianProfile(nn.Module):
    """exp(t), or the mean of exp(t / l^2) over length scales."""

    def __init__(self, lengths: list[float]) -> None:
        super().__init__()
        self.lengths = lengths

    def forward(self, t: Tensor) -> Tensor:
        total = torch.zeros_like(t)
        for length in self.lengths:
            total = total + torch.exp(t / length**2)
        return total / len(self.lengths)


@no_type_check
class MaternProfile(nn.Module):
    """Of smoothness (``factor`` / 2), from t = -r^2/2."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.near = factor, _NEAR

    def forward(self, t: Tensor) -> Tensor:
        q = torch.sqrt(torch.clamp(-2.0 * self.factor * t, min=self.near))
        if self.factor == 3.0:
            return (1.0 + q) * torch.exp(-q)
        return (1.0 + q + q * q / 3.0) * torch.exp(-q)


@no_type_check
class PowerProfile(nn.Module):
    """(t + offset)^degree."""

    def __init__(self, offset: float, degree: int) -> None:
        super().__init__()
        self.offset, self.degree = offset, degree

    def forward(self, t: Tensor) -> Tensor:
        return (t + self.offset) ** self.degree


def profile_of(kernel: AtomKernel) -> nn.Module:
    """A kernel's profile.

    Raises:
        ModelError: of a kernel that is not the package's own.
    """
    if isinstance(kernel, Gaussian):
        return cast(nn.Module, GaussianProfile([1.0]))
    if isinstance(kernel, GaussianSum):
        return cast(nn.Module, GaussianProfile(list(kernel.length_scales)))
    if isinstance(kernel, Matern32 | Matern52):
        return cast(nn.Module, MaternProfile(3.0 if isinstance(kernel, Matern32) else 5.0))
    if isinstance(kernel, Linear):
        return cast(nn.Module, PowerProfile(kernel.offset / kernel.length_scale**2, 1))
    if isinstance(kernel, Polynomial):
        return cast(nn.Module, PowerProfile(kernel.offset, kernel.degree))
    raise ModelError(f"models with the kernel {kernel.name!r} cannot be exported; those of the package's own can")

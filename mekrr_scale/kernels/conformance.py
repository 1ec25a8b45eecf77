"""Checks that every atom kernel has to pass; a kernel of your own earns its tests by one call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels.atom import AtomKernel, atom_kernel

Formula = Callable[[Float64[Tensor, " dim"], Float64[Tensor, " dim"]], float]


def check_kernel(kernel: AtomKernel, formula: Formula | None = None) -> None:
    """Run the conformance suite in float64.

    Covers: values against a formula, positive semi-definite Gram matrices, slopes along tangents in
    either argument and curvatures against finite differences, the gradient by a feature, and the
    way back from what a model's file says of the kernel.

    Args:
        formula: k(h, g) of two feature vectors, as the literature writes it.

    Raises:
        ConfigError: names the check that failed and by how much.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    gram = kernel.gram(x, y)
    if formula is not None:
        expected = torch.tensor([[formula(a, b) for b in y] for a in x], dtype=torch.float64)
        _close(kernel, "values against the formula", gram, expected, 1e-12)
    eigenvalues = torch.linalg.eigvalsh(kernel.gram(x, x))
    lowest = float(eigenvalues[0] / eigenvalues[-1])
    _require(kernel, lowest > -1e-10, "positive semi-definite", f"an eigenvalue is {lowest:.1e} of the largest")
    _check_derivatives(kernel, x, y, torch.randn(7, 3, generator=generator, dtype=torch.float64))
    _require(kernel, atom_kernel(**kernel.to_dict()) == kernel, "to_dict", "it does not make the kernel again")  # type: ignore[arg-type]


def _check_derivatives(kernel: AtomKernel, x: Tensor, y: Tensor, tangent: Tensor) -> None:
    """Of rows along a tangent, of their adjoint, and once more by the other argument."""
    step = 1e-6
    t = kernel.left(x) @ kernel.right(y).T
    before = t.clone()
    slope = kernel.slope(t)
    found = slope * (kernel.left_tangent(x, tangent) @ kernel.right(y).T)
    difference = (kernel.gram(x + step * tangent, y) - kernel.gram(x - step * tangent, y)) / (2 * step)
    _close(kernel, "slope against finite differences", found, difference, 1e-7)
    gradient = kernel.left_pullback(x, slope @ kernel.right(y))
    _close(kernel, "gradient against slopes", (gradient * tangent).sum(1), found.sum(1), 1e-10)
    curvature = kernel.curvature(t)
    _require(kernel, torch.equal(t, before), "slope and curvature", "they overwrite their argument")
    bent = (kernel.slope(t + step) - kernel.slope(t - step)) / (2 * step)
    _close(kernel, "curvature against finite differences", curvature, bent, 1e-6)
    at_zero = kernel.curvature(torch.zeros(1, dtype=t.dtype))
    _require(kernel, bool(torch.isfinite(at_zero).all()), "curvature at t = 0", f"it is {float(at_zero[0])}")


def _require(kernel: AtomKernel, holds: bool, check: str, found: str) -> None:
    if not holds:
        raise ConfigError(f"kernel {kernel.name}: check '{check}' failed: {found}")


def _close(kernel: AtomKernel, check: str, value: Tensor, expected: Tensor, tolerance: float) -> None:
    error = float((value - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    _require(kernel, error <= tolerance, check, f"relative difference {error:.1e}, allowed {tolerance:.0e}")

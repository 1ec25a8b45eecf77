"""Elements of a GPU's tile and their sums over structures in one kernel, by Triton.

A tile comes out of cuBLAS; unfused, its elements are written and read once more, in float64. Here every element is
read once: a program takes the columns of one structure (or of one direction), walks over its rows and adds in
float64, always in the same order. CUDA builds of torch bring Triton along.
"""

from __future__ import annotations

import importlib.util

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

_COLUMNS = 256  # of a program


def available() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def serves(device: torch.device) -> bool:
    """Whether tiles on a device can be summed here."""
    return device.type == "cuda" and available()


def gaussian_sums(
    t: Float[Tensor, "rows columns"], bounds: Int64[Tensor, " bounds"]
) -> Float64[Tensor, "owners columns"]:
    """Sums of exp(t) over consecutive rows.

    Args:
        bounds: owners + 1; owner i has the rows bounds[i] to bounds[i + 1]; on the device of ``t``.
    """
    total, grid = _total(t, bounds)
    if total.numel():
        from mekrr_scale.kernels.triton_sums import exponential_sums

        exponential_sums[grid](t, bounds, total, t.shape[1], t.stride(0), BLOCK=_COLUMNS)
    return total


def product_sums(
    t: Float[Tensor, "rows columns"],
    factors: Float[Tensor, "atoms columns"],
    place: Int64[Tensor, " rows"],
    bounds: Int64[Tensor, " bounds"],
) -> Float64[Tensor, "owners columns"]:
    """Sums of t times the factors of each row's atom over consecutive rows; products in the elements' precision.

    Args:
        place: the atom of each row.
        bounds: as above.
    """
    total, grid = _total(t, bounds)
    if total.numel():
        from mekrr_scale.kernels.triton_sums import weighted_sums

        weighted_sums[grid](
            t, factors, place, bounds, total, t.shape[1], t.stride(0), factors.stride(0), BLOCK=_COLUMNS
        )
    return total


def _total(t: Tensor, bounds: Tensor) -> tuple[Float64[Tensor, "owners columns"], tuple[int, int]]:
    """What to fill, and the programs that do."""
    owners, columns = len(bounds) - 1, t.shape[1]
    total = torch.empty(owners, columns, dtype=torch.float64, device=t.device)
    return total, (owners, -(-columns // _COLUMNS))

"""Exponentials of a GPU's tile and their sums over structures in one kernel, by Triton.

A tile of arguments t comes out of cuBLAS; unfused, its exponentials are written and read once more.
Here every element is read once: a program takes the columns of one structure, walks over its atoms
and adds in float64, always in the same order. CUDA builds of torch bring Triton along.
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


def gaussian_sums(
    t: Float[Tensor, "rows columns"], bounds: Int64[Tensor, " bounds"]
) -> Float64[Tensor, "owners columns"]:
    """Sums of exp(t) over consecutive rows.

    Args:
        bounds: owners + 1; owner i has the rows bounds[i] to bounds[i + 1]; on the device of ``t``.
    """
    owners, columns = len(bounds) - 1, t.shape[1]
    total = torch.empty(owners, columns, dtype=torch.float64, device=t.device)
    if owners and columns:
        from mekrr_scale.kernels.triton_sums import exponential_sums

        grid = (owners, -(-columns // _COLUMNS))
        exponential_sums[grid](t, bounds, total, columns, t.stride(0), BLOCK=_COLUMNS)
    return total

"""Exponentials of a GPU's tile and their sums over structures in one kernel, by Triton.

A tile of arguments t comes out of cuBLAS; unfused, its exponentials are written and read once more.
Here every element is read once: a program takes the columns of one structure, walks over its atoms
and adds in float64, always in the same order. CUDA builds of torch bring Triton along.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any

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
        grid = (owners, -(-columns // _COLUMNS))
        _kernel()[grid](t, bounds, total, columns, t.stride(0), BLOCK=_COLUMNS)
    return total


@lru_cache(maxsize=1)
def _kernel() -> Any:
    import triton
    import triton.language as tl

    @triton.jit  # type: ignore[untyped-decorator, unused-ignore]
    def sums(t, bounds, total, columns, stride, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
        owner = tl.program_id(0)
        place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = place < columns
        added = tl.zeros([BLOCK], dtype=tl.float64)
        for row in range(tl.load(bounds + owner), tl.load(bounds + owner + 1)):
            element = tl.load(t + row * stride + place, mask=inside, other=0.0)
            added += tl.exp(element).to(tl.float64)
        tl.store(total + owner.to(tl.int64) * columns + place, added, mask=inside)

    return sums

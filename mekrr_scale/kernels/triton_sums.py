"""The kernels of ``fused``, in a module that only CUDA builds of torch import.

Triton up to 3.3 looks names up among a module's own, not among those of a function around a kernel: what the
kernels use is imported here at the top.
"""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def exponential_sums(t, bounds, total, columns, stride, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Sums of exp(t) over an owner's rows, for a block of columns."""
    owner = tl.program_id(0)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < columns
    added = tl.zeros([BLOCK], dtype=tl.float64)
    for row in range(tl.load(bounds + owner), tl.load(bounds + owner + 1)):
        element = tl.load(t + row * stride + place, mask=inside, other=0.0)
        added += tl.exp(element).to(tl.float64)
    tl.store(total + owner.to(tl.int64) * columns + place, added, mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def weighted_sums(t, factors, place, bounds, total, columns, stride, step, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Sums of t times its atom's factors over an owner's rows, for a block of columns."""
    owner = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    added = tl.zeros([BLOCK], dtype=tl.float64)
    for row in range(tl.load(bounds + owner), tl.load(bounds + owner + 1)):
        element = tl.load(t + row * stride + column, mask=inside, other=0.0)
        factor = tl.load(factors + tl.load(place + row) * step + column, mask=inside, other=0.0)
        added += (element * factor).to(tl.float64)
    tl.store(total + owner.to(tl.int64) * columns + column, added, mask=inside)

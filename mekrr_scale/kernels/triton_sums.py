"""The kernel of ``fused``, in a module that only CUDA builds of torch import.

Triton up to 3.3 looks names up among a module's own, not among those of a function around the kernel: what the
kernel uses is imported here at the top.
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

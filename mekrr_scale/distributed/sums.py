"""Floating-point sums that do not depend on the order of their parts, nor on who adds which.

Pre-rounding to fixed bins (Demmel and Nguyen, IEEE Trans. Comput. 64, 2060 (2015)): bin j holds
multiples of 2^(28 j). A part is split exactly into multiples for its highest bin, for the one below
and so on; sums within a bin are exact in float64 (up to 2^25 parts), hence associative. What lies
below the lowest bin that is kept is dropped, always the same. So any number of ranks, and any
all-reduce, gives the same bits.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.distributed.group import ALONE, Group

_WIDTH = 28  # bits of a bin; 53 - 28 bits are left for carries


class ExactSum:
    """Sum of equally shaped float64 tensors, reproducible bit by bit.

    Args:
        bins: that are kept: 3 keep 2^-56 of the largest element of any part at worst, 4 keep 2^-84.
    """

    def __init__(self, *shape: int, bins: int = 4, device: torch.device | str = "cpu") -> None:
        self.bins = torch.zeros(bins, *shape, dtype=torch.float64, device=device)
        self.top: int | None = None  # index of the highest bin; None: nothing but zeros yet
        self.finite = True

    def add(self, part: Float64[Tensor, "*shape"] | float) -> None:
        """Add a part; it is used as workspace where it is a tensor."""
        rest = part if isinstance(part, Tensor) else torch.tensor(part, dtype=torch.float64)
        largest = float(rest.abs().max()) if rest.numel() else 0.0
        if largest == 0.0:
            return
        if not math.isfinite(largest):
            self.finite = False
            return
        top = -(-(math.frexp(largest)[1] + 1) // _WIDTH) - 1  # the lowest bin that 2 |part| fits under the next of
        self._raise_to(top)
        assert self.top is not None
        for place in range(self.top - top, len(self.bins)):
            constant = 1.5 * 2.0**52 * 2.0 ** (_WIDTH * (self.top - place))
            multiple = (rest + constant).sub_(constant)
            self.bins[place] += multiple
            rest.sub_(multiple)

    def value(self, group: Group = ALONE) -> Float64[Tensor, "*shape"]:
        """The sum over all parts of all ranks; not a number where a part was not."""
        state = torch.tensor([-(10**6) if self.top is None else self.top, int(not self.finite)])
        top, broken = group.maximum(state).tolist()
        if broken:
            return torch.full_like(self.bins[0], torch.nan)
        if top == -(10**6):
            return torch.zeros_like(self.bins[0])
        self._raise_to(int(top))
        bins = group.sum(self.bins.clone()) if group.size > 1 else self.bins
        total = bins[-1].clone()
        for place in range(len(bins) - 2, -1, -1):
            total += bins[place]
        return total

    def _raise_to(self, top: int) -> None:
        """Make room for larger parts: the lowest bins are dropped."""
        if self.top is None:
            self.top = top
        shift = min(top - self.top, len(self.bins))
        if shift <= 0:
            return
        kept = self.bins[: len(self.bins) - shift].clone()
        self.bins.zero_()
        self.bins[shift:] = kept
        self.top = top

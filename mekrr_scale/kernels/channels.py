"""What a set kernel is a sum of: weights of atoms, and tables of species, by channel.

    sum_a sum_b u(x, z_a) C[z_a, z_b] u(x', z_b) k(h_a, h_b)

``sum`` has one channel (u = 1, C = B), ``mean`` a pooled one (u = 1/n, C = 1 - alpha) and one of
own species (u = 1/n_s, C = alpha [z = z']).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import SpeciesRun
from mekrr_scale.kernels.choices import Reduce
from mekrr_scale.kernels.mixing import SpeciesMixing

Channel = Literal["sum", "pooled", "own"]


@dataclass(frozen=True)
class Channels:
    """The channels of a reduction and a mixing."""

    reduce: Reduce
    mixing: SpeciesMixing

    @property
    def names(self) -> tuple[Channel, ...]:
        """Those that are not zero."""
        if self.reduce == "sum":
            return ("sum",)
        return {0.0: ("pooled",), 1.0: ("own",)}.get(self.mixing.alpha, ("pooled", "own"))  # type: ignore[return-value]

    def table(self, channel: Channel, rows: Sequence[int], columns: Sequence[int]) -> Float64[Tensor, "r c"]:
        """C[z, z'] for species in rows and columns."""
        if channel == "sum":
            return self.mixing.table(rows, columns)
        if channel == "pooled":
            return torch.full((len(rows), len(columns)), 1.0 - self.mixing.alpha, dtype=torch.float64)
        same = torch.tensor([[float(a == b) for b in columns] for a in rows], dtype=torch.float64)
        return self.mixing.alpha * same.reshape(len(rows), len(columns))

    def weight(self, channel: Channel, run: SpeciesRun, n_atoms: Tensor) -> Float64[Tensor, " structures"]:
        """u(x, z) of the run's species in every structure."""
        if channel == "sum":
            return torch.ones(len(n_atoms), dtype=torch.float64)
        size = n_atoms if channel == "pooled" else run.ptr.diff()
        return 1.0 / size.double().clamp_min(1.0)

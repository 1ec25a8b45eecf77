"""Held-out labels beside predictions, row by row, of some thousand structures: what pages of errors are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mekrr_scale.arrays import uniform
from mekrr_scale.distributed import Group

LISTED = 20_000  # structures whose rows are kept


@dataclass(frozen=True)
class HeldRows:
    """Rows of one kind, each under the model of the folds that miss it: energies less the elements' references in
    eV/atom, labels along stored directions in eV/angstrom, virials in eV/atom."""

    ids: Int64[Tensor, " rows"]  # hash of the structure's content
    fold: Int64[Tensor, " rows"]
    configs: Int64[Tensor, " rows"]  # configuration types (``config_hash``); 0: not told
    n_atoms: Int64[Tensor, " rows"]
    reference: Float64[Tensor, " rows"]
    predicted: Float64[Tensor, " rows"]
    interval: Float64[Tensor, " rows"]  # half-width of 68 %; NaN: unknown

    def some(self, total: int, seed: int = 11) -> HeldRows:
        """Those of a part of the structures, drawn by their content, where there are more than are listed."""
        if total <= LISTED:
            return self
        chosen = torch.from_numpy(uniform(self.ids.numpy().astype(np.uint64), seed) < LISTED / total)
        return HeldRows(*(getattr(self, each.name)[chosen] for each in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[HeldRows], group: Group) -> HeldRows:
        """Those of all batches and ranks."""
        whole, real = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
        nothing = [whole] * 4 + [real] * 3
        return cls(
            *(
                group.joined(torch.cat([none, *(getattr(part, each.name) for part in parts)]))
                for none, each in zip(nothing, fields(cls), strict=True)
            )
        )

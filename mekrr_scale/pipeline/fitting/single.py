"""What cross-validation left out, row by row and structure by structure: what tables and pages tell of errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

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
    stores: Int64[Tensor, " rows"]  # place of the structure's store in the fit's
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


@dataclass(frozen=True)
class Singles:
    """Held-out errors of structures, of one kind of rows: root mean squares of a structure's."""

    ids: Int64[Tensor, " structures"]  # hashes of their content
    configs: Int64[Tensor, " structures"]  # hashes of configuration types
    stores: Int64[Tensor, " structures"]  # places of their stores in the fit's
    errors: Float64[Tensor, " structures"]  # eV/atom, eV/angstrom, virial in eV/atom
    scales: Float64[Tensor, " structures"]  # what errors are divided by to be compared


Columns = TypeVar("Columns", HeldRows, Singles)


def joined(of: type[Columns], parts: Sequence[Columns], group: Group) -> Columns:
    """Those of all batches and ranks, column by column."""

    def column(name: str, annotation: object) -> Tensor:
        nothing = torch.zeros(0, dtype=torch.int64 if "Int64" in str(annotation) else torch.float64)
        return group.joined(torch.cat([nothing, *(getattr(part, name) for part in parts)]))

    return of(*(column(each.name, each.type) for each in fields(of)))

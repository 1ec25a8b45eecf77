"""Where the rows of a problem come from: a store, batches drawn from one, or structures with a backbone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ase import Atoms
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.arrays import DERIVATIVES, FeatureBatch, RowKind
from mekrr_scale.backbones import Backbone
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.structures import Labels


@dataclass(frozen=True)
class LabelledStructure:
    """A structure whose forces are fitted without stored tangents."""

    atoms: Atoms
    labels: Labels
    id: int  # 63-bit hash of its content, as in the store
    group: int = -1  # trajectory that it belongs to; -1: none known
    importance: float = 1.0  # of its force rows
    atom_weights: Float64[ndarray, " atoms"] | None = None  # weights of single atoms' squared errors; None: 1


@dataclass(frozen=True)
class Structures:
    """Structures with the backbone that makes their features, in the precision of the rows."""

    listed: Sequence[LabelledStructure]
    backbone: Backbone


@dataclass(frozen=True)
class Source:
    """This rank's share of the data, re-iterable.

    Args:
        energies: batches, for energy rows.
        moved: the same batches with tangents, cut elsewhere since these are larger; for derivative rows.
        structures: for force rows by products alone (matrix-free).
        group: the ranks that hold the other shares.
        n_rows: of one pass over all ranks' rows, where that is known; for progress.
    """

    energies: Iterable[FeatureBatch]
    moved: Iterable[FeatureBatch] | None = None
    structures: Structures | None = None
    group: Group = ALONE
    n_rows: int = 0

    @property
    def kinds(self) -> frozenset[RowKind]:
        """Kinds of rows that it can hold."""
        derivatives = DERIVATIVES if self.moved is not None else frozenset()
        maps = {RowKind.FORCE} if self.structures is not None else frozenset()
        return frozenset(RowKind) - DERIVATIVES | derivatives | maps

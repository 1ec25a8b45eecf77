"""What is solved: kernel, landmarks, baseline, folds and weights. The only place where rows are made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Int64
from torch import Tensor

from mekrr_scale.arrays import KINDS, ByKind, FeatureBatch, Landmarks, RowKind, content_hash
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import SetKernel, exponential
from mekrr_scale.models import Baseline, Whitening, whiten
from mekrr_scale.regression.blocks import ChainedRows, Rows
from mekrr_scale.regression.criterion import Criterion
from mekrr_scale.regression.folds import Folds
from mekrr_scale.regression.maps import MapRows
from mekrr_scale.regression.rows import stored_rows
from mekrr_scale.regression.source import Source
from mekrr_scale.regression.terms import Basis, Precision

DEFAULT_CRITERION: ByKind[float] = ByKind.of({kind: info.criterion for kind, info in KINDS.items()}, 0.0)
ENERGY_ALONE: ByKind[float] = ByKind.of({RowKind.ENERGY: 1.0}, 0.0)


@dataclass(frozen=True, eq=False)
class Problem:
    """A regression: min_c sum_r w_r (y_r - phi_r c)^2 + lambda c' K_ZZ c, for every ridge that a solver tries.

    Args:
        folds: parts for cross-validation; None without.
        weights: candidates for the weights of the kinds of rows; zero leaves a kind out.
        criterion: what chooses among candidates: weights of the mean squared errors whose sum does, or ``Balanced``.
        seed: of what a solver draws.

    Raises:
        ConfigError: weights that are negative, or all zero.
    """

    kernel: SetKernel
    landmarks: Landmarks
    baseline: Baseline
    folds: Folds | None = None
    weights: tuple[ByKind[float], ...] = (ENERGY_ALONE,)
    criterion: Criterion = DEFAULT_CRITERION
    basis: Basis = field(default_factory=Basis)
    precision: Precision = field(default_factory=Precision)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.weights:
            raise ConfigError("no weights of the rows were given; give at least one combination")
        for combination in self.weights:
            given = combination.entries
            if min(given) < 0 or max(given) <= 0:
                raise ConfigError(f"row weights {given} must not be negative, and not all zero")

    def rows(self, source: Source, kinds: Iterable[RowKind] | None = None) -> Rows:
        """Rows of a source: energies, derivatives along stored directions, then maps.

        Args:
            kinds: those wanted, by default all that the source can hold.
        """
        wanted = source.kinds if kinds is None else source.kinds & frozenset(kinds)
        parts: list[Rows] = list(stored_rows(self, source, wanted))
        if RowKind.FORCE in wanted and source.structures is not None:
            parts.append(MapRows(source.structures, self, source.group))
        return ChainedRows(tuple(parts))

    def whitening(self, group: Group = ALONE) -> Whitening:
        """The basis of the solvers, where the landmarks are."""
        makers = self.kernel.gram_block_makers(self.landmarks)
        return whiten(makers, self.basis.cut, self.basis.method, group).on(self.landmarks.features.device)

    def fold_of(self, batch: FeatureBatch) -> Int64[Tensor, " structures"]:
        """The fold of each structure; zero without folds."""
        return self.folds.of(batch) if self.folds else torch.zeros(batch.n_structures, dtype=torch.int64)

    def on(self, device: torch.device | str) -> Problem:
        """The same with landmarks on a device, where rows are then made."""
        return replace(self, landmarks=self.landmarks.on(device))

    def with_alpha(self, alpha: float) -> Problem:
        """The same with another mixing of species."""
        return replace(self, kernel=self.kernel.with_alpha(alpha))

    def of_kinds(self, kinds: frozenset[RowKind]) -> Problem:
        """The same with weights of these kinds alone, and no combination twice."""
        kept = (ByKind.of({k: w for k, w in weights.items() if k in kinds}, 0.0) for weights in self.weights)
        return replace(self, weights=tuple(dict.fromkeys(kept)))

    @property
    def n_folds(self) -> int:
        return self.folds.count if self.folds else 0

    @property
    def n_columns(self) -> int:
        """Of the rows."""
        return self.kernel.n_columns(self.landmarks)

    @property
    def mixing_name(self) -> str:
        """The mixing of species in names of states: its alpha, or ``matrix``."""
        return "matrix" if self.kernel.mixing.matrix else f"{self.kernel.mixing.alpha:g}"

    @cached_property
    def identity(self) -> dict[str, object]:
        """What tells its kernel from those of other candidates, as states of running fits hold it."""
        mixing = self.kernel.mixing
        found: dict[str, object] = {
            "kernel": repr(self.kernel.atom), "alpha": mixing.alpha, "exponential": exponential()
        }  # fmt: skip
        if mixing.matrix:
            found["alpha"] = [list(mixing.species), [list(row) for row in mixing.matrix]]
        if self.precision != Precision():
            found["precision"] = repr(self.precision)
        return {**found, "transform": content_hash(self.kernel.transform.mean, self.kernel.transform.scale)}

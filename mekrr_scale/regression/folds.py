"""Parts for cross-validation, and the baseline of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, draw, minimum_norm
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.errors import ConfigError
from mekrr_scale.models import Baseline

_EXACT_FOLDS = 2_000_000  # above this many structures folds come from the hash alone


@dataclass(frozen=True)
class Folds:
    """Parts for cross-validation; a trajectory, and copies of a structure, stay together."""

    count: int
    keys: NDArray[np.uint64]  # sorted; empty where folds come from the hash alone
    parts: NDArray[np.int64]

    def of(self, batch: FeatureBatch) -> Int64[Tensor, " structures"]:
        """The fold of each structure of a batch.

        Raises:
            ConfigError: a structure that the folds were not made of.
        """
        return self.of_structures(batch.ids, batch.groups)

    def of_structures(
        self, ids: Int64[Tensor, " structures"], groups: Int64[Tensor, " structures"]
    ) -> Int64[Tensor, " structures"]:
        """The same of structures known by their hash and trajectory (-1: none)."""
        keys = _fold_keys(ids, groups)
        if len(self.keys) == 0:
            return torch.from_numpy((keys % np.uint64(self.count)).astype(np.int64))
        places = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        if not np.array_equal(self.keys[places], keys):
            raise ConfigError("a structure is not among those that the folds were made of; give the same data to both")
        return torch.from_numpy(self.parts[places])


def assign_folds(batches: Iterable[FeatureBatch], count: int, group: Group = ALONE, exact: bool = True) -> Folds:
    """Folds of nearly equal size that do not depend on the order of the structures.

    Args:
        batches: of this rank.
        exact: look at all structures first. Without, a structure's fold comes from its content alone,
            whatever else there is: folds of data that will grow.

    Raises:
        ConfigError: fewer than two folds, or fewer structures (trajectories) than folds.
    """
    if count < 2:
        raise ConfigError(f"{count} folds asked for; cross-validation needs at least 2")
    by_hash = Folds(count, np.empty(0, np.uint64), np.empty(0, np.int64))
    if not exact:
        return by_hash
    found: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
    total = 0
    for batch in batches:
        total += batch.n_structures
        if total <= _EXACT_FOLDS:
            found.append(_fold_keys(batch.ids, batch.groups))
    if int(group.sum(torch.tensor(total))) > _EXACT_FOLDS:
        return by_hash
    own = torch.from_numpy(np.unique(np.concatenate(found)).astype(np.int64))
    keys = np.unique(group.joined(own).numpy().astype(np.uint64))
    if len(keys) < count:
        raise ConfigError(
            f"{count} folds asked for, but the data hold {len(keys)} different structures or trajectories; "
            "use fewer folds (trajectories stay together if --group-key named them at extraction)"
        )
    return Folds(count, keys, np.arange(len(keys)) % count)


def refit_shift(
    baseline: Baseline, gram: Float64[Tensor, "species species"], moment: Float64[Tensor, " species"]
) -> Float64[Tensor, " species"]:
    """Shift of the reference energies (eV) if they are fitted to a part of the structures alone.

    With N the counts of that part and r its residuals under the full fit theta, the fit of the
    part is N+ (N theta + r) = P theta + N+ r, P the projector on the counts' row space; written
    so, large total energies cancel exactly. What the part does not determine, as the energy of an
    element that it does not hold, is borrowed from the full fit: (1 - P) theta stays, instead of zero.

    Args:
        gram: N' N of the part.
        moment: N' r of the part (eV).
    """
    if not baseline.fitted:
        return torch.zeros(len(baseline.species), dtype=torch.float64)
    return minimum_norm(gram, moment)


def _fold_keys(ids: Int64[Tensor, " structures"], groups: Int64[Tensor, " structures"]) -> NDArray[np.uint64]:
    """Pseudo-random numbers of the structures, equal within a group."""
    own, together = ids.numpy().astype(np.uint64), groups.numpy()
    keys = np.where(together >= 0, together.astype(np.uint64) * np.uint64(2) + np.uint64(1), own * np.uint64(2))
    return draw(keys, -1)

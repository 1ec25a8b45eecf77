"""Parts for cross-validation, and the baseline of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from mekrr_scale.arrays import MADE, FeatureBatch, content_hash, draw, minimum_norm
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.errors import ConfigError
from mekrr_scale.models import Baseline
from mekrr_scale.regression.likeness import Piece, Prints, piece

_EXACT_FOLDS = 2_000_000  # above this many structures folds come from the hash alone
_ROUNDING = 1e-6  # of reference energies that counts do not determine in any of the data
_BLOCK = 4  # frames of a block at least
_COMPARED = 200_000  # above this many their features are not compared


@dataclass(frozen=True)
class Folds:
    """Parts for cross-validation; a trajectory, and copies of a structure, stay together."""

    count: int
    keys: NDArray[np.uint64]  # sorted; empty where folds come from the hash alone
    parts: NDArray[np.int64]
    remarks: tuple[str, ...] = ()  # which folds these are, and why

    @property
    def identity(self) -> dict[str, object]:
        """What tells them from those of version 0.1.0, for states of running fits; nothing where they are the same."""
        if np.array_equal(self.parts, np.arange(len(self.parts)) % self.count):
            return {}
        return {"folds": content_hash(torch.from_numpy(self.parts))}

    def of(self, batch: FeatureBatch) -> Int64[Tensor, " structures"]:
        """The fold of each structure of a batch.

        Raises:
            ConfigError: a structure that the folds were not made of.
        """
        return self.of_structures(batch.ids, batch.groups)

    def of_structures(
        self, ids: Int64[Tensor, " structures"], groups: Int64[Tensor, " structures"]
    ) -> Int64[Tensor, " structures"]:
        """The same of structures known by their hash and trajectory (-1: none); the first for what is ``MADE``."""
        made = groups == MADE
        if bool(made.any()):
            found = torch.zeros_like(ids)
            found[~made] = self.of_structures(ids[~made], groups[~made])
            return found
        keys = _fold_keys(ids, groups)
        if len(self.keys) == 0:
            return torch.from_numpy((keys % np.uint64(self.count)).astype(np.int64))
        places = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        if not np.array_equal(self.keys[places], keys):
            raise ConfigError("a structure is not among those that the folds were made of; give the same data to both")
        return torch.from_numpy(self.parts[places])


def assign_folds(
    batches: Iterable[FeatureBatch],
    count: int,
    group: Group = ALONE,
    exact: bool = True,
    placed: Iterable[tuple[int, FeatureBatch]] | None = None,
) -> Folds:
    """Folds of nearly equal size that do not depend on the order of the structures, unless frames correlate.

    Trajectories that are named stay together, and so do copies: structures whose features are the same, moved,
    permuted, repeated or hardly shaken. Where no trajectories are named and consecutive frames are alike, as in one
    that nobody named, each fold is a block of them: neighbours in several folds would know one another's labels.

    Args:
        batches: of this rank.
        exact: look at all structures first. Without, a structure's fold comes from its content alone,
            whatever else there is: folds of data that will grow.
        placed: the batches, each with the place of its first structure in the whole data; needed where there are
            several ranks, whose frames are not compared otherwise.

    Raises:
        ConfigError: fewer than two folds, or fewer structures (trajectories) than folds.
    """
    if count < 2:
        raise ConfigError(f"{count} folds asked for; cross-validation needs at least 2")
    by_hash = Folds(count, np.empty(0, np.uint64), np.empty(0, np.int64), ("folds: by content alone",))
    if not exact:
        return by_hash
    found: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
    pieces: list[Piece] = []
    total = 0
    for first, batch in placed if placed is not None else ((-1, batch) for batch in batches):
        place = total if first < 0 else first
        total += batch.n_structures
        if total <= _EXACT_FOLDS:
            found.append(_fold_keys(batch.ids, batch.groups))
        if total <= _COMPARED:
            pieces.append(piece(batch, found[-1], place))
    everyone = int(group.sum(torch.tensor(total)))
    if everyone > _EXACT_FOLDS:
        return by_hash
    own = torch.from_numpy(np.unique(np.concatenate(found)).astype(np.int64))
    keys = np.unique(group.joined(own).numpy().astype(np.uint64))
    if len(keys) < count:
        raise ConfigError(
            f"{count} folds asked for, but the data hold {len(keys)} different structures or trajectories; "
            "use fewer folds (trajectories stay together if --group-key named them at extraction)"
        )
    if everyone > _COMPARED or (group.size > 1 and placed is None):
        return Folds(count, keys, np.arange(len(keys)) % count, ("folds: at random by content (not compared)",))
    return _apart(Prints.joined(pieces, group), count, keys)


def _apart(prints: Prints, count: int, keys: NDArray[np.uint64]) -> Folds:
    """Folds that keep copies together, and neighbours where these are alike."""
    place = np.searchsorted(keys, prints.keys)  # of every structure among the keys
    copy, original = prints.copies()
    unit = _units(place[copy], place[original], len(keys))  # the first key of those that go together
    blocks, alike = prints.correlated()
    fixed = np.full(len(keys), -1)  # folds of units in blocks
    turn = 0
    for run in (run for members in blocks for run in np.split(members, np.flatnonzero(np.diff(members) != 1) + 1)):
        cuts = min(count, max(1, len(run) // _BLOCK))
        folds = (np.arange(len(run)) * cuts // len(run) + turn) % count
        turn += cuts
        at = unit[place[run[::-1]]]  # backwards, so that of copies in several blocks the first counts
        fixed[at] = np.where(fixed[at] < 0, folds[::-1], fixed[at])
    free = np.unique(unit[fixed[unit] < 0])
    fixed[free] = np.arange(len(free)) % count
    parts = fixed[unit]
    if len(np.unique(parts)) < count:
        few = f"folds: at random by content, since {len(keys)} structures without their copies are too few for {count}"
        return Folds(count, keys, np.arange(len(keys)) % count, (few,))
    remarks = [_reason(prints, len(blocks) > 0, alike, count)]
    copied = int((unit != np.arange(len(unit))).sum())
    if copied:
        many = "copies of others stay" if copied > 1 else "copy of another stays"
        remarks.append(f"{copied} {many} in the same fold (features alike)")
    return Folds(count, keys, parts, (*remarks, *_lone_elements(prints, parts[place])))


def _units(a: NDArray[np.int64], b: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """For each of so many keys the first of those that pairs (a, b) join it to."""
    joined = csr_array((np.ones(len(a), dtype=bool), (a, b)), shape=(count, count))
    _, label = connected_components(joined, directed=False)
    _, first, which = np.unique(label, return_index=True, return_inverse=True)
    return np.asarray(first[which])


def _reason(prints: Prints, blocks: bool, alike: float, count: int) -> str:
    """Which folds these are, and why."""
    if blocks:
        return (
            f"folds: {count} blocks of consecutive frames, which are alike (their mean squared distance is "
            f"{100 * alike:.2g} % of that of any two); extract --group-key keeps trajectories together instead"
        )
    if not prints.free.any():
        return "folds: whole trajectories, as --group-key named them"
    named = "trajectories that are named together, all else " if not prints.free.all() else ""
    return f"folds: {named}at random by content; consecutive frames are not alike"


def _lone_elements(prints: Prints, parts: NDArray[np.int64]) -> list[str]:
    """Elements that one fold alone holds: nothing is learned of them without it."""
    found = []
    for z in np.flatnonzero(prints.elements.any(0)).tolist():
        holders = prints.elements[:, z]
        if len(np.unique(parts[holders])) == 1 and not holders.all():
            number = int(holders.sum())
            found.append(
                f"{chemical_symbols[z]} is in {number} structure{'s' * (number > 1)} of one fold: left out, the "
                "element's reference energy is borrowed from the fit to all"
            )
    return found


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
    missing = torch.eye(len(gram), dtype=torch.float64) - torch.linalg.pinv(gram, hermitian=True, rtol=1e-13) @ gram
    missing[missing.abs() < 1e-9] = 0.0
    lost = missing @ baseline.energies
    if float(lost.abs().max()) > _ROUNDING * float(baseline.energies.abs().max()):
        lost = torch.zeros_like(lost)  # more than rounding: it is what the part does not know
    shift: Tensor = minimum_norm(gram, moment) - lost
    return shift


def _fold_keys(ids: Int64[Tensor, " structures"], groups: Int64[Tensor, " structures"]) -> NDArray[np.uint64]:
    """Pseudo-random numbers of the structures, equal within a group."""
    own, together = ids.numpy().astype(np.uint64), groups.numpy()
    keys = np.where(together >= 0, together.astype(np.uint64) * np.uint64(2) + np.uint64(1), own * np.uint64(2))
    return draw(keys, -1)

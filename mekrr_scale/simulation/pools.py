"""Where structures to choose from are in feature space, and their atoms beside those of the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, Landmarks, Plane
from mekrr_scale.errors import ConfigError
from mekrr_scale.figures import choice_map_axes, component_labels, kind_map_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = 3000  # atoms of each kind
TRAINING, OTHERS, CHOSEN = range(3)
_NAMES = ("training (landmarks)", "not chosen", "chosen")


@dataclass(frozen=True)
class PoolMap:
    """Features less the mean of the landmarks' atoms of the element, so that elements lie on one another.

    Of an element that no landmark has, less the mean of the pool's own.
    """

    atoms: Float[Tensor, "atoms dim"]  # evenly some of each kind, where there are many
    kinds: Int64[Tensor, " atoms"]  # TRAINING, OTHERS or CHOSEN
    structures: Float[Tensor, "structures dim"]  # means over the atoms of each
    order: tuple[int, ...]  # of the structures that were chosen

    @classmethod
    def of(cls, landmarks: Landmarks, batches: Sequence[FeatureBatch], order: Sequence[int]) -> PoolMap:
        """Of structures in memory."""
        sizes = torch.cat([batch.n_atoms for batch in batches])
        chosen = torch.zeros(len(sizes), dtype=torch.bool)
        chosen[list(order)] = True
        counts = len(landmarks.features), int(sizes[~chosen].sum()), int(sizes[chosen].sum())
        steps = [-(-max(count, 1) // _SHOWN) for count in counts]
        centres = _own_means(batches, landmarks.features.dtype)
        centres |= {run.z: run.features.mean(0) for run in landmarks.runs()}
        drawn = [(TRAINING, run.features[:: steps[TRAINING]] - centres[run.z]) for run in landmarks.runs()]
        means = []
        for batch, mine in zip(batches, chosen.split([batch.n_structures for batch in batches]), strict=True):
            total = torch.zeros(batch.n_structures, landmarks.features.shape[1], dtype=landmarks.features.dtype)
            for run in batch.runs:
                owner = torch.arange(batch.n_structures).repeat_interleave(run.ptr.diff())
                centred = run.features.to(total.dtype) - centres[run.z]
                total.index_add_(0, owner, centred)
                drawn += [(kind, centred[mine[owner] == (kind == CHOSEN)][:: steps[kind]]) for kind in (OTHERS, CHOSEN)]
            means.append(total / batch.n_atoms[:, None])
        kinds = torch.tensor([kind for kind, _ in drawn]).repeat_interleave(torch.tensor([len(f) for _, f in drawn]))
        return cls(torch.cat([features for _, features in drawn]), kinds, torch.cat(means), tuple(order))

    def plot_atoms(self, axes: Axes | None = None) -> Axes:
        """Atoms of the training, of the chosen structures and of the others."""
        plane = _plane(self.atoms)
        kinds = {name: (self.kinds == kind).numpy() for kind, name in enumerate(_NAMES)}
        return kind_map_axes(plane.at(self.atoms.numpy()), kinds, component_labels(plane.explained), axes)

    def plot_structures(self, axes: Axes | None = None) -> Axes:
        """Structures, the chosen ones numbered in their order."""
        plane = _plane(self.structures)
        return choice_map_axes(plane.at(self.structures.numpy()), self.order, component_labels(plane.explained), axes)


def _own_means(batches: Sequence[FeatureBatch], dtype: torch.dtype) -> dict[int, Float[Tensor, " dim"]]:
    """Of the features of each element's atoms."""
    found: dict[int, list[Tensor]] = {}
    for run in (run for batch in batches for run in batch.runs if len(run.features)):
        found.setdefault(run.z, []).append(run.features.to(dtype))
    return {z: torch.cat(parts).mean(0) for z, parts in found.items()}


def _plane(features: Float[Tensor, "rows dim"]) -> Plane:
    plane = Plane.of(features.numpy())
    if plane is None:
        raise ConfigError(f"a map needs three points and two features; there are {len(features)}, {features.shape[1]}")
    return plane

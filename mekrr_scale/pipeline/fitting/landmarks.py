"""Which landmarks a plan means, and more of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, Landmarks
from mekrr_scale.distributed import Group
from mekrr_scale.kernels import SetKernel
from mekrr_scale.landmarks import (
    Displaced,
    LandmarkMethod,
    Uniform,
    Warm,
    WholeStructures,
    choose,
    first_of_each,
    landmark_method,
    n_distinct,
)
from mekrr_scale.pipeline.fitting.plan import FitPlan

COPIES = 10  # of an atom at most, where nobody asked for copies
COUNTED = 20_000  # landmarks; of more it is not looked at how many are distinct


@dataclass(frozen=True)
class Candidates:
    """What landmarks are chosen among."""

    energies: Iterable[FeatureBatch]
    moved: Iterable[FeatureBatch] | None  # with tangents; None: there are none, or they are not used
    count: int  # of atoms that are not left out, on all ranks
    warm: Landmarks | None  # of another model
    group: Group

    def chosen(self, method: LandmarkMethod, kernel: SetKernel) -> Landmarks:
        """By a method, the same on all ranks."""
        moved = self.moved if method.tangents and self.moved is not None else self.energies
        return choose(method, moved, kernel, self.group)


def landmarks_of(plan: FitPlan, atoms: Candidates, kernel: SetKernel, count: int) -> Landmarks:
    """As many as that, chosen as the plan says."""
    method = method_of(plan, atoms, count)
    found = atoms.chosen(method, kernel)
    own = plan.landmarks.method == "auto" and isinstance(method, Uniform) and atoms.moved is not None
    if own and found.n_sets <= COUNTED and n_distinct(found) < count:
        return atoms.chosen(Displaced(count, plan.seed, plan.landmarks.balance), kernel)
    return found


def displaces(plan: FitPlan, atoms: int, derivatives: bool, count: int) -> bool:
    """Whether copies of atoms along tangents are made where there are fewer atoms than landmarks."""
    name = plan.landmarks.method
    return name == "displaced" or (name == "auto" and derivatives and atoms < count <= COPIES * atoms)


def most_of(plan: FitPlan, atoms: int, displaced: bool) -> int:
    """How many landmarks can be chosen while they grow.

    Args:
        displaced: whether copies of atoms can be made.
    """
    at = plan.landmarks
    if at.method == "displaced":
        return at.grow_to
    return min(at.grow_to, COPIES * atoms if at.method == "auto" and displaced else atoms)


def method_of(plan: FitPlan, atoms: Candidates, count: int) -> LandmarkMethod:
    """How the plan chooses landmarks; auto is uniform, and displaced where the data hold fewer atoms than that."""
    at = plan.landmarks
    if plan.solver.whole_structures:
        return WholeStructures(0, plan.seed)
    name = at.method
    if name == "auto":
        name = "displaced" if displaces(plan, atoms.count, atoms.moved is not None, count) else "uniform"
    own = landmark_method(name, count, plan.seed, at.balance)
    if atoms.warm is None:
        return own
    return Warm(atoms.warm, own if count else None)


def joined(old: Landmarks, more: Landmarks) -> tuple[Landmarks, Landmarks | None, Int64[Tensor, " columns"]]:
    """Single atoms and, of another choice, those that are new, up to its number for each element.

    Returns:
        all, those that are new (None: there are none), and for each of all its place among the old and the new.
    """
    parts: list[Landmarks] = []
    for z in more.species.unique().tolist():
        own, others = (found.features[found.species == z] for found in (old, more))
        # displaced copies that were made in other company differ in their last bits
        places = first_of_each(torch.cat([own.to(others.dtype), others])) - len(own)
        fresh = places[places >= 0][: max(0, len(others) - len(own))].tolist()
        if fresh:
            parts.append(_singletons(others[fresh], torch.full((len(fresh),), z)))
    if not parts:
        return old, None, torch.arange(old.n_sets)
    new = _singletons(torch.cat([part.features for part in parts]), torch.cat([part.species for part in parts]))
    species = torch.cat([old.species, new.species])
    order = species.sort(stable=True).indices
    features = torch.cat([old.features, new.features.to(old.features.dtype)])
    return _singletons(features[order], species[order]), new, order


def _singletons(features: Tensor, species: Tensor) -> Landmarks:
    return Landmarks(features, species, torch.arange(len(features)), len(features))

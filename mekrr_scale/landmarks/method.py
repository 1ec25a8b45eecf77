"""Choosing the sets that a model is an expansion over.

Choices depend on the content of the structures and a seed alone: every atom draws its number
from a hash of its structure's content and its place there, so that neither the order of the
structures nor their split into shards changes a model. All need one pass over the data and
memory for a pool of candidates, never for all atoms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import fields

from mekrr_scale.arrays import FeatureBatch, Landmarks
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.errors import ConfigError, require_known, suggestion
from mekrr_scale.kernels import SetKernel
from mekrr_scale.landmarks.choices import Balance


class LandmarkMethod(ABC):
    """A way to choose landmarks; a frozen dataclass that is its own configuration."""

    @property
    @abstractmethod
    def tangents(self) -> bool:
        """Whether the batches have to carry tangents, where the data hold any."""

    @abstractmethod
    def select(self, batches: Iterable[FeatureBatch], kernel: SetKernel, group: Group = ALONE) -> Landmarks:
        """Choose landmarks in one pass.

        Args:
            batches: of this rank; the landmarks are the same on all of them.

        Raises:
            ConfigError: more landmarks than there are atoms, or none.
        """


def landmark_method(
    name: str, count: int, seed: int = 0, balance: Balance = "sqrt", **parameters: object
) -> LandmarkMethod:
    """A method by its name in ``METHODS``.

    Args:
        balance: for the methods that share landmarks out among the species.
        parameters: of this method alone.

    Raises:
        ConfigError: unknown name or parameters.
    """
    from mekrr_scale import landmarks  # the face holds the table; it loads the method's file when it is asked for

    require_known("there is no landmark method", name, landmarks.METHODS)
    made = getattr(landmarks, landmarks.METHODS[name])
    own = {field.name for field in fields(made)}
    unknown = sorted(set(parameters) - own)
    if unknown:
        raise ConfigError(f"landmark method {name!r} has no {unknown[0]!r}. {suggestion(unknown[0], own)}")
    shared = {"balance": balance} if "balance" in own else {}
    found: LandmarkMethod = made(count=count, seed=seed, **shared, **parameters)
    return found


def choose(
    method: LandmarkMethod, batches: Iterable[FeatureBatch], kernel: SetKernel, group: Group = ALONE
) -> Landmarks:
    """Landmarks by a method; bit by bit the same on all ranks.

    Raises:
        ConfigError: see ``LandmarkMethod.select``.
    """
    return _agreed(method.select(batches, kernel, group), group)


def _agreed(landmarks: Landmarks, group: Group) -> Landmarks:
    """The first rank's landmarks, on all of them."""
    if group.size == 1:
        return landmarks
    features, species, owner = (
        group.broadcast(tensor.contiguous()) for tensor in (landmarks.features, landmarks.species, landmarks.owner)
    )
    return Landmarks(features, species, owner, landmarks.n_sets)

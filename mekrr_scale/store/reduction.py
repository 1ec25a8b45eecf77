"""How a store's features are to be compressed, and records with coordinates for features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mekrr_scale.arrays import BasisKind, Compression, Moments
from mekrr_scale.errors import ConfigError, StoreError
from mekrr_scale.files import Document
from mekrr_scale.store.axes import axes_asked_for, publish_axes
from mekrr_scale.store.format import StoreHeader
from mekrr_scale.store.reader import FeatureStore
from mekrr_scale.store.shard import RecordTangents, StructureRecord


@dataclass(frozen=True)
class Reduction:
    """Features as coordinates along principal axes: how many, or how little to lose, or the axes of another store.

    Raises:
        ConfigError: not one of the three, or out of range.
    """

    dim: int | None = None
    residual: float | None = None  # of the features' variance and the tangents' square, at most
    like: Path | None = None  # a store whose axes are taken
    basis: BasisKind = "species"

    def __post_init__(self) -> None:
        if sum(option is not None for option in (self.dim, self.residual, self.like)) != 1:
            raise ConfigError(
                "say how far features are compressed: by a number of coordinates, by a residual, or like another store"
            )
        if self.dim is not None and self.dim < 1:
            raise ConfigError(f"features cannot be compressed to {self.dim} numbers; give a positive number")
        if self.residual is not None and not 0 < self.residual < 1:
            raise ConfigError(f"a residual of {self.residual}: give a part between 0 and 1, such as 1e-3")

    @classmethod
    def given(cls, compress: int | str | Path | None, residual: float | None, basis: BasisKind) -> Reduction | None:
        """Of options; None where none of them asks for any.

        Args:
            compress: a number of coordinates, or the folder of a store.
        """
        if compress is None:
            if residual is None and basis != "species":
                raise ConfigError(f"a {basis} basis of what? say how far features are compressed (--compress 128)")
            return None if residual is None else cls(residual=residual, basis=basis)
        text = str(compress)
        if text.lstrip("-").isdigit():
            return cls(dim=int(text), residual=residual, basis=basis)
        return cls(like=Path(text), residual=residual, basis=basis)

    def check(self, full: int) -> None:
        """Refuse more coordinates than features have numbers.

        Raises:
            ConfigError: says how many there are.
        """
        if self.dim is not None and self.dim >= full:
            raise ConfigError(f"{full} numbers cannot be compressed to {self.dim}; give a number from 1 to {full - 1}")

    def asked(self) -> Document:
        """What those who go on with a store have to ask for too."""
        if self.like is not None:
            return {"like": str(self._theirs().hash)}
        number = {"residual": self.residual} if self.dim is None else {"dim": self.dim}
        return {**number, "basis": self.basis}

    def axes(self, moments: Moments | None) -> Compression:
        """The axes themselves.

        Args:
            moments: of the features; not needed where another store's are taken.
        """
        if self.like is not None or moments is None:
            return self._theirs()
        return moments.compression(self.dim, self.residual, self.basis)

    def _theirs(self) -> Compression:
        assert self.like is not None
        found = FeatureStore(self.like, level="size").compression
        if found is None:
            raise StoreError(f"{self.like} is not compressed: its features are as the backbone gives them")
        return found


@dataclass(frozen=True)
class Columns:
    """Some of the numbers of each feature vector, which are the features of another backbone.

    Args:
        places: where they stand.
        backbone, spec: identity of the other backbone, and how to load it (``StoreHeader``).
    """

    places: Sequence[int]
    backbone: Document
    spec: Document

    def header(self, header: StoreHeader) -> StoreHeader:
        """Of the store that holds these alone.

        Raises:
            StoreError: features are compressed, so that no number is one of the backbone's.
            ConfigError: numbers that features do not have.
        """
        if header.compression:
            raise StoreError("the features are compressed; take columns of the store that they were compressed from")
        if not self.places or not 0 <= min(self.places) <= max(self.places) < header.dim:
            raise ConfigError(
                f"columns of {header.dim} features have numbers from 0 to {header.dim - 1}; name some of these"
            )
        return replace(header, dim=len(self.places), backbone=self.backbone, spec=self.spec)

    def of(self, record: StructureRecord) -> StructureRecord:
        """A structure with these alone."""
        tangents = record.tangents
        if tangents is not None:
            tangents = replace(tangents, features=np.ascontiguousarray(tangents.features[..., self.places]))
        return replace(record, features=np.ascontiguousarray(record.features[:, self.places]), tangents=tangents)


def axes_for(store: FeatureStore, target: Path, wanted: Reduction | None) -> Compression | None:
    """The axes of a store that is written anew: its own, or those of all that it holds; in the target from now on.

    Raises:
        StoreError: it is compressed already, or the target has other axes.
    """
    if wanted is None:
        found = store.compression
        return None if found is None else publish_axes(target, found, {"like": found.hash})
    if store.header.compression:
        raise StoreError(f"{store.path} is compressed already; compress the store that it was made of")
    wanted.check(store.header.dim)
    asked = {**wanted.asked(), "source": store.id}
    found = axes_asked_for(target, asked)
    return found or publish_axes(target, wanted.axes(None if wanted.like else _moments(store)), asked)


def _moments(store: FeatureStore) -> Moments:
    """Of all structures of a store but isolated atoms, unless there are no others."""
    found, lone = Moments(), Moments()
    for batch in replace(store, tangents=True):
        found.add_batch(batch.kept(~batch.isolated))
        lone.add_batch(batch.kept(batch.isolated))
    return found if found.atoms else lone


def reduced(record: StructureRecord, axes: Compression) -> StructureRecord:
    """A structure with coordinates for features."""
    features = np.empty((len(record.numbers), axes.dim), record.features.dtype)
    moved = None if record.tangents is None else _empty(record.tangents, axes)
    for z in np.unique(record.numbers).tolist():
        here = record.numbers == z
        features[here] = axes.apply(z, torch.from_numpy(record.features[here])).numpy()
        if moved is not None and record.tangents is not None:
            rows = np.ascontiguousarray(record.tangents.features[:, here])
            moved[:, here] = axes.apply_tangent(z, torch.from_numpy(rows)).numpy()
    tangents = None if moved is None or record.tangents is None else replace(record.tangents, features=moved)
    return replace(record, features=features, tangents=tangents)


def _empty(tangents: RecordTangents, axes: Compression) -> NDArray[np.floating]:
    return np.empty((*tangents.features.shape[:2], axes.dim), tangents.features.dtype)

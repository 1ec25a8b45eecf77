"""Which backbone, in plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mekrr_scale.files import Document

Architecture: TypeAlias = Document  # what a network can be built from again: plain values


@dataclass(frozen=True)
class BackboneSpec:
    """How to load a backbone again: what a user types, saved with every model.

    Fields left at None take the adapter's default.
    """

    name: str = "chgnet"
    layer: str | None = None
    version: str | None = None  # chgnet, sevennet: which of the wheel's weights; mace: the head
    checkpoint: str | None = None  # path of the weights
    max_neighbors: int | None = None  # schnet, dimenet++: cap on neighbours, 0 for none
    # of a checkpoint that holds code: another file is not even opened
    sha256: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, document: Document) -> BackboneSpec:
        """From what stores and models hold.

        >>> BackboneSpec.of({"name": "chgnet", "layer": "conv4"}).layer
        'conv4'
        """
        plain: dict[str, Any] = dict(document)
        return cls(**plain)

    @classmethod
    def parse(cls, text: str) -> BackboneSpec:
        """A backbone's name, with its layer behind a colon where it is not the default.

        >>> BackboneSpec.parse("chgnet:conv4").layer
        'conv4'
        """
        name, _, layer = text.partition(":")
        return cls(name, layer or None)

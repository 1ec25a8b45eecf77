"""Which backbone, in plain values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

from mekrr_scale.errors import BackboneError, suggestion
from mekrr_scale.files import Document

Architecture: TypeAlias = Document  # what a network can be built from again: plain values
Given: TypeAlias = dict[str, Any]  # options of a backbone by name
InvariantKind: TypeAlias = Literal["scalars", "norms", "products"]


STRESS_TRAINED = ("chgnet", "sevennet", "mace")  # networks whose published weights were trained on stress


@dataclass(frozen=True, repr=False)
class BackboneSpec:
    """How to load a backbone again: what a user types, saved with every model.

    Fields left at None take the adapter's default.

    Raises:
        BackboneError: no such invariants.
    """

    name: str = "sevennet"
    layer: str | None = None
    version: str | None = None  # which of the wheel's weights; mace: the head; metatomic: the variant of the energy
    checkpoint: str | None = None  # path of the weights
    max_neighbors: int | None = None  # schnet, dimenet++: cap on neighbours, 0 for none
    # of a checkpoint that holds code: another file is not even opened
    sha256: str | None = field(default=None, repr=False)
    invariants: str | None = None  # sevennet, mace: what is taken of their channels of l > 0, an ``InvariantKind``

    def __post_init__(self) -> None:
        known = get_args(InvariantKind)
        if self.invariants is not None and self.invariants not in known:
            raise BackboneError(f"there are no invariants {self.invariants!r}. {suggestion(self.invariants, known)}")

    def __repr__(self) -> str:
        """Invariants where they are given alone: folders that were begun before there were any hold this text."""
        absent = {"invariants"} if self.invariants is None else set()
        shown = [one.name for one in fields(self) if one.repr and one.name not in absent]
        return f"BackboneSpec({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    @classmethod
    def of(cls, document: Document) -> BackboneSpec:
        """From what stores and models hold.

        >>> BackboneSpec.of({"name": "chgnet", "layer": "conv4"}).layer
        'conv4'
        """
        plain: Given = dict(document)
        return cls(**plain)

    @classmethod
    def parse(cls, text: str) -> BackboneSpec:
        """A backbone's name; behind colons its layer and invariants, where they are not the default.

        >>> BackboneSpec.parse("chgnet:conv4").layer
        'conv4'
        >>> BackboneSpec.parse("sevennet::norms")
        BackboneSpec(name='sevennet', layer=None, version=None, checkpoint=None, max_neighbors=None, invariants='norms')

        Raises:
            BackboneError: no such invariants.
        """
        name, _, rest = text.partition(":")
        layer, _, invariants = rest.partition(":")
        return cls(name, layer or None, invariants=invariants or None)


def layers_of(text: str, known: Iterable[str], place: str) -> tuple[str, ...]:
    """Layers that are joined by +, each once and in the network's order.

    >>> layers_of("gate2+gate1", ["gate1", "gate2", "gate3"], "7net-0")
    ('gate1', 'gate2')

    Raises:
        BackboneError: one that the network does not have.
    """
    known = list(known)
    chosen = text.split("+")
    for part in chosen:
        if part not in known:
            raise BackboneError(f"{place} has no layer {part!r}. {suggestion(part, known)}")
    return tuple(sorted(set(chosen), key=known.index))

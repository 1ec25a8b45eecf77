"""Invariants of the equivariant channels of a layer (e3nn's irreps, Geiger and Smidt, arXiv 2207.09453).

A channel c of degree l > 0 is a vector b_c of 2l + 1 components that turns with the structure. What does not turn:

    norms:     |b_c|^2 of each channel
    products:  these, and (A b)_k . (B b)_k of each degree, k = 1 ... 64, where A and B mix the C channels of one
               degree and parity with fixed random signs over sqrt(C)

Squares and products are smooth where a channel vanishes, as it does in symmetric structures, and so are their
derivatives; lengths would not be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mekrr_scale.backbones.spec import InvariantKind
from mekrr_scale.errors import BackboneError

N_PRODUCTS = 64  # of each degree and parity


@final
@dataclass(frozen=True)
class _Channels:
    """Equivariant channels of one degree and parity."""

    degree: int
    places: tuple[tuple[int, int], ...]  # where runs of them begin and end among a layer's components
    signs: Float[Tensor, "channels mixed"] | None  # of both factors of each product

    @property
    def count(self) -> int:
        return sum(stop - start for start, stop in self.places) // (2 * self.degree + 1)

    def vectors(self, components: Float[Tensor, "atoms components"]) -> Float[Tensor, "atoms channels axes"]:
        runs = [components[:, start:stop] for start, stop in self.places]
        return torch.cat([run.unflatten(1, (-1, 2 * self.degree + 1)) for run in runs], 1)


@final
@dataclass(frozen=True)
class Invariants:
    """What is taken of one layer's components: its scalars, which come first, and what is made of the others."""

    scalars: int
    channels: tuple[_Channels, ...] = ()

    @classmethod
    def of(cls, kind: InvariantKind, irreps: Iterable[tuple[int, int, int]], scalars: int, number: int) -> Invariants:
        """Of a layer.

        Args:
            irreps: multiplicity, degree and parity of the channels, in the order in which they lie.
            scalars: how many of the first components are invariant.
            number: of the layer in its network, from 1; it alone and the degree seed the mixings, so that a layer's
                features are the same beside others and for ever.
        """
        places: dict[tuple[int, int], list[tuple[int, int]]] = {}
        start = 0
        for multiplicity, degree, parity in irreps:
            stop = start + multiplicity * (2 * degree + 1)
            if degree > 0 and multiplicity > 0 and kind != "scalars":
                places.setdefault((degree, parity), []).append((start, stop))
            start = stop
        found = []
        for (degree, _), runs in places.items():
            count = _Channels(degree, tuple(runs), None).count
            signs = _signs(degree, number, count) if kind == "products" else None
            found.append(_Channels(degree, tuple(runs), signs))
        return cls(scalars, tuple(found))

    @property
    def dim(self) -> int:
        products = sum(N_PRODUCTS for one in self.channels if one.signs is not None)
        return self.scalars + sum(one.count for one in self.channels) + products

    def columns(self, kind: InvariantKind) -> list[int]:
        """Which of these a lesser kind has too: they are the same numbers."""
        norms = sum(one.count for one in self.channels) if kind != "scalars" else 0
        return list(range(self.dim if kind == "products" else self.scalars + norms))

    def __call__(self, components: Float[Tensor, "atoms components"]) -> Float[Tensor, "atoms dim"]:
        if not self.channels:
            return components[:, : self.scalars]
        vectors = [one.vectors(components) for one in self.channels]
        norms = [(found * found).sum(2) for found in vectors]
        products = [
            _products(found, one.signs)
            for found, one in zip(vectors, self.channels, strict=True)
            if one.signs is not None
        ]
        return torch.cat([components[:, : self.scalars], *norms, *products], 1)


def columns_of(layers: Iterable[Invariants], kind: InvariantKind) -> list[int]:
    """Which features of several layers, one behind the other, a lesser kind has too."""
    found: list[int] = []
    start = 0
    for layer in layers:
        found += [start + column for column in layer.columns(kind)]
        start += layer.dim
    return found


def require_channels(kind: InvariantKind, layers: Sequence[Invariants], name: str) -> None:
    """Norms of nothing are refused: they would be the scalars under another name.

    Raises:
        BackboneError: no layer has channels of l > 0.
    """
    if kind != "scalars" and not any(layer.channels for layer in layers):
        raise BackboneError(f"{name} has no channels of l > 0 to make {kind} of; take another layer, or scalars")


def _products(
    vectors: Float[Tensor, "atoms channels axes"], signs: Float[Tensor, "channels mixed"]
) -> Float[Tensor, "atoms products"]:
    mixed = vectors.transpose(1, 2) @ signs.to(vectors)
    left, right = mixed.tensor_split(2, 2)
    return (left * right).sum(1) / len(signs)


def _signs(degree: int, number: int, count: int) -> Float[Tensor, "channels mixed"]:
    """Random signs, exact in every precision, from raw bits, which numpy keeps the same in all its versions."""
    bits = np.random.PCG64([number, degree]).random_raw(2 * N_PRODUCTS * count) >> np.uint64(63)
    return torch.from_numpy(1.0 - 2.0 * bits.reshape(2 * N_PRODUCTS, count).astype(np.float64)).T.contiguous()

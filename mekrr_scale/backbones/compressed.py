"""A backbone whose features are coordinates along fixed axes; forces and tangents follow by the chain rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from mekrr_scale.arrays import Compression
from mekrr_scale.backbones.base import Backbone
from mekrr_scale.backbones.derivatives import LinearMap
from mekrr_scale.backbones.outer import Outer, OuterMap
from mekrr_scale.backbones.output import BackboneOutput
from mekrr_scale.errors import BackboneError
from mekrr_scale.structures import Graph


@final
class Compressed(Outer):
    """A backbone before a ``Compression``, which stands in the headers of stores and models beside its identity.

    Raises:
        BackboneError: a compression of features of another length.
    """

    def __init__(self, inner: Backbone, compression: Compression) -> None:
        if compression.full != inner.dim:
            raise BackboneError(
                f"backbone {inner.name} has {inner.dim} features, the compression takes {compression.full}; give the "
                "backbone that the features were compressed from"
            )
        super().__init__(inner)
        self.compression, self.dim = compression, compression.dim
        self.spec, self.coded = inner.spec, inner.coded

    def on_edges(self, graph: Graph, vectors: Float[Tensor, "edges 3"], energies: bool = True) -> BackboneOutput:
        return self.reduced(graph, self.inner.on_edges(graph, vectors, energies))

    def reduced(self, graph: Graph, found: BackboneOutput) -> BackboneOutput:
        """What the network gives, with coordinates for features."""
        return BackboneOutput(_by_species(graph, found.features, self.dim, self.compression.apply), found.energies)

    def linearize(self, graph: Graph) -> LinearMap | None:
        """The inner network's, where it has one, before the axes."""
        linear = self.inner_map(graph)
        return None if linear is None else _Projected(linear, graph, self.compression)


@dataclass(frozen=True)
class _Projected(OuterMap):
    """A linearization whose features are coordinates."""

    graph: Graph
    compression: Compression

    def push(
        self, moves: Float[Tensor, "directions atoms 3"], strains: Float[Tensor, "directions structures 3 3"]
    ) -> Float[Tensor, "directions atoms dim"]:
        pushed = self.inner.push(moves, strains)
        return _by_species(self.graph, pushed, self.compression.dim, self.compression.apply_tangent)


def _by_species(
    graph: Graph, features: Float[Tensor, "*rows full"], dim: int, apply: Callable[[int, Tensor], Tensor]
) -> Float[Tensor, "*rows dim"]:
    """A function of the atoms of each element, which computes in float64; the last axis but one is that of atoms."""
    numbers = graph.numbers
    places = [(z, (numbers == z).nonzero()[:, 0]) for z in numbers.unique().tolist()]
    if not places:
        return features[..., :dim]
    parts = [apply(z, features[..., place, :]) for z, place in places]
    back = torch.cat([place for _, place in places]).argsort()
    return torch.cat(parts, -2)[..., back, :].to(features.dtype)


def with_compression(backbone: Backbone, compression: Compression | None) -> Backbone:
    """A backbone before a compression, or without one; what it had before does not count."""
    inner = backbone.inner if isinstance(backbone, Compressed) else backbone
    return inner if compression is None else Compressed(inner, compression)

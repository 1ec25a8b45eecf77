"""A backbone whose features are coordinates along fixed axes; forces and tangents follow by the chain rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mekrr_scale.arrays import Compression
from mekrr_scale.backbones.base import Backbone
from mekrr_scale.backbones.output import BackboneOutput
from mekrr_scale.backbones.spec import Architecture
from mekrr_scale.errors import BackboneError
from mekrr_scale.structures import Graph


@final
class Compressed(Backbone):
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
        self.inner, self.compression = inner, compression
        self.name, self.version, self.layer = inner.name, inner.version, inner.layer
        self.cutoff, self.species, self.options = inner.cutoff, inner.species, inner.options
        self.spec, self.coded = inner.spec, inner.coded
        self.dim = compression.dim
        self.module = inner.module

    @property
    def has_energy(self) -> bool:
        return self.inner.has_energy

    def blocks(self) -> dict[str, Sequence[nn.Module]]:
        return self.inner.blocks()

    def config(self) -> Architecture:
        return self.inner.config()

    def fresh(self) -> nn.Module:
        return self.inner.fresh()

    def species_rows(self, z: int) -> Sequence[Tensor]:
        return self.inner.species_rows(z)

    def prepare(self, graph: Graph) -> Graph:
        return self.inner.prepare(graph)

    def forward(
        self,
        graph: Graph,
        positions: Float[Tensor, "atoms 3"],
        strain: Float[Tensor, "structures 3 3"] | None = None,
        energies: bool = True,
    ) -> BackboneOutput:
        return self.reduced(graph, self.inner.forward(graph, positions, strain, energies))

    def reduced(self, graph: Graph, found: BackboneOutput) -> BackboneOutput:
        """What the network gives, with coordinates for features: species by species, in float64."""
        numbers = graph.numbers
        places = [(z, (numbers == z).nonzero()[:, 0]) for z in numbers.unique().tolist()]
        if not places:
            return BackboneOutput(found.features[:, : self.dim], found.energies)
        parts = [self.compression.apply(z, found.features[place]) for z, place in places]
        back = torch.cat([place for _, place in places]).argsort()
        return BackboneOutput(torch.cat(parts)[back].to(found.features.dtype), found.energies)


def with_compression(backbone: Backbone, compression: Compression | None) -> Backbone:
    """A backbone before a compression, or without one; what it had before does not count."""
    inner = backbone.inner if isinstance(backbone, Compressed) else backbone
    return inner if compression is None else Compressed(inner, compression)


def forward_of(backbone: Backbone, wrap: Callable[..., Callable[..., BackboneOutput]]) -> Callable[..., BackboneOutput]:
    """``forward`` with what is the network's of it wrapped, such as by a compiler."""
    if not isinstance(backbone, Compressed):
        return wrap(backbone.forward)
    network, reduced = wrap(backbone.inner.forward), backbone.reduced

    def forward(graph: Graph, *arguments: Tensor | None, energies: bool = True) -> BackboneOutput:
        return reduced(graph, network(graph, *arguments, energies=energies))

    return forward

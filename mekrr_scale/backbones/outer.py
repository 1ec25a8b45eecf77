"""A backbone around another, whose network it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mekrr_scale.backbones.base import Backbone
from mekrr_scale.backbones.derivatives import Linearizable, LinearMap
from mekrr_scale.backbones.spec import Architecture
from mekrr_scale.structures import Graph


class Outer(Backbone):
    """What is the inner network's is asked of it; ``on_edges``, and what it changes, is the outer one's own."""

    def __init__(self, inner: Backbone) -> None:
        self.inner = inner
        self.name, self.version, self.layer = inner.name, inner.version, inner.layer
        self.cutoff, self.dim, self.species, self.options = inner.cutoff, inner.dim, inner.species, inner.options
        self.module, self.in_chunks, self.takes = inner.module, inner.in_chunks, inner.takes
        self.scripted, self.by_paths = inner.scripted, inner.by_paths

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

    @property
    def extensive(self) -> bool:
        return self.inner.extensive

    def hops(self, energies: bool) -> int:
        return self.inner.hops(energies)

    def prepare(self, graph: Graph) -> Graph:
        return self.inner.prepare(graph)

    def inner_map(self, graph: Graph) -> LinearMap | None:
        """The inner network's linearization, where it has one."""
        return self.inner.linearize(graph) if isinstance(self.inner, Linearizable) else None


@dataclass(frozen=True)
class OuterMap:
    """A linearization around that of an inner network; ``push`` is its own."""

    inner: LinearMap

    @property
    def width(self) -> int:
        return self.inner.width

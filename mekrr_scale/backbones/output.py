"""What a network gives for a graph, and what derivatives need of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mekrr_scale.errors import BackboneError
from mekrr_scale.structures import Graph


@dataclass(frozen=True)
class BackboneOutput:
    """Features of all atoms of a graph and, where the backbone is a potential, its energies."""

    features: Float[Tensor, "atoms dim"]
    energies: Float[Tensor, " atoms"] | None  # eV, each atom's part

    def energy(self, graph: Graph) -> Float[Tensor, " structures"]:
        """Total energies (eV).

        Raises:
            BackboneError: the backbone is not a potential.
        """
        if self.energies is None:
            raise BackboneError("this backbone gives no energies; use baseline 'composition'")
        total = self.energies.new_zeros(graph.n_structures)
        return total.index_add(0, graph.owner, self.energies)


@runtime_checkable
class Network(Protocol):
    """Features of graphs, differentiable in positions and strain; every ``Backbone`` is one."""

    dim: int

    @property
    def has_energy(self) -> bool: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def forward(
        self,
        graph: Graph,
        positions: Float[Tensor, "atoms 3"],
        strain: Float[Tensor, "structures 3 3"] | None = None,
        energies: bool = True,
    ) -> BackboneOutput: ...

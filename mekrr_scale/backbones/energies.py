"""A backbone's own potential, as a prior or a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from ase import Atoms

from mekrr_scale.backbones.base import Backbone
from mekrr_scale.backbones.memory import within_memory
from mekrr_scale.backbones.surroundings import evaluating
from mekrr_scale.errors import ConfigError
from mekrr_scale.structures import Graph, Prediction, require_finite


@final
@dataclass(frozen=True)
class BackboneEnergies:
    """A backbone's own potential.

    Args:
        max_memory: bytes that the network may take, see ``within_memory``.

    Raises:
        ConfigError: it gives no energies.
    """

    backbone: Backbone
    max_memory: int | None = None

    def __post_init__(self) -> None:
        if not self.backbone.has_energy:
            raise ConfigError(f"backbone {self.backbone.name} gives no energies and cannot be a prior")

    def predict(self, atoms: Atoms | Sequence[Atoms], forces: bool = True, stress: bool = False) -> Prediction:
        with evaluating(forces or stress):
            found = self._predict(self.backbone.graph(atoms), forces, stress)
        require_finite(found, [atoms] if isinstance(atoms, Atoms) else list(atoms))
        return found

    def _predict(self, graph: Graph, forces: bool, stress: bool) -> Prediction:
        positions = graph.positions.detach().clone().requires_grad_(forces or stress)
        strain = positions.new_zeros(graph.n_structures, 3, 3).requires_grad_(stress)
        graph = within_memory(self.backbone, graph, True, self.max_memory)
        output = self.backbone.forward(graph, positions, strain if stress else None)
        energy = output.energy(graph)
        assert output.energies is not None
        energies = output.energies.detach().cpu().double()
        total = energy.detach().cpu().double()
        if not (forces or stress):
            return Prediction(total, energies, None, None)
        inputs = [positions, strain] if stress else [positions]
        gradients = torch.autograd.grad(energy.sum(), inputs, allow_unused=True, materialize_grads=True)
        found = -gradients[0].cpu().double() if forces else None
        if not stress:
            return Prediction(total, energies, found, None)
        return Prediction(total, energies, found, graph.stress(gradients[1]))

"""Directional derivatives of features: what derivative rows are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mekrr_scale.backbones.base import Backbone
from mekrr_scale.errors import BackboneError, suggestion
from mekrr_scale.graphs import Graph

Mode = Literal["auto", "forward", "reverse"]


@dataclass(frozen=True)
class Directions:
    """Directions in which all atoms of one structure move.

    A displacement moves the atoms by ``displacements[k]``; a strain ``strains[k]`` takes positions
    and cell to ``r (1 + eps)``. A direction may hold both; unused parts are zero.
    """

    displacements: Float[Tensor, "directions atoms 3"]
    strains: Float[Tensor, "directions 3 3"]

    @classmethod
    def of_displacements(cls, displacements: Float[Tensor, "directions atoms 3"]) -> Directions:
        return cls(displacements, displacements.new_zeros(len(displacements), 3, 3))

    @classmethod
    def of_strains(cls, strains: Float[Tensor, "directions 3 3"], n_atoms: int) -> Directions:
        return cls(strains.new_zeros(len(strains), n_atoms, 3), strains)

    def joined(self, other: Directions) -> Directions:
        return Directions(
            torch.cat([self.displacements, other.displacements]), torch.cat([self.strains, other.strains])
        )

    def __len__(self) -> int:
        return len(self.displacements)


@dataclass(frozen=True)
class TangentOutput:
    """Directional derivatives of features (per angstrom, or per unit strain) and energies."""

    features: Float[Tensor, "directions atoms dim"]
    energy: Float[Tensor, " directions"] | None  # eV per angstrom or per unit strain


def tangents(
    backbone: Backbone,
    graph: Graph,
    directions: Directions,
    mode: Mode = "auto",
    chunk: int = 9,
) -> TangentOutput:
    """Derivatives of the features of one structure along directions.

    Forward mode pushes a chunk of directions through the network at once. Reverse mode is the
    fallback (taken by ``auto``) for networks with operations that have no forward rule: it
    differentiates the backward pass with respect to its (dummy) seed, which gives the same numbers.

    Args:
        graph: of one structure.
        chunk: directions pushed through at once; 9 is best on a CPU.

    Raises:
        BackboneError: several structures in the graph, shapes that do not fit, or an unknown mode.
    """
    if graph.n_structures != 1:
        raise BackboneError(f"tangents take the graph of one structure, this one has {graph.n_structures}")
    if directions.displacements.shape[1:] != graph.positions.shape:
        raise BackboneError(
            f"directions have shape {tuple(directions.displacements.shape)}, expected "
            f"[directions, {len(graph.positions)}, 3] for a structure of {len(graph.positions)} atoms"
        )
    if mode not in get_args(Mode):
        raise BackboneError(f"unknown mode {mode!r}. {suggestion(mode, get_args(Mode))}")
    moves = directions.displacements.to(backbone.device, backbone.dtype)
    strains = directions.strains.to(backbone.device, backbone.dtype)
    push = {"auto": _push, "forward": _push_forward, "reverse": _push_reverse}[mode]
    parts = [
        push(backbone, graph, moves[i : i + chunk], strains[i : i + chunk]) for i in range(0, len(directions), chunk)
    ]
    if not parts:
        empty = graph.positions.new_zeros(0, len(graph.positions), backbone.dim)
        return TangentOutput(empty, graph.positions.new_zeros(0) if backbone.has_energy else None)
    energy = torch.cat([energy for _, energy in parts]) if backbone.has_energy else None
    return TangentOutput(torch.cat([features for features, _ in parts]), energy)


def _outputs(
    backbone: Backbone, graph: Graph, positions: Tensor, strain: Tensor | None
) -> tuple[Float[Tensor, "atoms dim"], Float[Tensor, " structures"]]:
    output = backbone.forward(graph, positions, None if strain is None else strain[None])
    return output.features, output.energy(graph) if backbone.has_energy else output.features.new_zeros(1)


def _push(backbone: Backbone, graph: Graph, moves: Tensor, strains: Tensor) -> tuple[Tensor, Tensor]:
    try:
        return _push_forward(backbone, graph, moves, strains)
    except NotImplementedError:  # what torch raises for an operation without a forward rule
        return _push_reverse(backbone, graph, moves, strains)


def _push_forward(backbone: Backbone, graph: Graph, moves: Tensor, strains: Tensor) -> tuple[Tensor, Tensor]:
    def function(positions: Tensor, strain: Tensor) -> tuple[Tensor, Tensor]:
        return _outputs(backbone, graph, positions, strain)

    def push(move: Tensor, strain: Tensor) -> tuple[Tensor, Tensor]:
        at = (graph.positions, torch.zeros_like(strain))
        tangent: tuple[Tensor, Tensor] = torch.func.jvp(function, at, (move, strain))[1]
        return tangent

    def push_move(move: Tensor) -> tuple[Tensor, Tensor]:
        def at(positions: Tensor) -> tuple[Tensor, Tensor]:
            return _outputs(backbone, graph, positions, None)

        tangent: tuple[Tensor, Tensor] = torch.func.jvp(at, (graph.positions,), (move,))[1]
        return tangent

    with torch.no_grad():
        if bool(strains.any()):
            features, energy = torch.func.vmap(push)(moves, strains)
        else:  # half the work
            features, energy = torch.func.vmap(push_move)(moves)
    return features, energy[:, 0]


def _push_reverse(backbone: Backbone, graph: Graph, moves: Tensor, strains: Tensor) -> tuple[Tensor, Tensor]:
    positions = graph.positions.detach().clone().requires_grad_(True)
    strain = positions.new_zeros(3, 3).requires_grad_(True)
    with torch.enable_grad():
        features, energy = _outputs(backbone, graph, positions, strain)
        seeds = torch.zeros_like(features, requires_grad=True), torch.zeros_like(energy, requires_grad=True)
        # the pull-back is linear in its seed; its derivative with respect to the seed pushes forward
        outputs = (features, energy) if energy.requires_grad else (features,)
        pulled = torch.autograd.grad(
            outputs, (positions, strain), seeds[: len(outputs)], create_graph=True, materialize_grads=True
        )
    rows = []
    for move, turn in zip(moves, strains, strict=True):
        gradients = torch.autograd.grad(
            pulled, seeds, (move, turn), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append(gradients)
    return torch.stack([row[0] for row in rows]), torch.stack([row[1][0] for row in rows])

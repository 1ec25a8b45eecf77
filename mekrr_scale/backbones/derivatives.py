"""Directional derivatives of features: what derivative rows are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mekrr_scale.backbones.output import Network
from mekrr_scale.backbones.surroundings import differentiating
from mekrr_scale.errors import BackboneError, suggestion
from mekrr_scale.structures import Graph

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
    network: Network,
    graph: Graph,
    directions: Directions,
    mode: Mode = "auto",
    chunk: int = 9,
    energies: bool = True,
) -> TangentOutput:
    """Derivatives of the features of one structure along directions.

    Forward mode pushes a chunk of directions through the network at once. Reverse mode is the
    fallback (taken by ``auto``) for networks with operations that have no forward rule: it
    differentiates the backward pass with respect to its (dummy) seed, which gives the same numbers.

    Args:
        graph: of one structure.
        chunk: directions pushed through at once; 9 is best on a CPU.
        energies: those of the network's own energy too, if it has one: one more sweep.

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
    push = {"auto": _push, "forward": _push_forward, "reverse": _push_reverse}[mode]
    with differentiating(False):
        moves = directions.displacements.to(network.device, network.dtype)
        strains = directions.strains.to(network.device, network.dtype)
        parts = [
            push(network, graph, moves[i : i + chunk], strains[i : i + chunk]) for i in range(0, len(directions), chunk)
        ]
        features = torch.cat(parts) if parts else graph.positions.new_zeros(0, len(graph.positions), network.dim)
        wanted = energies and network.has_energy
        return TangentOutput(features, _energy_slopes(network, graph, moves, strains) if wanted else None)


def _energy_slopes(network: Network, graph: Graph, moves: Tensor, strains: Tensor) -> Float[Tensor, " directions"]:
    """Derivatives of the energy, a scalar: one reverse sweep serves all directions."""
    positions = graph.positions.detach().clone().requires_grad_(True)
    strain = positions.new_zeros(1, 3, 3).requires_grad_(True)
    with torch.enable_grad():
        energy = network.forward(graph, positions, strain).energy(graph).sum()
        if not energy.requires_grad:
            return positions.new_zeros(len(moves)).detach()
        force, virial = torch.autograd.grad(energy, (positions, strain), materialize_grads=True)
    return torch.einsum("kac,ac->k", moves, force) + torch.einsum("kab,ab->k", strains, virial[0])


def _push(network: Network, graph: Graph, moves: Tensor, strains: Tensor) -> Float[Tensor, "directions atoms dim"]:
    try:
        return _push_forward(network, graph, moves, strains)
    except NotImplementedError:  # what torch raises for an operation without a forward rule
        return _push_reverse(network, graph, moves, strains)


def _push_forward(network: Network, graph: Graph, moves: Tensor, strains: Tensor) -> Tensor:
    def features(positions: Tensor, strain: Tensor) -> Tensor:
        return network.forward(graph, positions, strain[None], energies=False).features

    def unstrained(positions: Tensor) -> Tensor:
        return network.forward(graph, positions, energies=False).features

    def push(move: Tensor, strain: Tensor) -> Tensor:
        at = (graph.positions, torch.zeros_like(strain))
        tangent: Tensor = torch.func.jvp(features, at, (move, strain))[1]
        return tangent

    def push_move(move: Tensor) -> Tensor:
        tangent: Tensor = torch.func.jvp(unstrained, (graph.positions,), (move,))[1]
        return tangent

    if bool(strains.any()):
        pushed: Tensor = torch.func.vmap(push)(moves, strains)
    else:  # half the work
        pushed = torch.func.vmap(push_move)(moves)
    return pushed


def _push_reverse(network: Network, graph: Graph, moves: Tensor, strains: Tensor) -> Tensor:
    positions = graph.positions.detach().clone().requires_grad_(True)
    strain = positions.new_zeros(3, 3).requires_grad_(True)
    with torch.enable_grad():
        features = network.forward(graph, positions, strain[None], energies=False).features
        seed = torch.zeros_like(features, requires_grad=True)
        # the pull-back is linear in its seed; its derivative with respect to the seed pushes forward
        pulled = torch.autograd.grad(features, (positions, strain), seed, create_graph=True, materialize_grads=True)
    rows = [
        torch.autograd.grad(pulled, seed, (move, turn), retain_graph=True, allow_unused=True, materialize_grads=True)
        for move, turn in zip(moves, strains, strict=True)
    ]
    return torch.stack([row[0] for row in rows])

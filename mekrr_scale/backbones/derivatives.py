"""Directional derivatives of features: what derivative rows are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, final, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mekrr_scale.backbones.output import Network
from mekrr_scale.backbones.surroundings import evaluating
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


@runtime_checkable
class LinearMap(Protocol):
    """Features of a graph, linearized at its geometry."""

    @property
    def width(self) -> int:
        """Numbers for each atom and direction in the largest arrays."""
        ...

    def push(
        self, moves: Float[Tensor, "directions atoms 3"], strains: Float[Tensor, "directions structures 3 3"]
    ) -> Float[Tensor, "directions atoms dim"]:
        """Derivatives of the features along directions."""
        ...


@runtime_checkable
class Linearizable(Protocol):
    """A network with a way of its own to its features' derivatives, in which what directions share is done once."""

    def linearize(self, graph: Graph) -> LinearMap | None:
        """At the graph's geometry; None where its way does not apply, and torch's forward mode is taken."""
        ...


_PUSHED = 2**15  # edges times directions in one pass of forward mode: its intermediates stay in a cache of some MB
_FEWEST, _MOST = 3, 16  # directions in one pass, which pays for its own copy of the features
_HELD = 2**25  # numbers that the largest arrays of a linearized network hold
_FEW, _MANY = 8, 64  # directions in one pass of it


def tangents(
    network: Network,
    graph: Graph,
    directions: Directions,
    mode: Mode = "auto",
    chunk: int | None = None,
    energies: bool = True,
) -> TangentOutput:
    """Derivatives of the features of one structure along directions.

    By default a network that knows its own linearization does it (``Linearizable``), another is pushed forward by
    torch. Reverse mode is the fallback for networks with operations that have no forward rule: it
    differentiates the backward pass with respect to its (dummy) seed, which gives the same numbers.

    Args:
        graph: of one structure.
        mode: ``auto``; torch's ``forward`` or ``reverse`` alone.
        chunk: directions in one pass; by default as many as the graph's size asks for. The last bits depend on it,
            so that it follows from sizes and never from the machine.
        energies: those of the network's own energy too, if it has one: one more sweep.

    Raises:
        BackboneError: several structures in the graph, shapes that do not fit, or an unknown mode.
    """
    if graph.n_structures != 1:
        raise BackboneError(f"tangents take the graph of one structure, this one has {graph.n_structures}")
    return tangents_of_each(network, graph, [directions], mode, chunk, energies)[0]


def tangents_of_each(
    network: Network,
    graph: Graph,
    directions: Sequence[Directions],
    mode: Mode = "auto",
    chunk: int | None = None,
    energies: bool = True,
) -> list[TangentOutput]:
    """The tangents of several structures in one pass, as ``tangents`` gives them one by one, to rounding.

    Each structure moves along its own directions; those that have fewer than others stand still at the end.

    Args:
        directions: of each structure of the graph.

    Raises:
        BackboneError: shapes that do not fit, or an unknown mode.
    """
    if mode not in get_args(Mode):
        raise BackboneError(f"unknown mode {mode!r}. {suggestion(mode, get_args(Mode))}")
    sizes = graph.n_atoms.tolist()
    if len(directions) != len(sizes):
        raise BackboneError(f"directions of {len(directions)} structures for a graph of {len(sizes)}")
    for part, n in zip(directions, sizes, strict=True):
        if part.displacements.shape[1:] != (n, 3):
            raise BackboneError(
                f"directions have shape {tuple(part.displacements.shape)}, expected "
                f"[directions, {n}, 3] for a structure of {n} atoms"
            )
    count = max((len(part) for part in directions), default=0)
    with evaluating(False):
        moves = torch.cat([_padded(part.displacements, count) for part in directions], 1)
        strains = torch.stack([_padded(part.strains, count) for part in directions], 1)
        moves, strains = moves.to(network.device, network.dtype), strains.to(network.device, network.dtype)
        features = _pushed(network, graph, moves, strains, mode, chunk)
        slopes = _energy_slopes(network, graph, moves, strains) if energies and network.has_energy else None
        found = []
        for i, part in enumerate(features.split(sizes, 1)):
            own = len(directions[i])
            found.append(TangentOutput(part[:own], None if slopes is None else slopes[:own, i]))
        return found


def moved_edges(
    graph: Graph,
    vectors: Float[Tensor, "edges 3"],
    moves: Float[Tensor, "directions atoms 3"],
    strains: Float[Tensor, "directions structures 3 3"],
) -> Float[Tensor, "edges 3 directions"]:
    """Derivatives of the edges' vectors along directions."""
    centre, neighbour = graph.edge_index
    moved = moves[:, neighbour] - moves[:, centre]
    if bool(strains.any()):
        moved = moved + torch.einsum("ek,dekl->del", vectors, strains[:, graph.edge_owner])
    return moved.permute(1, 2, 0).contiguous()


def _padded(values: Tensor, count: int) -> Tensor:
    """With zeros up to a number of directions."""
    return values if len(values) == count else torch.cat([values, values.new_zeros(count, *values.shape[1:])])[:count]


def _pushed(
    network: Network, graph: Graph, moves: Tensor, strains: Tensor, mode: Mode, chunk: int | None
) -> Float[Tensor, "directions atoms dim"]:
    if not len(moves):
        return graph.positions.new_zeros(0, len(graph.positions), network.dim)
    if mode == "auto" and isinstance(network, Linearizable):
        linear = network.linearize(graph)
        if linear is not None:
            size = chunk or min(_MANY, max(_FEW, _HELD // (linear.width * len(graph.positions))))
            return _by_chunks(linear.push, moves, strains, size)
    push = {"auto": _push, "forward": _push_forward, "reverse": _push_reverse}[mode]
    size = chunk or min(_MOST, max(_FEWEST, _PUSHED // max(1, graph.edge_index.shape[1])))
    return _by_chunks(partial(push, network, graph), moves, strains, size)


def _by_chunks(push: Callable[[Tensor, Tensor], Tensor], moves: Tensor, strains: Tensor, size: int) -> Tensor:
    parts = [push(moves[i : i + size], strains[i : i + size]) for i in range(0, len(moves), size)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _energy_slopes(
    network: Network, graph: Graph, moves: Tensor, strains: Tensor
) -> Float[Tensor, "directions structures"]:
    """Derivatives of the energies, scalars: one reverse sweep serves all directions."""
    positions = graph.positions.detach().clone().requires_grad_(True)
    strain = positions.new_zeros(graph.n_structures, 3, 3).requires_grad_(True)
    with torch.enable_grad():
        energy = network.forward(graph, positions, strain).energy(graph).sum()
        if not energy.requires_grad:
            return positions.new_zeros(strains.shape[:2]).detach()
        force, virial = torch.autograd.grad(energy, (positions, strain), materialize_grads=True)
    work = torch.einsum("kac,ac->ka", moves, force)
    by_moves = work.new_zeros(strains.shape[:2]).index_add(1, graph.owner, work)
    return by_moves + torch.einsum("ksab,sab->ks", strains, virial)


def _push(network: Network, graph: Graph, moves: Tensor, strains: Tensor) -> Float[Tensor, "directions atoms dim"]:
    try:
        return _push_forward(network, graph, moves, strains)
    except NotImplementedError:  # what torch raises for an operation without a forward rule
        return _push_reverse(network, graph, moves, strains)


def _push_forward(network: Network, graph: Graph, moves: Tensor, strains: Tensor) -> Tensor:
    def features(positions: Tensor, strain: Tensor) -> Tensor:
        return network.forward(graph, positions, strain, energies=False).features

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
    return Reversed(network, graph).push(moves, strains)


@final
class Reversed:
    """A linearization by reverse mode alone, for networks whose operations have no forward rule.

    The pull-back is linear in its seed; its derivative with respect to the seed pushes forward.
    """

    def __init__(self, network: Network, graph: Graph) -> None:
        self.width = network.dim
        positions = graph.positions.detach().clone().requires_grad_(True)
        strain = positions.new_zeros(graph.n_structures, 3, 3).requires_grad_(True)
        with torch.enable_grad():
            features = network.forward(graph, positions, strain, energies=False).features
            self._seed = torch.zeros_like(features, requires_grad=True)
            self._pulled = torch.autograd.grad(
                features, (positions, strain), self._seed, create_graph=True, materialize_grads=True
            )

    def push(
        self, moves: Float[Tensor, "directions atoms 3"], strains: Float[Tensor, "directions structures 3 3"]
    ) -> Float[Tensor, "directions atoms dim"]:
        """See ``LinearMap``."""
        rows = [
            torch.autograd.grad(
                self._pulled, self._seed, (move, turn), retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for move, turn in zip(moves, strains, strict=True)
        ]
        return torch.stack([row[0] for row in rows])

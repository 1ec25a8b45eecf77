"""CHGNet's atom features as a linear map of displacements and strains, at one geometry.

What does not depend on the direction is done once: features, and the slopes of all gated perceptrons
(``perceptrons``). Bonds begin as functions of their lengths and angles of their cosines, so that the first convolution
needs one number for each edge and direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mekrr_scale.backbones.derivatives import moved_edges
from mekrr_scale.backbones.perceptrons import Along, Full, Gated, Moved, gated, push_each, push_sums
from mekrr_scale.structures import Graph


@dataclass(frozen=True)
class Links:
    """Connectivity of CHGNet's two graphs. A bond is an edge taken without its direction."""

    edge_bond: Int[Tensor, " edges"]
    bond_edge: Int[Tensor, " bonds"]  # one edge of each bond
    angle_centre: Int[Tensor, " angles"]
    angle_edge: Int[Tensor, " angles"]
    angle_other_edge: Int[Tensor, " angles"]
    angle_bond: Int[Tensor, " angles"]
    angle_other: Int[Tensor, " angles"]  # the bond of the other edge


@dataclass(frozen=True)
class Embedded:
    """Functions of bonds' lengths or angles' cosines, with their derivatives."""

    values: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]

    @classmethod
    def at(
        cls, function: Callable[[Tensor], Tensor], widths: Sequence[int], points: Float[Tensor, " rows"]
    ) -> Embedded:
        """Of a function that gives several side by side."""
        values, slopes = torch.func.jvp(function, (points,), (torch.ones_like(points),))[:2]
        return cls(tuple(values.split(list(widths), 1)), tuple(slopes.split(list(widths), 1)))


@dataclass(frozen=True)
class _Depth:
    """A convolution of atoms, and what updates bonds and angles behind it."""

    messages: Gated
    opening: Tensor  # slopes of the messages along the lengths of their edges, through the gates alone
    out: Float[Tensor, "dim dim"]
    bonds: Gated | None = None
    first: Tensor | None = None  # slopes of the bonds' messages along the lengths of their bonds, through the gates
    other: Tensor | None = None
    bonds_out: Tensor | None = None
    angles: Gated | None = None


@final
@dataclass(frozen=True)
class LinearizedChgnet:
    """Derivatives of atom features by positions and strain; directions are put in."""

    graph: Graph
    links: Links
    vectors: Float[Tensor, "edges 3"]
    start: Float[Tensor, "edges dim"]  # slopes of the first convolution's messages along the lengths of their edges
    bond: Float[Tensor, "bonds dim"]  # slopes of bonds along their lengths, before the first convolution
    angle: Float[Tensor, "angles dim"]  # slopes of angles along their cosines
    depths: list[_Depth]
    chosen: frozenset[int]  # convolutions whose features are asked for, from 0
    last: Callable[[Float[Tensor, "directions atoms dim"]], Tensor] | None  # behind the last one, where it is chosen

    @property
    def width(self) -> int:
        """Numbers for each atom and direction in the largest arrays: bonds and angles, and what is made of them."""
        rows = len(self.links.bond_edge) + len(self.links.angle_bond)
        return 4 * (self.bond.shape[1] * rows // max(1, len(self.graph.numbers)) + self.bond.shape[1])

    def push(
        self, moves: Float[Tensor, "directions atoms 3"], strains: Float[Tensor, "directions structures 3 3"]
    ) -> Float[Tensor, "directions atoms dim"]:
        """Derivatives of the features along directions."""
        links, (centre, neighbour), count = self.links, self.graph.edge_index, len(moves)
        lengths, cosines = self._geometry(moved_edges(self.graph, self.vectors, moves, strains))
        bond_lengths = lengths.index_select(0, links.bond_edge)
        bond: Moved = Along(self.bond, bond_lengths)
        angle: Moved = Along(self.angle, cosines)
        every = torch.arange(len(centre), device=centre.device)
        atom = moves.new_zeros(len(self.graph.numbers), count, self.bond.shape[1])
        summed = _summed(Along(self.start, lengths), centre, len(atom), count)
        found = []
        for number, depth in enumerate(self.depths):
            if number:
                sources = [(Full(atom), centre), (bond, links.edge_bond), (Full(atom), neighbour)]
                more = [Along(depth.opening, lengths)]
                summed = push_sums(depth.messages, sources, more, count, centre, len(atom))
            atom = atom + summed @ depth.out
            if number in self.chosen:
                found.append(atom.transpose(0, 1))
            if depth.bonds is None or depth.bonds_out is None or depth.first is None or depth.other is None:
                continue
            more = [
                Along(depth.first, bond_lengths.index_select(0, links.angle_bond)),
                Along(depth.other, bond_lengths.index_select(0, links.angle_other)),
            ]
            sources = self._around(bond, angle, atom)
            turned = push_sums(depth.bonds, sources, more, count, links.angle_bond, len(links.bond_edge))
            bond = Full(bond.at(torch.arange(len(turned), device=every.device)) + turned @ depth.bonds_out)
            if depth.angles is not None:
                updated = angle.at(torch.arange(len(links.angle_bond), device=every.device))
                push_each(depth.angles, self._around(bond, angle, atom), [], count, _added(updated))
                angle = Full(updated)
        if self.last is not None:
            found[-1] = self.last(found[-1])
        return torch.cat(found, 2)

    def _geometry(self, turned: Float[Tensor, "edges 3 directions"]) -> tuple[Tensor, Tensor]:
        """Derivatives of the lengths of edges and of the cosines of angles."""
        size = self.vectors.norm(dim=1, keepdim=True)
        units = self.vectors / size
        lengths = torch.einsum("ec,eck->ek", units, turned)
        edge, other = self.links.angle_edge, self.links.angle_other_edge
        across = (turned - units[:, :, None] * lengths[:, None]) / size[:, :, None]
        cosines = torch.einsum("ac,ack->ak", units[other], across[edge])
        return lengths, cosines + torch.einsum("ac,ack->ak", units[edge], across[other])

    def _around(self, bond: Moved, angle: Moved, atom: Tensor) -> list[tuple[Moved, Tensor]]:
        """What a perceptron of the angles takes."""
        links = self.links
        every = torch.arange(len(links.angle_bond), device=atom.device)
        return [(bond, links.angle_bond), (bond, links.angle_other), (angle, every), (Full(atom), links.angle_centre)]


def _added(total: Tensor) -> Callable[[slice, Tensor], None]:
    def take(block: slice, part: Tensor) -> None:
        total[block] += part

    return take


def _summed(messages: Along, index: Tensor, size: int, count: int) -> Float[Tensor, "sums directions width"]:
    """A block of messages after the other, since all of them together may be large."""
    total = messages.slopes.new_zeros(size, count, messages.slopes.shape[1])
    every = torch.arange(len(index), device=index.device)
    for rows in every.split(4096):
        total.index_add_(0, index[rows], messages.at(rows))
    return total


@dataclass(frozen=True)
class Parts:
    """CHGNet's own values at a geometry, before its convolutions."""

    atom: Float[Tensor, "atoms dim"]
    bonds: Embedded  # features, gates of atoms, gates of bonds, by length
    angles: Embedded  # features, by cosine


def linearized_chgnet(
    net: Any, graph: Graph, links: Links, vectors: Float[Tensor, "edges 3"], parts: Parts, chosen: Sequence[int]
) -> LinearizedChgnet | None:
    """Features of some convolutions (counted from 0) and all of the slopes that directions share.

    None for perceptrons of another make than CHGNet's own.
    """
    centre, neighbour = graph.edge_index
    atom, (bond, opened, bonded) = parts.atom, parts.bonds.values
    angle = parts.angles.values[0]
    bond_slope, opened_slope, bonded_slope = parts.bonds.slopes
    first, other = links.angle_bond, links.angle_other
    depths: list[_Depth] = []
    start = torch.zeros(0)
    for number in range(max(chosen) + 1):
        conv = net.atom_conv_layers[number]
        messages = gated(conv.twoBody_atom, torch.cat([atom[centre], bond[links.edge_bond], atom[neighbour]], 1))
        if messages is None:
            return None
        opening = messages.value * opened_slope[links.edge_bond]
        messages = messages.weighted(opened[links.edge_bond])
        if not depths:
            start = opening + _through_bonds(messages, atom.shape[1], bond_slope, links.edge_bond)
        atom = atom + conv.mlp_out(_sums(messages.value, centre, len(atom)))
        out = conv.mlp_out.layers[-1].weight.T
        if number == max(chosen):
            depths.append(_Depth(messages, opening, out))
            break
        update = net.bond_conv_layers[number]
        bonds = gated(update.twoBody_bond, torch.cat([bond[first], bond[other], angle, atom[links.angle_centre]], 1))
        if bonds is None:
            return None
        slopes = (
            bonds.value * bonded_slope[first] * bonded[other],
            bonds.value * bonded[first] * bonded_slope[other],
        )
        bonds = bonds.weighted(bonded[first] * bonded[other])
        bond = bond + update.mlp_out(_sums(bonds.value, first, len(bond)))
        angles = None
        if number + 1 < max(chosen):  # nothing asks for the angles behind
            turn = net.angle_layers[number].twoBody_bond
            angles = gated(turn, torch.cat([bond[first], bond[other], angle, atom[links.angle_centre]], 1))
            if angles is None:
                return None
            angle = angle + angles.value
        depths.append(_Depth(messages, opening, out, bonds, *slopes, update.mlp_out.layers[-1].weight.T, angles))
    last = None
    if max(chosen) == len(net.atom_conv_layers) - 1 and net.readout_norm is not None:
        last = _behind(net.readout_norm, atom)
    angle_slope = parts.angles.slopes[0]
    return LinearizedChgnet(graph, links, vectors, start, bond_slope, angle_slope, depths, frozenset(chosen), last)


def _through_bonds(messages: Gated, skipped: int, slopes: Tensor, index: Tensor) -> Float[Tensor, "edges dim"]:
    """Slopes of messages along lengths, through bonds alone: the first atoms do not move yet."""
    weight = messages.first[skipped : skipped + slopes.shape[1]]
    return messages.push(slice(None), (slopes @ weight)[index][:, None].clone())[:, 0]


def _sums(values: Tensor, index: Tensor, size: int) -> Tensor:
    return values.new_zeros(size, values.shape[1]).index_add(0, index, values)


def _behind(norm: Any, at: Float[Tensor, "atoms dim"]) -> Callable[[Tensor], Tensor]:
    """Derivatives behind a norm of atoms."""

    def one(move: Tensor) -> Tensor:
        slope: Tensor = torch.func.jvp(norm, (at,), (move,))[1]
        return slope

    def push(moves: Tensor) -> Tensor:
        pushed: Tensor = torch.func.vmap(one)(moves)
        return pushed

    return push

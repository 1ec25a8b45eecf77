"""Equivariant messages, pushed forward: derivatives of a convolution along many directions at once.

A message is bilinear in what its sender holds and in functions of its edge, ``sum_j w(r_ij) (x_j (x) Y(r_ij))``. So its
derivative has two parts, both linear maps with matrices that all directions share:

* along the sender's own change ``dx_j``, with a matrix for each atom and channel over its neighbours;
* along the change of the edge ``dr_ij``, with a matrix of three columns for each neighbour.

Each is one matrix product for an atom (and channel), with neighbours summed within it: no message is ever written out.
Derivatives through the network that makes ``w``, and of the spherical harmonics, are taken once for each edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_BLOCK = 1 << 20  # numbers in the matrices of atoms that are treated together: they stay in the cache
_BLOCK_ON_DEVICE = 1 << 25  # where many are needed to keep a GPU busy


@dataclass(frozen=True)
class _Paths:
    """What one block of the senders' channels takes part in; its paths' outputs lie side by side."""

    start: int  # of the block in x
    mul: int  # channels
    dim: int  # 2 l + 1
    coupling: Float[Tensor, "dim harmonics outputs"]
    weights: Int[Tensor, "mul outputs"]  # which of an edge's weights
    places: Int[Tensor, "mul outputs"]  # where in the message


@dataclass(frozen=True)
class Coupling:
    """The tensor product of a convolution, as matrices."""

    blocks: tuple[_Paths, ...]
    order: Int[Tensor, " message"]  # takes the blocks' outputs to their places

    @classmethod
    def of(cls, product: Any, device: torch.device, dtype: torch.dtype) -> Coupling | None:
        """Of an e3nn tensor product whose paths keep channels apart ("uvu"); None for another."""
        from e3nn.o3 import TensorProduct

        if not isinstance(product, TensorProduct):
            return None
        sent, harmonics, received = product.irreps_in1, product.irreps_in2, product.irreps_out
        weights: dict[int, list[Tensor]] = {}
        places: dict[int, list[Tensor]] = {}
        offset = 0
        for step in product.instructions:
            if step.connection_mode != "uvu" or not step.has_weight or harmonics[step.i_in2].mul != 1:
                return None
            channel, size = torch.arange(sent[step.i_in1].mul)[:, None], received[step.i_out].ir.dim
            weights.setdefault(step.i_in1, []).append((offset + channel).expand(-1, size))
            first = received.slices()[step.i_out].start
            places.setdefault(step.i_in1, []).append(first + channel * size + torch.arange(size))
            offset += len(channel)
        if len({step.i_out for step in product.instructions}) != len(received):
            return None
        blocks = []
        for number, parts in weights.items():
            start, mul, dim = sent.slices()[number].start, sent[number].mul, sent[number].ir.dim
            place, weight = torch.cat(places[number], 1).to(device), torch.cat(parts, 1).to(device)
            coupling = _coupling(product, start, dim, torch.ones(offset).to(device, dtype))[:, :, place[0]]
            blocks.append(_Paths(start, mul, dim, coupling, weight, place))
        order = torch.argsort(torch.cat([block.places.flatten() for block in blocks]))
        return cls(tuple(blocks), order)


def _coupling(product: Any, start: int, dim: int, weights: Tensor) -> Float[Tensor, "dim harmonics message"]:
    """What the product makes of unit vectors: its own constants, as they were rounded when it was built."""
    width = product.irreps_in2.dim
    x = torch.zeros(dim, product.irreps_in1.dim).to(weights)
    x[:, start : start + dim] = torch.eye(dim).to(weights)
    y = torch.eye(width).to(weights)
    rows = product(x.repeat_interleave(width, 0), y.repeat(dim, 1), weights.expand(dim * width, -1))
    found: Tensor = rows.unflatten(0, (dim, width))
    return found


@dataclass(frozen=True)
class Edges:
    """Functions of the edges, with their derivatives."""

    units: Float[Tensor, "edges 3"]
    harmonics: Float[Tensor, "edges harmonics"]
    slopes: Float[Tensor, "3 edges harmonics"]  # along the components of the edge's vector


@dataclass(frozen=True)
class Hood:
    """Neighbours of some atoms, of which each has as many: those that are lacking are edges of weight zero."""

    atoms: Int[Tensor, " atoms"]
    edges: Int[Tensor, "atoms neighbours"]
    there: Bool[Tensor, "atoms neighbours"]


def hoods(centre: Int[Tensor, " edges"], n_atoms: int, most: int) -> Iterator[Hood]:
    """All atoms that have neighbours, in groups of like numbers of them, with about ``most`` edges."""
    degree = torch.bincount(centre, minlength=n_atoms)
    by_centre = torch.argsort(centre, stable=True)
    first = torch.cumsum(degree, 0) - degree
    order = torch.argsort(degree, stable=True)
    counts = degree[order].tolist()
    start = counts.count(0)
    while start < n_atoms:
        stop = start + 1
        while stop < n_atoms and (stop + 1 - start) * counts[stop] <= most:
            stop += 1
        atoms = order[start:stop]
        column = torch.arange(counts[stop - 1], device=centre.device)
        there = column < degree[atoms][:, None]
        edges = by_centre[(first[atoms][:, None] + column).clamp(max=len(centre) - 1)]
        yield Hood(atoms, edges, there)
        start = stop


def push_messages(
    coupling: Coupling,
    edge_index: Int[Tensor, "2 edges"],
    edges: Edges,
    weights: tuple[Float[Tensor, "edges weights"], Float[Tensor, "edges weights"]],
    sent: Float[Tensor, "atoms channels"],
    moved: Float[Tensor, "directions atoms channels"] | None,
    turned: Float[Tensor, "edges 3 directions"],
) -> Float[Tensor, "directions atoms message"]:
    """Derivatives of the sums of messages.

    Args:
        weights: of each path and channel, and their derivatives by the edge's length.
        moved: derivatives of ``sent``; None for none.
        turned: derivatives of the edges' vectors.
    """
    centre, neighbour = edge_index
    count = turned.shape[2]
    found = turned.new_zeros(len(sent), len(coupling.order), count)
    widest = max(block.mul * block.places.shape[1] * max(3, block.dim) for block in coupling.blocks)
    senders = [] if moved is None else [_rows(moved, block) for block in coupling.blocks]
    most = _BLOCK if centre.device.type == "cpu" else _BLOCK_ON_DEVICE
    for hood in hoods(centre, len(sent), max(1, most // widest)):
        size, near = hood.edges.shape
        at = hood.edges.flatten()
        along = (turned[at] * hood.there.flatten()[:, None, None]).reshape(size, near * 3, count)
        weight, slope = weights[0][at] * hood.there.flatten()[:, None], weights[1][at]
        parts = []
        for number, block in enumerate(coupling.blocks):
            w = weight.index_select(1, block.weights.flatten()).unflatten(1, block.weights.shape)
            turning = _turning(block, edges, at, sent[neighbour[at]], w, slope)
            part = turning.reshape(size, near * 3, -1).mT @ along  # atoms, (mul outputs), directions
            if senders:
                channel = torch.arange(block.mul, device=at.device)[:, None]
                place = channel * len(sent) + neighbour[hood.edges][:, None]  # atoms, mul, neighbours
                rows = senders[number].index_select(0, place.flatten())
                matrix = _carrying(block, edges, at, w, (size, near))
                part = torch.baddbmm(
                    part.reshape(size * block.mul, -1, count), matrix.mT, rows.reshape(len(matrix), -1, count)
                ).reshape(part.shape)
            parts.append(part)
        found[hood.atoms] = torch.cat(parts, 1).index_select(1, coupling.order)
    return found.permute(2, 0, 1)


def _rows(moved: Tensor, block: _Paths) -> Float[Tensor, "rows width"]:
    """A block's channels: a row for each channel of each atom, over components and directions."""
    part = moved[:, :, block.start : block.start + block.mul * block.dim]
    count, n_atoms = part.shape[:2]
    return part.reshape(count, n_atoms, block.mul, block.dim).permute(2, 1, 3, 0).reshape(block.mul * n_atoms, -1)


def _turning(block: _Paths, edges: Edges, at: Tensor, sent: Tensor, w: Tensor, slope: Tensor) -> Tensor:
    """Derivatives of messages by the edges' vectors: [edges, 3, mul, outputs]."""
    x = sent[:, block.start : block.start + block.mul * block.dim].reshape(len(at), block.mul, block.dim)
    flat = block.coupling.permute(1, 0, 2).flatten(1)
    size = (len(at), block.dim, block.coupling.shape[2])
    steep = slope.index_select(1, block.weights.flatten()).unflatten(1, block.weights.shape)
    steep = steep * (x @ (edges.harmonics[at] @ flat).reshape(size))
    found = w.new_empty(len(at), 3, *w.shape[1:])
    for c in range(3):
        torch.mul(w, x @ (edges.slopes[c, at] @ flat).reshape(size), out=found[:, c])
        found[:, c].addcmul_(steep, edges.units[at, c, None, None])
    return found


def _carrying(block: _Paths, edges: Edges, at: Tensor, w: Tensor, shape: tuple[int, int]) -> Tensor:
    """The matrices from senders to messages: [atoms x mul, neighbours x dim, outputs]."""
    size, near = shape
    flat = block.coupling.permute(1, 0, 2).flatten(1)
    coupled = (edges.harmonics[at] @ flat).reshape(size, 1, near, block.dim, -1)
    w = w.reshape(size, near, block.mul, 1, -1).transpose(1, 2)
    return (w * coupled).reshape(size * block.mul, near * block.dim, -1)

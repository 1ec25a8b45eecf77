"""Equivariant messages, and pushed forward: derivatives of a convolution along many directions at once.

A message is bilinear in what its sender holds and in functions of its edge, ``sum_j w(r_ij) (x_j (x) Y(r_ij))``. So its
derivative has two parts, both linear maps with matrices that all directions share:

* along the sender's own change ``dx_j``, with a matrix for each atom and channel over its neighbours;
* along the change of the edge ``dr_ij``, with a matrix of three columns for each neighbour.

Each is one matrix product for an atom (and channel), with neighbours summed within it: no message is ever written out.
Derivatives through the network that makes ``w``, and of the spherical harmonics, are taken once for each edge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from mekrr_scale.backbones.chunks import PartsFunction, Rows, sum_rows
from mekrr_scale.structures import Graph

_BLOCK = 1 << 20  # numbers in the matrices of atoms that are treated together: they stay in the cache
_BLOCK_ON_DEVICE = 1 << 25  # where many are needed to keep a GPU busy


class _Path(NamedTuple):
    """One path of a tensor product."""

    weights: int  # which of the weights' parts are its own
    output: int  # which of the message's parts it makes
    width: int  # 2 l + 1


class _Shape(NamedTuple):
    """Of irreducible representations of one kind."""

    mul: int  # channels
    dim: int  # 2 l + 1


@dataclass(frozen=True)
class _Paths:
    """What one block of the senders' channels takes part in; its paths' outputs lie side by side."""

    number: int  # of the block in x
    start: int  # where it begins
    mul: int  # channels
    dim: int  # 2 l + 1
    coupling: Float[Tensor, "dim harmonics outputs"]
    weights: Int[Tensor, "mul outputs"]  # which of an edge's weights
    places: Int[Tensor, "mul outputs"]  # where in the message
    paths: tuple[_Path, ...]

    def turned(self, harmonics: Float[Tensor, "edges harmonics"]) -> Float[Tensor, "edges dim outputs"]:
        """The matrix of each edge that takes a channel of its sender to the paths' outputs, but for the weights."""
        flat = self.coupling.permute(1, 0, 2).flatten(1).to(harmonics)
        return (harmonics @ flat).reshape(len(harmonics), self.dim, self.coupling.shape[2])


@dataclass(frozen=True)
class Coupling:
    """The tensor product of a convolution, as matrices."""

    blocks: tuple[_Paths, ...]
    order: Int[Tensor, " message"]  # takes the blocks' outputs to their places
    sent: tuple[_Shape, ...]  # of the senders' blocks
    weighed: tuple[int, ...]  # numbers of weights of the paths
    received: tuple[_Shape, ...]  # of the parts of a message

    @classmethod
    def of(cls, product: Any) -> Coupling | None:
        """Of an e3nn tensor product whose paths keep channels apart ("uvu"), in float64; None for another."""
        from e3nn.o3 import TensorProduct

        if not isinstance(product, TensorProduct):
            return None
        sent, harmonics, received = product.irreps_in1, product.irreps_in2, product.irreps_out
        weights: dict[int, list[Tensor]] = {}
        places: dict[int, list[Tensor]] = {}
        paths: dict[int, list[_Path]] = {}
        offset = 0
        for number, step in enumerate(product.instructions):
            if step.connection_mode != "uvu" or not step.has_weight or harmonics[step.i_in2].mul != 1:
                return None
            channel, size = torch.arange(sent[step.i_in1].mul)[:, None], received[step.i_out].ir.dim
            weights.setdefault(step.i_in1, []).append((offset + channel).expand(-1, size))
            first = received.slices()[step.i_out].start
            places.setdefault(step.i_in1, []).append(first + channel * size + torch.arange(size))
            paths.setdefault(step.i_in1, []).append(_Path(number, step.i_out, size))
            offset += len(channel)
        if len({step.i_out for step in product.instructions}) != len(received):
            return None
        blocks = []
        for number, parts in weights.items():
            start, mul, dim = sent.slices()[number].start, sent[number].mul, sent[number].ir.dim
            place, weight = torch.cat(places[number], 1), torch.cat(parts, 1)
            coupling = _coupling(product, start, dim, offset)[:, :, place[0]]
            blocks.append(_Paths(number, start, mul, dim, coupling, weight, place, tuple(paths[number])))
        order = torch.argsort(torch.cat([block.places.flatten() for block in blocks]))
        weighed = tuple(sent[step.i_in1].mul for step in product.instructions)
        return cls(tuple(blocks), order, _shapes(sent), weighed, _shapes(received))

    def on(self, device: torch.device, dtype: torch.dtype) -> Coupling:
        """The same on a device, in a precision."""
        blocks = [
            replace(
                block,
                coupling=block.coupling.to(device, dtype),
                weights=block.weights.to(device),
                places=block.places.to(device),
            )
            for block in self.blocks
        ]
        return replace(self, blocks=tuple(blocks), order=self.order.to(device))

    def summed(
        self,
        graph: Graph,
        made: PartsFunction,
        inputs: Sequence[Rows],
        channels: Float[Tensor, "atoms channels"],
    ) -> Float[Tensor, "atoms message"]:
        """Sums over neighbours of what ``made`` gives of an edge's inputs and its sender's channels, by ``messages``.

        e3nn has the components of a channel side by side, and so have ``channels`` and the sums; in between channels
        are, so that products with a number for each channel go along memory, in a quarter of the time.
        """
        centre, neighbour = graph.edge_index
        sent = _turned_over(channels, [(shape.mul, shape.dim) for shape in self.sent])
        sums = sum_rows(graph, centre, len(channels), made, *inputs, (sent, neighbour))
        return _turned_over(sums, [(shape.dim, shape.mul) for shape in self.received])

    def messages(
        self,
        weights: Float[Tensor, "edges weights"],
        harmonics: Float[Tensor, "edges harmonics"],
        sent: Float[Tensor, "edges channels"],
    ) -> list[Float[Tensor, "edges _"]]:
        """What the senders' channels, component by component, become, in parts that lie side by side in a message.

        They are better summed than joined: for each slice of a wide matrix torch makes another matrix as wide, most of
        it zeros, when it differentiates twice.
        """
        channels = sent.split([shape.mul * shape.dim for shape in self.sent], 1)
        weighed = weights.split(self.weighed, 1)
        found = [weights[:, :0]] * len(self.received)
        for block in self.blocks:
            x, turned = channels[block.number].unflatten(1, (block.dim, block.mul)), block.turned(harmonics).mT
            widths = [path.width for path in block.paths]
            # of scalars the weights first: they are narrower than what comes out
            outputs = turned.split(widths, 1) if block.dim == 1 else (turned @ x).split(widths, 1)
            for path, output in zip(block.paths, outputs, strict=True):
                weight = weighed[path.weights][:, None]
                part = output * (x * weight) if block.dim == 1 else output * weight
                found[path.output] = part.flatten(1)
        return found


def _turned_over(x: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Each part of the columns transposed."""
    parts = x.split([rows * columns for rows, columns in shapes], 1)
    return torch.cat([part.unflatten(1, shape).mT.flatten(1) for part, shape in zip(parts, shapes, strict=True)], 1)


def _shapes(irreps: Any) -> tuple[_Shape, ...]:
    return tuple(_Shape(part.mul, part.ir.dim) for part in irreps)


def _coupling(product: Any, start: int, dim: int, n_weights: int) -> Float64[Tensor, "dim harmonics message"]:
    """What the product makes of unit vectors: its own constants, as they were rounded when it was built."""
    width = product.irreps_in2.dim
    x = torch.zeros(dim, product.irreps_in1.dim, dtype=torch.float64)
    x[:, start : start + dim] = torch.eye(dim, dtype=torch.float64)
    y = torch.eye(width, dtype=torch.float64)
    weights = torch.ones(1, n_weights, dtype=torch.float64).expand(dim * width, -1)
    here = next(product.buffers())
    product.to("cpu", torch.float64)  # itself: in copies e3nn's constants are rounded once more
    rows: Tensor = product(x.repeat_interleave(width, 0), y.repeat(dim, 1), weights)
    product.to(here.device, here.dtype)
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
    steep = slope.index_select(1, block.weights.flatten()).unflatten(1, block.weights.shape)
    steep = steep * (x @ block.turned(edges.harmonics[at]))
    found = w.new_empty(len(at), 3, *w.shape[1:])
    for c in range(3):
        torch.mul(w, x @ block.turned(edges.slopes[c, at]), out=found[:, c])
        found[:, c].addcmul_(steep, edges.units[at, c, None, None])
    return found


def _carrying(block: _Paths, edges: Edges, at: Tensor, w: Tensor, shape: tuple[int, int]) -> Tensor:
    """The matrices from senders to messages: [atoms x mul, neighbours x dim, outputs]."""
    size, near = shape
    coupled = block.turned(edges.harmonics[at]).reshape(size, 1, near, block.dim, -1)
    w = w.reshape(size, near, block.mul, 1, -1).transpose(1, 2)
    return (w * coupled).reshape(size * block.mul, near * block.dim, -1)

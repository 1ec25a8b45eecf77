"""SevenNet's features as a linear map of displacements and strains, at one geometry.

What does not depend on the direction is done once: the features themselves, the derivatives of radial weights and of
spherical harmonics. Convolutions are pushed by ``messages``, and what lies between them, which is small because it
acts on atoms, by torch's forward mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mekrr_scale.backbones.derivatives import moved_edges
from mekrr_scale.backbones.messages import Coupling, Edges, push_messages
from mekrr_scale.structures import Graph

_KEPT = "self_cont_tmp"  # sevenn's name for what passes by a convolution
_Data = dict[str, Tensor]


@dataclass(frozen=True)
class Stage:
    """A convolution, and the modules behind it up to the next one."""

    convolution: Any  # None in front of the first one
    coupling: Coupling | None  # its tensor product; None where that is of another kind than e3nn's own
    modules: list[tuple[str, nn.Module]]


_Through = Callable[[Stage, _Data], tuple[_Data, list[Tensor]]]


@dataclass(frozen=True)
class _Layer:
    """A stage at the geometry that was given."""

    stage: Stage
    coupling: Coupling
    weights: tuple[Float[Tensor, "edges weights"], Float[Tensor, "edges weights"]]
    sent: Float[Tensor, "atoms channels"]
    summed: Float[Tensor, "atoms message"]
    data: _Data


@final
@dataclass(frozen=True)
class Linearized:
    """Derivatives of features by positions and strain; directions are put in."""

    graph: Graph
    vectors: Float[Tensor, "edges 3"]
    edges: Edges
    layers: list[_Layer]
    through: _Through

    @property
    def width(self) -> int:
        """Numbers for each atom and direction in what is largest."""
        return max(2 * len(layer.coupling.order) + 3 * layer.sent.shape[1] for layer in self.layers)

    def push(
        self, moves: Float[Tensor, "directions atoms 3"], strains: Float[Tensor, "directions structures 3 3"]
    ) -> Float[Tensor, "directions atoms dim"]:
        """Derivatives of the features along directions."""
        turned = moved_edges(self.graph, self.vectors, moves, strains)
        moved: Tensor | None = None
        kept = torch.zeros(len(moves), *self.layers[0].data[_KEPT].shape).to(turned)
        found = []
        for layer in self.layers:
            weights = layer.weights
            summed = push_messages(
                layer.coupling, self.graph.edge_index, self.edges, weights, layer.sent, moved, turned
            )
            moved, kept, features = self._behind(layer, summed / layer.stage.convolution.denominator, kept)
            found.append(features)
        return torch.cat(found, 2)

    def _behind(self, layer: _Layer, summed: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Derivatives of what the modules behind a convolution give: channels, what passes by, features."""
        widths: list[int] = []

        def given(x: Tensor, passing: Tensor) -> Tensor:
            data, features = self.through(layer.stage, {**layer.data, "x": x, _KEPT: passing})
            parts = [data["x"], data.get(_KEPT, x[:, :0]), torch.cat([x[:, :0], *features], 1)]
            widths[:] = [part.shape[1] for part in parts]
            return torch.cat(parts, 1)

        def pushed(move: Tensor, passing: Tensor) -> Tensor:
            at = (layer.summed, layer.data[_KEPT])
            slopes: Tensor = torch.func.jvp(given, at, (move, passing))[1]
            return slopes

        found: Tensor = torch.func.vmap(pushed)(summed, kept)
        channels, passing, features = found.split(widths, 2)
        return channels, passing, features


def linearized(
    graph: Graph, data: _Data, stages: list[Stage], couplings: list[Coupling], through: _Through, embedding: nn.Module
) -> Linearized:
    """Features, and all of their derivatives that directions share.

    Args:
        embedding: gives an edge's radial functions and spherical harmonics.
    """
    vectors = data["edge_vec"]
    edges, steep = _edges(vectors, embedding)
    data, _ = through(stages[0], data)
    layers = []
    for stage, coupling in zip(stages[1:], couplings, strict=True):
        weights = _derived(stage.convolution.weight_nn, data["edge_embedding"], steep)
        sent = data["x"]
        summed = _summed(graph, coupling, data, weights[0]) / stage.convolution.denominator
        layers.append(_Layer(stage, coupling, weights, sent, summed, dict(data)))
        data, _ = through(stage, {**data, "x": summed})
    return Linearized(graph, vectors, edges, layers, through)


def _summed(graph: Graph, coupling: Coupling, data: _Data, weight: Tensor) -> Tensor:
    return coupling.summed(graph, coupling.messages, [(weight, None), (data["edge_attr"], None)], data["x"])


def _derived(function: Callable[[Tensor], Tensor], at: Tensor, move: Tensor) -> tuple[Tensor, Tensor]:
    value, slope = torch.func.jvp(function, (at,), (move,))[:2]
    return value, slope


def _edges(vectors: Float[Tensor, "edges 3"], embedding: nn.Module) -> tuple[Edges, Float[Tensor, "edges radial"]]:
    """Spherical harmonics with their derivatives, and those of the radial functions by the length."""

    def embedded(at: Tensor) -> Tensor:
        data = embedding({"edge_vec": at})
        return torch.cat([data["edge_embedding"], data["edge_attr"]], 1)

    units = vectors / vectors.norm(dim=1, keepdim=True)
    axes = torch.eye(3).to(vectors)[:, None].expand(3, len(vectors), 3)
    values, outwards = _derived(embedded, vectors, units)
    radial = embedding({"edge_vec": vectors})["edge_embedding"].shape[1]
    slopes = torch.stack([_derived(embedded, vectors, axis)[1][:, radial:] for axis in axes])
    return Edges(units, values[:, radial:], slopes), outwards[:, :radial]

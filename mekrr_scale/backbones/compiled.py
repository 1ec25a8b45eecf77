"""A network by compiled code (torch.compile), and as it is where that cannot be made."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from mekrr_scale.backbones.base import Backbone
from mekrr_scale.backbones.compressed import Compressed
from mekrr_scale.backbones.output import BackboneOutput
from mekrr_scale.structures import Graph


@final
class Compiled:
    """``on_edges`` of a backbone: the same numbers to rounding, for any numbers of atoms and edges.

    It is compiled at the first call, and again where a graph is of another kind; graphs in chunks are computed as they
    are. Coordinates of a ``Compressed`` backbone are taken outside of what is compiled.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._outer = backbone if isinstance(backbone, Compressed) else None
        self._plain = backbone.inner.on_edges if isinstance(backbone, Compressed) else backbone.on_edges
        self._network = torch.compile(self._plain, dynamic=True)
        self._failed = False

    def __call__(self, graph: Graph, vectors: Float[Tensor, "edges 3"], energies: bool = True) -> BackboneOutput:
        """See ``Backbone.on_edges``; warns where the network cannot be compiled."""
        found = self._found(replace(graph, volume=None), vectors, energies)  # which would be two kinds of graphs
        return found if self._outer is None else self._outer.reduced(graph, found)

    def _found(self, graph: Graph, vectors: Float[Tensor, "edges 3"], energies: bool) -> BackboneOutput:
        if not self._failed and graph.at_once is None:
            try:
                return self._network(graph, vectors, energies)
            except Exception as error:
                if not _is_of_the_compiler(error):
                    raise
                self._failed = True
                reason = " ".join(str(error).split())[:300]
                warnings.warn(
                    f"the network cannot be compiled and runs as it is ({reason}): a compiler for C++ has to be there, "
                    "such as g++, or leave compile out",
                    stacklevel=2,
                )
        return self._plain(graph, vectors, energies)


def _is_of_the_compiler(error: Exception) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # it is there by now; importing it takes seconds

    return isinstance(error, TorchDynamoException)

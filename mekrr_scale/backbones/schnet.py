"""SchNet (Schuett et al., arXiv 1706.08566) from torch_geometric, with periodic neighbour lists.

Two kinds of checkpoint are read, both without unpickling code: the package's own, and the
layout of the Open Catalyst Project (OC20's ``schnet_all_large`` and forks), whose features after
the second interaction MEKRR uses (arXiv 2306.01589, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mekrr_scale.backbones.base import Backbone
from mekrr_scale.backbones.chunks import Rows, of_rows, sum_rows
from mekrr_scale.backbones.output import BackboneOutput
from mekrr_scale.backbones.weights import Sizes, Source, WeightsFile, save
from mekrr_scale.errors import BackboneError, suggestion
from mekrr_scale.structures import Graph, nearest_edges

_SIZES = ("hidden_channels", "num_filters", "num_interactions", "num_gaussians", "cutoff")

DEFAULT_SIZES: Sizes = {
    "hidden_channels": 64, "num_filters": 64, "num_interactions": 3, "num_gaussians": 40, "cutoff": 5.0,
}  # fmt: skip


@final
class Schnet(Backbone):
    """SchNet's atom features after a number of interactions.

    Args:
        checkpoint: file of ``mekrr-scale pretrain`` or ``save_schnet``, or an Open Catalyst checkpoint.
        layer: ``interaction1`` ...; ``interaction2`` is the paper's.
        max_neighbors: cap on the neighbours of a centre (the nearest stay). Default: 50 for an
            Open Catalyst checkpoint, which was trained so, none for the package's own.

    Raises:
        BackboneError: no such file, not a SchNet checkpoint, or no such layer.
    """

    name = "schnet"
    in_chunks = True

    def __init__(
        self, checkpoint: Source | WeightsFile, layer: str = "interaction2", max_neighbors: int | None = None
    ) -> None:
        source = WeightsFile.of(checkpoint, "schnet", _SIZES, {})
        self.module = _network(source)
        layers = [f"interaction{i + 1}" for i in range(int(source.sizes["num_interactions"]))]
        if layer not in layers:
            raise BackboneError(f"{source.path} has no layer {layer!r}. {suggestion(layer, layers)}")
        self.layer = layer
        self.version = source.kind
        self.cutoff = float(source.sizes["cutoff"])
        self.dim = int(source.sizes["hidden_channels"])
        self.species = frozenset(range(1, 100))
        self.max_neighbors = source.neighbour_cap(max_neighbors)
        self.options = (("checkpoint", source.kind), ("max_neighbors", str(self.max_neighbors)))
        self._depth = layers.index(layer) + 1
        self._mean, self._std = source.mean, source.std
        self.origin = source.origin

    @property
    def has_energy(self) -> bool:
        return True

    def config(self) -> Sizes:
        return {name: getattr(self.module, name) for name in _SIZES}

    def fresh(self) -> nn.Module:
        return _fresh(self.config())

    def species_rows(self, z: int) -> Sequence[Tensor]:
        return [cast(Any, self.module).embedding.weight[z]]

    def blocks(self) -> dict[str, Sequence[nn.Module]]:
        net = cast(Any, self.module)
        named: dict[str, Sequence[nn.Module]] = {"embedding": [net.embedding, net.distance_expansion]}
        named |= {f"interaction{i + 1}": [block] for i, block in enumerate(net.interactions)}
        return named | {"readout": [net.lin1, net.lin2]}

    @property
    def extensive(self) -> bool:
        return float(self._mean) == 0.0

    def hops(self, energies: bool) -> int:
        return len(cast(Any, self.module).interactions) if energies else self._depth

    def prepare(self, graph: Graph) -> Graph:
        return nearest_edges(graph, self.max_neighbors) if self.max_neighbors else graph

    def on_edges(self, graph: Graph, vectors: Float[Tensor, "edges 3"], energies: bool = True) -> BackboneOutput:
        net = cast(Any, self.module)
        centre, neighbour = graph.edge_index
        lengths = vectors.norm(dim=1)
        smeared = of_rows(graph, net.distance_expansion, (lengths, None))
        cosine = 0.5 * (torch.cos(lengths * torch.pi / self.cutoff) + 1.0)
        atom = net.embedding(graph.numbers)
        features = atom
        for depth, block in enumerate(net.interactions):
            sent = block.conv.lin1(atom)
            inputs: list[Rows] = [(smeared, None), (cosine, None), (sent, neighbour)]
            summed = sum_rows(graph, centre, len(atom), partial(_messages, block.mlp), *inputs)
            atom = atom + block.lin(block.act(block.conv.lin2(summed)))
            if depth + 1 == self._depth:
                features = atom
                if not energies:
                    return BackboneOutput(features, None)
        site = net.lin2(net.act(net.lin1(atom)))[:, 0]
        offset = self._mean / graph.n_atoms[graph.owner]  # the normaliser's mean is per structure
        return BackboneOutput(features, site * self._std + offset.to(site.dtype))


def _messages(filters: nn.Module, smeared: Tensor, cosine: Float[Tensor, " edges"], sent: Tensor) -> Tensor:
    """What each neighbour sends, through a filter that depends on its distance."""
    through: Tensor = filters(smeared) * cosine[:, None]
    return sent * through


def new_schnet(sizes: Sizes, layer: str = "interaction2") -> Schnet:
    """A SchNet with random weights, from torch's global generator.

    Args:
        sizes: those that differ from ``DEFAULT_SIZES``; lengths in angstrom.

    Raises:
        BackboneError: an unknown size.
    """
    return Schnet(WeightsFile.new("schnet", _fresh, DEFAULT_SIZES, sizes), layer)


def save_schnet(network: nn.Module, path: str | Path) -> None:
    """Write a ``torch_geometric.nn.models.SchNet`` as a checkpoint that ``Schnet`` reads."""
    save(path, "schnet", network, {name: getattr(network, name) for name in _SIZES})


def _fresh(sizes: Sizes) -> nn.Module:
    from torch_geometric.nn.models import SchNet

    return cast(nn.Module, SchNet(**sizes, interaction_graph=_no_graph))


def _network(checkpoint: WeightsFile) -> nn.Module:
    network = _fresh(checkpoint.sizes)
    # the filters' weights have two names, and a checkpoint may use either
    shared = {name: name.replace(".conv.nn.", ".mlp.") for name in network.state_dict() if ".conv.nn." in name}
    checkpoint.fill(network, ("atomic_mass", "initial_atomref"), shared)
    return network.eval().requires_grad_(False)


def _no_graph(*_: Any) -> None:
    """Edges come from elsewhere; a function that pickles know by name."""

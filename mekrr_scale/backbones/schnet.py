"""SchNet (Schuett et al., arXiv 1706.08566) from torch_geometric, with periodic neighbour lists.

Two kinds of checkpoint are read, both without unpickling code: the package's own, and the
layout of the Open Catalyst Project (OC20's ``schnet_all_large`` and forks), whose features after
the second interaction MEKRR uses (arXiv 2306.01589, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mekrr_scale.backbones.base import Backbone, BackboneOutput
from mekrr_scale.errors import BackboneError, suggestion
from mekrr_scale.graphs import Graph, edge_vectors, nearest_edges

_SIZES = ("hidden_channels", "num_filters", "num_interactions", "num_gaussians", "cutoff")
_OWN_FORMAT = "mekrr-scale schnet 1"
OCP_MAX_NEIGHBORS = 50  # the cap with which the Open Catalyst models were trained


@final
class Schnet(Backbone):
    """SchNet's atom features after a number of interactions.

    Args:
        checkpoint: file written by ``save_schnet``, or an Open Catalyst checkpoint.
        layer: ``interaction1`` ...; ``interaction2`` is the paper's.
        max_neighbors: cap on the neighbours of a centre (the nearest stay). Default: 50 for an
            Open Catalyst checkpoint, which was trained so, none for the package's own.

    Raises:
        BackboneError: no such file, not a SchNet checkpoint, or no such layer.
    """

    name = "schnet"

    def __init__(self, checkpoint: str | Path, layer: str = "interaction2", max_neighbors: int | None = None) -> None:
        sizes, weights, scale, kind = _read(Path(checkpoint))
        self.module = _network(sizes)
        _fill(self.module, weights, Path(checkpoint))
        self.module.eval().requires_grad_(False)
        layers = [f"interaction{i + 1}" for i in range(int(sizes["num_interactions"]))]
        if layer not in layers:
            raise BackboneError(f"{checkpoint} has no layer {layer!r}. {suggestion(layer, layers)}")
        self.layer = layer
        self.version = kind
        self.cutoff = float(sizes["cutoff"])
        self.dim = int(sizes["hidden_channels"])
        self.species = frozenset(range(1, 100))
        cap = OCP_MAX_NEIGHBORS if max_neighbors is None and kind == "ocp" else max_neighbors
        self.max_neighbors = cap if cap and cap > 0 else None
        self.options = (("checkpoint", kind), ("max_neighbors", str(self.max_neighbors)))
        self._depth = layers.index(layer) + 1
        self._mean, self._std = scale

    @property
    def has_energy(self) -> bool:
        return True

    def blocks(self) -> dict[str, Sequence[nn.Module]]:
        net = cast(Any, self.module)
        named: dict[str, Sequence[nn.Module]] = {"embedding": [net.embedding, net.distance_expansion]}
        named |= {f"interaction{i + 1}": [block] for i, block in enumerate(net.interactions)}
        return named | {"readout": [net.lin1, net.lin2]}

    def prepare(self, graph: Graph) -> Graph:
        return nearest_edges(graph, self.max_neighbors) if self.max_neighbors else graph

    def forward(
        self,
        graph: Graph,
        positions: Float[Tensor, "atoms 3"],
        strain: Float[Tensor, "structures 3 3"] | None = None,
    ) -> BackboneOutput:
        net = cast(Any, self.module)
        centre, neighbour = graph.edge_index
        lengths = edge_vectors(graph, positions, strain).norm(dim=1)
        smeared = net.distance_expansion(lengths)
        cosine = 0.5 * (torch.cos(lengths * torch.pi / self.cutoff) + 1.0)
        atom = net.embedding(graph.numbers)
        features = atom
        for depth, block in enumerate(net.interactions):
            filters = block.mlp(smeared) * cosine[:, None]
            messages = block.conv.lin1(atom)[neighbour] * filters
            summed = messages.new_zeros(len(atom), messages.shape[1]).index_add(0, centre, messages)
            atom = atom + block.lin(block.act(block.conv.lin2(summed)))
            if depth + 1 == self._depth:
                features = atom
        site = net.lin2(net.act(net.lin1(atom)))[:, 0]
        offset = self._mean / graph.n_atoms[graph.owner]  # the normaliser's mean is per structure
        return BackboneOutput(features, site * self._std + offset.to(site.dtype))


def save_schnet(network: nn.Module, path: str | Path) -> None:
    """Write a ``torch_geometric.nn.models.SchNet`` as a checkpoint that ``Schnet`` reads."""
    sizes = {name: getattr(network, name) for name in _SIZES}
    torch.save({"format": _OWN_FORMAT, "config": sizes, "state_dict": network.state_dict()}, path)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], tuple[float, float], str]:
    """Sizes, weights, (mean, std) of the energy, and the kind of a checkpoint."""
    if not path.is_file():
        raise BackboneError(f"there is no checkpoint {path}; download it first (README, section backbones)")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BackboneError(f"{path} is not a checkpoint that can be read without running code: {error}") from error
    if not isinstance(data, dict) or "state_dict" not in data or "config" not in data:
        keys = sorted(map(str, data))[:8] if isinstance(data, dict) else type(data).__name__
        raise BackboneError(f"{path} holds {keys}; a SchNet checkpoint has 'config' and 'state_dict'")
    config = data["config"]
    own = data.get("format") == _OWN_FORMAT
    attributes = config if own else _ocp_attributes(config, path)
    missing = [name for name in _SIZES if name not in attributes]
    if missing:
        raise BackboneError(f"the configuration in {path} lacks {', '.join(missing)}")
    sizes = {name: attributes[name] for name in _SIZES}
    target = (data.get("normalizers") or {}).get("target") or {}
    scale = float(target.get("mean", 0.0)), float(target.get("std", 1.0))
    weights = {_bare(name): tensor for name, tensor in data["state_dict"].items()}
    return sizes, weights, scale, "own" if own else "ocp"


def _ocp_attributes(config: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    model = config.get("model", "")
    name = model.get("name", "") if isinstance(model, Mapping) else str(model)
    if "schnet" not in name.lower():
        raise BackboneError(f"{path} is a checkpoint of model {name!r}, not of a SchNet")
    attributes = config.get("model_attributes", model)
    return cast(Mapping[str, Any], attributes if isinstance(attributes, Mapping) else {})


def _bare(name: str) -> str:
    """A parameter's name without the prefixes of parallel wrappers."""
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def _network(sizes: Mapping[str, Any]) -> nn.Module:
    from torch_geometric.nn.models import SchNet

    return cast(
        nn.Module,
        SchNet(**{name: sizes[name] for name in _SIZES}, interaction_graph=lambda *_: None),
    )


def _fill(network: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Copy weights by name; what only other tasks need (masses, a second name) may be absent."""
    wanted = network.state_dict()
    shared = {name: name.replace(".conv.nn.", ".mlp.") for name in wanted if ".conv.nn." in name}
    given = {name: weights[key] for name in wanted for key in (name, shared.get(name, name)) if key in weights}
    absent = sorted(set(wanted) - set(given))
    surplus = sorted(set(weights) - set(wanted) - {"atomic_mass", "initial_atomref"})
    if absent or surplus:
        raise BackboneError(f"{path} does not fit SchNet: missing {absent[:4]}, unknown {surplus[:4]}")
    wrong = [n for n, t in given.items() if t.shape != wanted[n].shape]
    if wrong:
        raise BackboneError(
            f"{path}: {wrong[0]} has shape {tuple(given[wrong[0]].shape)}, expected {tuple(wanted[wrong[0]].shape)}"
        )
    network.load_state_dict(given)

"""MACE's features as TorchScript: the network's own modules, as ``Mace.on_edges`` runs them."""

import warnings
from typing import Any, cast, no_type_check

import torch
from torch import Tensor, nn

from mekrr_scale.backbones import Mace, weights_of
from mekrr_scale.engines.metatomic.invariants import NotTaken, Taken


@no_type_check
class Layer(nn.Module):
    """One interaction, and what is taken of the states behind it."""

    def __init__(self, interaction: nn.Module, product: nn.Module, take: nn.Module, first: bool) -> None:
        super().__init__()
        self.interaction, self.product, self.take, self.first = interaction, product, take, first

    def forward(
        self,
        attributes: Tensor,
        state: Tensor,
        harmonics: Tensor,
        radial: Tensor,
        edges: Tensor,
        cutoff: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        message, skip = self.interaction(
            node_attrs=attributes,
            node_feats=state,
            edge_attrs=harmonics,
            edge_feats=radial,
            edge_index=edges,
            cutoff=cutoff,
            first_layer=self.first,
        )
        state = self.product(node_feats=message, sc=skip, node_attrs=attributes)
        return state, self.take(state)


@no_type_check
class MaceFeatures(nn.Module):
    """Features, and the network's own energies of atoms (eV) where they are asked for."""

    elements: Tensor  # (elements,) int64 | atomic numbers, ascending

    def __init__(self, backbone: Mace, net: Any, energies: bool) -> None:
        super().__init__()
        depth, chosen = backbone.hops(energies), backbone.taken
        self.embedding, self.harmonics, self.radial = net.node_embedding, net.spherical_harmonics, net.radial_embedding
        takes = [Taken(chosen[i]) if i in chosen else NotTaken() for i in range(depth)]
        parts = zip(net.interactions[:depth], net.products[:depth], takes, strict=True)
        self.layers = nn.ModuleList([Layer(*part, i == 0) for i, part in enumerate(parts)])
        self.energies, self.head = energies, backbone.head
        self.last_only = len(net.readouts) == 1
        self.readouts = net.readouts if energies else nn.ModuleList()
        self.repulsion = nn.ModuleList([net.pair_repulsion_fn] if hasattr(net, "pair_repulsion_fn") else [])
        self.scale_shift = nn.ModuleList([net.scale_shift] if hasattr(net, "scale_shift") else [])
        self.references = net.atomic_energies_fn
        self.register_buffer("elements", net.atomic_numbers.detach().clone())

    def forward(
        self, numbers: Tensor, owner: Tensor, n_systems: int, edges: Tensor, shifts: Tensor, vectors: Tensor
    ) -> tuple[Tensor, Tensor]:
        lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        places = torch.searchsorted(self.elements, numbers)
        attributes = torch.nn.functional.one_hot(places, self.elements.shape[0]).to(vectors.dtype)
        state = self.embedding(attributes)
        harmonics = self.harmonics(vectors)
        radial, cutoff = self.radial(lengths, attributes, edges, self.elements)
        found: list[Tensor] = []
        states: list[Tensor] = []
        for layer in self.layers:
            state, taken = layer(attributes, state, harmonics, radial, edges, cutoff)
            states.append(state)
            found.append(taken)
        features = torch.cat(found, 1)
        if not self.energies:
            return features, features[:, 0] * 0.0
        heads = torch.full_like(numbers, self.head)
        total = torch.zeros_like(attributes[:, 0])
        for repulsion in self.repulsion:
            total = total + repulsion(lengths, attributes, edges, self.elements)
        for i, readout in enumerate(self.readouts):
            total = total + readout(states[-1] if self.last_only else states[i], heads)[:, self.head]
        for scale_shift in self.scale_shift:
            total = scale_shift(total, heads)
        return features, self.references(attributes)[:, self.head] + total


def scripted_mace(backbone: Mace, energies: bool) -> nn.Module:
    """In TorchScript, which e3nn's modules need a compiler of their own for."""
    from e3nn.util.jit import script

    net = backbone.fresh().to(backbone.device, backbone.dtype)  # a copy, since parts are replaced by compiled ones
    net.load_state_dict(weights_of(backbone)["state_dict"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that TorchScript is to go
        return cast(nn.Module, script(MaceFeatures(backbone, net, energies).eval()))

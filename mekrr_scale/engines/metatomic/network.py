"""A backbone as TorchScript: the network of its kind, behind its scaling."""

from typing import no_type_check

import torch
from torch import Tensor, nn

from mekrr_scale.backbones import Backbone, Chgnet, Mace, Scaling, Sevennet, unscaled
from mekrr_scale.engines.metatomic.chgnet import ChgnetFeatures
from mekrr_scale.engines.metatomic.mace import scripted_mace
from mekrr_scale.engines.metatomic.sevennet import scripted_sevennet
from mekrr_scale.errors import BackboneError


@no_type_check
class Network(nn.Module):
    """Features in the network's precision, and its own energies of atoms (eV, float64; zero where not asked for)."""

    references: Tensor  # (120,) | eV
    precision: Tensor  # (1,) | of the network's dtype

    def __init__(self, features: nn.Module, scaling: Scaling, energies: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.features, self.length, self.energy = features, scaling.length, scaling.energy
        self.energies = energies
        references = torch.zeros(120, dtype=torch.float64)
        for z, energy in scaling.references.items():
            references[z] = energy
        self.register_buffer("references", references)
        self.register_buffer("precision", torch.zeros(1, dtype=dtype))

    def forward(
        self, numbers: Tensor, owner: Tensor, n_systems: int, edges: Tensor, shifts: Tensor, vectors: Tensor
    ) -> tuple[Tensor, Tensor]:
        seen = (vectors * self.length).to(self.precision.dtype)
        features, own = self.features(numbers, owner, n_systems, edges, shifts, seen)
        if not self.energies:
            return features, torch.zeros(numbers.shape[0], dtype=torch.float64, device=numbers.device)
        return features, self.energy * own.to(torch.float64) + self.references[numbers]


def network_of(backbone: Backbone, energies: bool) -> nn.Module:
    """A backbone's, without a compression.

    Raises:
        BackboneError: of a kind that has not been written out in TorchScript.
    """
    inner, scaling = unscaled(backbone)
    dtype = inner.dtype
    if isinstance(inner, Sevennet):
        features = scripted_sevennet(inner, energies)
    elif isinstance(inner, Chgnet):
        features = ChgnetFeatures(inner, energies)
    elif isinstance(inner, Mace):
        features = scripted_mace(inner, energies)
    else:
        raise BackboneError(
            f"models on backbone {inner.name} cannot be exported to metatomic; those on sevennet, chgnet and mace can"
        )
    made: nn.Module = Network(features, scaling, energies, dtype)
    return made

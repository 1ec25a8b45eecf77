"""SevenNet's features as TorchScript: the network's own modules, as ``Sevennet.on_edges`` runs them."""

import warnings
from typing import cast, no_type_check

import torch
from torch import Tensor, nn

from mekrr_scale.backbones import Sevennet
from mekrr_scale.engines.metatomic.invariants import NotTaken, Taken


@no_type_check
class SevennetFeatures(nn.Module):
    """Features, and the network's own energies of atoms (eV) where they are asked for."""

    types: Tensor  # (120,) int64 | the network's index of each element

    def __init__(self, backbone: Sevennet, energies: bool) -> None:
        super().__init__()
        modules, gates, types, modality = backbone.parts(energies)
        self.steps = nn.ModuleList([module for _, module in modules])
        self.takes = nn.ModuleList([Taken(gates[name]) if name in gates else NotTaken() for name, _ in modules])
        self.taken = [name in gates for name, _ in modules]
        self.onehot = [name == "onehot_idx_to_onehot" for name, _ in modules]
        self.modality = -1 if modality is None else modality
        self.energies = energies
        self.register_buffer("types", types.clone())

    def forward(
        self, numbers: Tensor, owner: Tensor, n_systems: int, edges: Tensor, shifts: Tensor, vectors: Tensor
    ) -> tuple[Tensor, Tensor]:
        data: dict[str, Tensor] = {
            "x": self.types[numbers], "edge_index": edges, "edge_vec": vectors, "batch": owner,
        }  # fmt: skip
        if self.modality >= 0:
            data["modal_type"] = torch.full([n_systems], self.modality, device=numbers.device)
        found: list[Tensor] = []
        for i, (step, take) in enumerate(zip(self.steps, self.takes)):  # noqa: B905 (TorchScript knows no strict)
            data = step(data)
            if self.onehot[i]:  # the module makes float32 whatever the weights are
                data["x"] = data["x"].to(vectors.dtype)
                data["node_attr"] = data["x"]
            if self.taken[i]:
                found.append(take(data["x"]))
        features = torch.cat(found, 1)
        return features, data["atomic_energy"][:, 0] if self.energies else features[:, 0] * 0.0


def scripted_sevennet(backbone: Sevennet, energies: bool) -> nn.Module:
    """In TorchScript, which e3nn's modules need a compiler of their own for."""
    from e3nn.util.jit import script

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that TorchScript is to go
        return cast(nn.Module, script(SevennetFeatures(backbone, energies).eval()))

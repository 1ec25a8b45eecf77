"""SevenNet's features as TorchScript: the network's own modules, as ``Sevennet.on_edges`` runs them."""

import warnings
from typing import cast, no_type_check

import torch
from torch import Tensor, nn

from mekrr_scale.backbones import Invariants, Sevennet


@no_type_check
class Taken(nn.Module):
    """What is taken of a gate's components: ``Invariants``."""

    degrees: list[int]
    places: list[list[tuple[int, int]]]
    counts: list[int]  # of channels, in each degree that has products
    signs: Tensor  # (channels of all degrees, mixed)

    def __init__(self, of: Invariants) -> None:
        super().__init__()
        self.scalars = of.scalars
        self.degrees = [one.degree for one in of.channels]
        self.places = [list(one.places) for one in of.channels]
        self.mixed = len(of.channels) > 0 and of.channels[0].signs is not None
        signs = [one.signs for one in of.channels if one.signs is not None]
        self.counts = [len(each) for each in signs]
        self.register_buffer("signs", torch.cat(signs) if signs else torch.zeros(0, 0))

    def forward(self, x: Tensor) -> Tensor:
        found = [x[:, : self.scalars]]
        products: list[Tensor] = []
        first = 0
        for i, degree in enumerate(self.degrees):
            runs: list[Tensor] = []
            for start, stop in self.places[i]:
                runs.append(x[:, start:stop].reshape(x.shape[0], (stop - start) // (2 * degree + 1), 2 * degree + 1))
            vectors = torch.cat(runs, 1)
            found.append((vectors * vectors).sum(2))
            if self.mixed:
                signs = self.signs[first : first + self.counts[i]].to(x.dtype)
                first += self.counts[i]
                mixed = vectors.transpose(1, 2) @ signs
                half = mixed.shape[2] // 2
                products.append((mixed[:, :, :half] * mixed[:, :, half:]).sum(1) / self.counts[i])
        return torch.cat(found + products, 1)


@no_type_check
class Untyped(nn.Module):
    """Nothing is taken."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :0]


@no_type_check
class SevennetFeatures(nn.Module):
    """Features, and the network's own energies of atoms (eV) where they are asked for."""

    types: Tensor  # (120,) int64 | the network's index of each element

    def __init__(self, backbone: Sevennet, energies: bool) -> None:
        super().__init__()
        modules, gates, types, modality = backbone.parts(energies)
        self.steps = nn.ModuleList([module for _, module in modules])
        self.takes = nn.ModuleList([Taken(gates[name]) if name in gates else Untyped() for name, _ in modules])
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

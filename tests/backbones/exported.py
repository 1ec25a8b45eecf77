"""Small exported models of metatomic, which give features and energies of atoms."""

# ruff: noqa: UP006, UP035, UP045 (metatomic compares the annotations with these)
import math
import warnings
from typing import Dict, List, Optional

import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelCapabilities,
    ModelMetadata,
    ModelOutput,
    NeighborListOptions,
    System,
)
from torch import Tensor, nn

from mekrr_scale.backbones import UnsafeCheckpoint, load_backbone

CUTOFF = 3.0  # angstrom


class Network(nn.Module):
    """Densities of neighbours, twice: the second from the first ones of neighbours; energies from both."""

    def __init__(self, full: bool, positions: bool, unit: float, detached: bool = False) -> None:
        super().__init__()
        self.positions, self.detached = positions, detached
        self.unit = unit  # of lengths, in angstrom
        self.options = NeighborListOptions(cutoff=CUTOFF / unit, full_list=full, strict=True)
        self.full = full
        generator = torch.Generator().manual_seed(0)
        shapes = [(20, 4), (6, 4), (4, 4), (8,)]
        made = [0.7 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        self.embedding, self.comb, self.mixing, self.energy = (nn.Parameter(one) for one in made)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        return [self.options]

    def of_atoms(self, system: System) -> Tensor:
        block = system.get_neighbor_list(self.options)
        pairs = block.samples.values.to(torch.int64)
        centre, neighbour = pairs[:, 0], pairs[:, 1]
        if self.positions:
            x = system.positions
            vectors = x[neighbour] - x[centre] + pairs[:, 2:].to(x.dtype) @ system.cell
        else:
            vectors = block.values[:, :, 0]
        if not self.full:
            centre, neighbour = torch.cat([centre, neighbour]), torch.cat([neighbour, centre])
            vectors = torch.cat([vectors, -vectors])
        r = torch.linalg.vector_norm(vectors * self.unit, dim=1)[:, None]
        places = torch.linspace(0.5, 3.0, 6, dtype=r.dtype)
        weights = (torch.exp(-2.0 * (r - places) ** 2) @ self.comb.to(r.dtype)) * torch.cos(
            r * (0.5 * math.pi / 3.0)
        ) ** 2
        z = self.embedding[system.types.to(torch.int64)].to(r.dtype)
        first = torch.tanh(torch.zeros_like(z).index_add(0, centre, weights * z[neighbour]))
        second = torch.zeros_like(z).index_add(0, centre, weights * (first @ self.mixing.to(r.dtype))[neighbour])
        return torch.cat([first, torch.tanh(second)], 1)

    def table(self, name: str, values: Tensor, samples: Labels) -> TensorMap:
        columns = torch.arange(values.shape[1], dtype=torch.int32)[:, None]
        block = TensorBlock(values, samples, torch.jit.annotate(List[Labels], []), Labels([name], columns))
        return TensorMap(Labels(["_"], torch.zeros(1, 1, dtype=torch.int32)), [block])

    def forward(
        self, systems: List[System], outputs: Dict[str, ModelOutput], selected_atoms: Optional[Labels] = None
    ) -> Dict[str, TensorMap]:
        features = torch.cat([self.of_atoms(system) for system in systems])
        if self.detached:
            features = features.detach()
        places: List[Tensor] = []
        for i, system in enumerate(systems):
            at = torch.arange(len(system))
            places.append(torch.stack([torch.full_like(at, i), at], 1))
        # in no order that anybody promises
        samples = Labels(["system", "atom"], torch.cat(places).flip(0).to(torch.int32))
        result: Dict[str, TensorMap] = {}
        for name in outputs.keys():  # noqa: SIM118 (TorchScript)
            if name.startswith("feature"):
                result[name] = self.table("feature", features.flip(0), samples)
            if name == "energy":
                energies = (features @ self.energy.to(features.dtype))[:, None]
                result[name] = self.table("energy", energies.flip(0), samples)
        return result


def save(path, network=None, dtype="float64", unit="angstrom", outputs=("feature", "energy"), kind="atom", **changes):
    """Write a model's file."""
    network = network or Network(full=True, positions=False, unit=1.0)
    known = {name: ModelOutput(unit="eV" if name == "energy" else "", sample_kind=kind) for name in outputs}
    given = {"atomic_types": [1, 6, 8, 14], "interaction_range": 2 * CUTOFF / network.unit, **changes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that TorchScript is to go
        capabilities = ModelCapabilities(
            outputs=known, length_unit=unit, supported_devices=["cpu"], dtype=dtype, **given
        )  # fmt: skip
        AtomisticModel(network.eval(), ModelMetadata(name="toy"), capabilities).save(path)
    return path


def read(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsafeCheckpoint)
        return load_backbone("metatomic", checkpoint=str(path), trust_code=True, **options)

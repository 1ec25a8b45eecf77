"""What metatomic asks of a model: systems with neighbour lists to maps of tensors."""

# ruff: noqa: UP006, UP035, UP045 (metatomic compares the annotations with these)
from typing import Dict, List, Optional, no_type_check

import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import ModelOutput, NeighborListOptions, System
from torch import Tensor, nn


@no_type_check
class Interface(nn.Module):
    """Energies (eV), their uncertainties, and the network's features, of systems and of atoms.

    metatomic's engines take derivatives. The features of a system are the sums of its atoms'.
    """

    def __init__(self, network: nn.Module, expansion: nn.Module, intervals: nn.Module, cutoff: float) -> None:
        super().__init__()
        self.network, self.expansion, self.intervals = network, expansion, intervals
        self.options = NeighborListOptions(cutoff=cutoff, full_list=True, strict=True)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        return [self.options]

    def forward(
        self, systems: List[System], outputs: Dict[str, ModelOutput], selected_atoms: Optional[Labels] = None
    ) -> Dict[str, TensorMap]:
        result: Dict[str, TensorMap] = {}
        if len(systems) == 0 or len(outputs) == 0:
            return result
        numbers: List[Tensor] = []
        edges: List[Tensor] = []
        shifts: List[Tensor] = []
        vectors: List[Tensor] = []
        places: List[Tensor] = []
        first = 0
        for s, system in enumerate(systems):
            block = system.get_neighbor_list(self.options)
            samples = block.samples.values.to(torch.int64)
            edges.append(samples[:, :2].T + first)
            shifts.append(samples[:, 2:5])
            vectors.append(block.values.reshape(-1, 3))
            numbers.append(system.types.to(torch.int64))
            n = len(system)
            at = torch.arange(n, device=samples.device)
            places.append(torch.stack([torch.full_like(at, s), at], 1))
            first += n
        z, place = torch.cat(numbers), torch.cat(places)
        owner = place[:, 0]
        features, own = self.network(z, owner, len(systems), torch.cat(edges, 1), torch.cat(shifts), torch.cat(vectors))
        samples = Labels(["system", "atom"], place.to(torch.int32))
        chosen = torch.arange(len(z), device=z.device)
        if selected_atoms is not None:
            chosen = samples.select(selected_atoms)
            samples = Labels(["system", "atom"], place[chosen].to(torch.int32))
        everything = Labels(["system"], torch.arange(len(systems), dtype=torch.int32, device=z.device)[:, None])
        if "energy" in outputs:
            energies = (own + self.expansion(features, z, owner, len(systems)))[chosen]
            if outputs["energy"].sample_kind == "atom":
                result["energy"] = self.map_of("energy", energies, samples)
            else:
                total = torch.zeros(len(systems), dtype=energies.dtype, device=z.device)
                total = total.index_add(0, owner[chosen], energies)
                result["energy"] = self.map_of("energy", total, everything)
        if "energy_uncertainty" in outputs:
            seen = features.detach()
            if outputs["energy_uncertainty"].sample_kind == "atom":
                widths = self.intervals.atoms(seen[chosen], z[chosen])  # type: ignore[operator]
                result["energy_uncertainty"] = self.map_of("energy", widths, samples)
            else:
                widths = self.intervals(seen, z, owner, len(systems), chosen)
                result["energy_uncertainty"] = self.map_of("energy", widths, everything)
        if "feature" in outputs:
            given = features.to(torch.float64)[chosen]
            if outputs["feature"].sample_kind == "atom":
                result["feature"] = self.table_of("feature", given, samples)
            else:
                sums = torch.zeros(len(systems), given.shape[1], dtype=given.dtype, device=z.device)
                result["feature"] = self.table_of("feature", sums.index_add(0, owner[chosen], given), everything)
        return result

    def map_of(self, name: str, values: Tensor, samples: Labels) -> TensorMap:
        return self.table_of(name, values[:, None], samples)

    def table_of(self, name: str, values: Tensor, samples: Labels) -> TensorMap:
        columns = torch.arange(values.shape[1], dtype=torch.int32, device=values.device)[:, None]
        block = TensorBlock(values, samples, torch.jit.annotate(List[Labels], []), Labels([name], columns))
        return TensorMap(Labels(["_"], columns[:1] * 0), [block])

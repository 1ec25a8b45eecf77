"""Isolated atoms among the structures of a fit: references, and no examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from ase.data import chemical_symbols

from mekrr_scale.distributed import Group
from mekrr_scale.models import BaselineKind
from mekrr_scale.store import FeatureStore, isolated_atoms, lowest_energies

_SAME = 1e-3  # eV; frames of one element that differ by more are of different states


@dataclass(frozen=True)
class References:
    """Frames of one atom without neighbours; true where there are any beside other structures.

    An error per atom of a free atom says nothing about a molecule or a crystal, and its energy is far from what
    they ask of the kernel. Where there are other structures, free atoms are left out of rows, folds and errors.
    """

    found: Mapping[int, Sequence[float]] = field(default_factory=dict)  # eV by atomic number; NaN: none that counts

    @classmethod
    def of(cls, stores: Sequence[FeatureStore], group: Group, factors: Mapping[int, Sequence[float]]) -> References:
        """Those of all ranks; none where no other structure has an energy.

        Args:
            factors: of the weights of configuration types, one for each kind of rows.
        """
        lone = [energy for store in stores for energies in isolated_atoms(store).values() for energy in energies]
        labelled = int(group.sum(torch.tensor(sum(not math.isnan(energy) for energy in lone))))
        own = [{str(z): energies for z, energies in isolated_atoms(store, factors).items()} for store in stores]
        found: dict[int, list[float]] = {}
        for part in (part for parts in group.gather_json(own) for part in parts):
            for z, energies in part.items():
                found.setdefault(int(z), []).extend(math.nan if e is None else float(e) for e in energies)
        others = sum(shard.energies for store in stores for shard in store.shards) > labelled
        return cls(dict(sorted(found.items()))) if others else cls()

    def __bool__(self) -> bool:
        return bool(self.found)

    @property
    def energies(self) -> dict[int, float]:
        """The lowest energy of every element (eV)."""
        return lowest_energies({z: list(energies) for z, energies in self.found.items()})

    def atoms(self, z: int) -> int:
        """Frames of an element."""
        return len(self.found.get(z, ()))

    def remarks(self, kinds: Sequence[BaselineKind], species: Sequence[int]) -> list[str]:
        """What is done with them, in words.

        Args:
            kinds: the baselines that are tried.
            species: of the other structures.
        """
        if not self:
            return []
        count = sum(map(len, self.found.values()))
        symbols = ", ".join(chemical_symbols[z] for z in self.found)
        taken = "baseline isolated takes their energies"
        unused = "their energies are not used (--baseline isolated takes them)"
        lines = [
            f"{count} isolated atom{'s' * (count > 1)} ({symbols}): references, left out of rows, folds and errors; "
            + (taken if "isolated" in kinds else unused)
        ]
        for z, energies in self.found.items():
            known = [e for e in energies if not math.isnan(e)]
            if "isolated" in kinds and known and max(known) - min(known) > _SAME:
                lines.append(
                    f"isolated {chemical_symbols[z]} has energies from {min(known):.4f} to {max(known):.4f} eV; the "
                    "lowest is taken"
                )
        lone = [chemical_symbols[z] for z in self.found if z not in species]
        if lone:
            lines.append(f"{', '.join(lone)} only as isolated atom{'s' * (len(lone) > 1)}: the model does not know it")
        return lines

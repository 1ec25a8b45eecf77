"""What a prediction is made of: atoms' and species' parts of the energy, and the landmarks behind them.

The energy is a sum over atoms, E = sum_a [e0(z_a) + prior_a + sum_m c_m B k(h_a, z_m)], so that
every atom has a part of it, and every part comes from landmarks: training environments whose
similarity to the atom's is the kernel, normalised to 1 for equal ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from jaxtyping import Float64, Int64
from torch import Tensor

from mekrr_scale.figures import Shown, TextTable, boxes_by_element
from mekrr_scale.models import Potential
from mekrr_scale.progress import Progress, Silent
from mekrr_scale.structures import PREDICTED_BY, WRITER, without_results

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class Explanation(Shown):
    """The parts of one structure's energy; atoms in its order."""

    species: Int64[Tensor, " atoms"]
    energies: Float64[Tensor, " atoms"]  # eV, each atom's whole part
    references: Float64[Tensor, " atoms"]  # eV, the reference energy of its species
    similarity: Float64[Tensor, "atoms nearest"]  # to the landmarks most like it, largest first
    landmarks: Int64[Tensor, "atoms nearest"]  # which landmark atoms these are

    @property
    def contributions(self) -> Float64[Tensor, " atoms"]:
        """What atoms add beyond the reference energies of their species (eV)."""
        return self.energies - self.references

    def by_species(self) -> dict[str, tuple[int, float, float]]:
        """Atoms, sum and spread (standard deviation) of their contributions (eV) for each element."""
        rows = {}
        for z in self.species.unique().tolist():
            part = self.contributions[self.species == z]
            rows[chemical_symbols[z]] = (len(part), float(part.sum()), float(part.std(correction=0)))
        return rows

    def headline(self) -> str:
        return f"Energy of {len(self.species)} atoms: {float(self.energies.sum()):.6g} eV"

    def tables(self) -> list[TextTable]:
        """What atoms add beyond the reference energies, by element."""
        rows = tuple(
            (symbol, str(count), f"{total:.4f}", f"{spread:.4f}")
            for symbol, (count, total, spread) in self.by_species().items()
        )
        return [TextTable("", ("element", "atoms", "sum", "spread"), rows, "beyond the reference energies, eV")]

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it; energies in eV, one for each atom."""
        return {
            "species": self.species.tolist(),
            "energies": self.energies.tolist(),
            "contributions": self.contributions.tolist(),
            "similarity": self.similarity.tolist(),
            "landmarks": self.landmarks.tolist(),
        }

    def plot(self, axes: Axes | None = None) -> Axes:
        """Contributions of the atoms, by element."""
        values = {
            chemical_symbols[z]: self.contributions[self.species == z].numpy() for z in self.species.unique().tolist()
        }
        return boxes_by_element(values, "contribution to the energy (eV/atom)", axes)


def explain(potential: Potential, atoms: Atoms, nearest: int = 3) -> Explanation:
    """Take a prediction apart.

    Args:
        nearest: number of landmarks to name for each atom.

    Raises:
        ModelError, BackboneError: a structure that cannot be predicted.
    """
    model = potential.model
    prediction = potential.predict(atoms, forces=False)
    numbers = torch.from_numpy(atoms.numbers.astype(np.int64))
    places = [model.baseline.species.index(z) for z in numbers.tolist()]
    similarity = potential.head.similarities(potential.batch(atoms))
    found = similarity.topk(min(nearest, similarity.shape[1]), 1)
    return Explanation(numbers, prediction.energies, model.baseline.energies[places], found.values, found.indices)


def explained(
    potential: Potential, structures: Iterable[Atoms], nearest: int = 3, progress: Progress | None = None
) -> Iterator[tuple[Atoms, Explanation]]:
    """Copies of structures with the parts as columns: ``energies``, ``contribution``, ``similarity``."""
    progress = progress or Silent()
    for atoms in structures:
        found = explain(potential, atoms, nearest)
        result = without_results(atoms)
        result.info[PREDICTED_BY] = WRITER
        result.calc = SinglePointCalculator(result, energy=float(found.energies.sum()), energies=found.energies.numpy())
        result.arrays["contribution"] = found.contributions.numpy()
        result.arrays["similarity"] = found.similarity.numpy()
        result.arrays["nearest_landmark"] = found.landmarks.numpy()
        progress.advance()
        yield result, found


def totals(explanations: Sequence[Explanation]) -> dict[str, tuple[int, float, float]]:
    """Per element over many structures: atoms, mean and spread of their contributions (eV)."""
    species = torch.cat([found.species for found in explanations])
    parts = torch.cat([found.contributions for found in explanations])
    rows = {}
    for z in species.unique().tolist():
        part = parts[species == z]
        rows[chemical_symbols[z]] = (len(part), float(part.mean()), float(part.std(correction=0)))
    return rows

"""Structures of one system in a model of another: elements renamed, geometries scaled.

For a length scale g (Roecken and Zavadlav, arXiv 2502.13522)

    E(x) = E'(g x),  F(x) = g F'(g x),  sigma(x) = g^3 sigma'(g x).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from ase import Atoms
from ase.data import atomic_numbers

from mekrr_scale import structures
from mekrr_scale.errors import ConfigError
from mekrr_scale.structures.labels import bare


@dataclass(frozen=True)
class Entry:
    """How structures of one system enter a model of another.

    Args:
        length_scale: geometries are multiplied by it before the model sees them (a/a' of two
            crystals' lattice constants); energies and forces follow.
        species: from elements of the model to those of the structures.

    Raises:
        ConfigError: a length scale that is not positive, or an element mapped to from two.
    """

    length_scale: float = 1.0
    species: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.length_scale > 0 and math.isfinite(self.length_scale)):
            raise ConfigError(f"length scale {self.length_scale}: give a positive number, such as 0.949")
        if len(set(self.species.values())) < len(self.species):
            raise ConfigError("a species map takes each element of the structures from one of the model's only")

    def structure(self, atoms: Atoms) -> Atoms:
        """A structure as the model is to see it."""
        seen = bare(atoms)
        for source, target in self.species.items():
            seen.numbers[atoms.numbers == target] = source
        seen.set_cell(self.length_scale * atoms.cell.array)
        seen.positions *= self.length_scale
        return seen

    def prediction(self, found: structures.Prediction) -> structures.Prediction:
        """What the model predicts, for the structure as it is."""
        g = self.length_scale
        return replace(
            found,
            forces=None if found.forces is None else g * found.forces,
            stress=None if found.stress is None else g**3 * found.stress,
        )


def parse_species_map(text: str | None) -> dict[int, int]:
    """``Si:Ge,O:S`` as atomic numbers, source to target.

    >>> parse_species_map("Si:Ge")
    {14: 32}

    Raises:
        ConfigError: not pairs of elements, or a target given twice.
    """
    found: dict[int, int] = {}
    for pair in filter(None, (piece.strip() for piece in (text or "").split(","))):
        source, _, target = (part.strip() for part in pair.partition(":"))
        for symbol in (source, target):
            if symbol not in atomic_numbers or symbol == "X":
                raise ConfigError(f"species map {pair!r}: {symbol!r} is no element; write source:target, e.g. Si:Ge")
        if atomic_numbers[target] in found.values():
            raise ConfigError(f"species map {text!r} gives {target} twice")
        if atomic_numbers[source] in found:
            raise ConfigError(f"species map {text!r} takes {source} twice; map it in two steps")
        found[int(atomic_numbers[source])] = int(atomic_numbers[target])
    return found


@final
@dataclass(frozen=True)
class Entering:
    """A predictor behind an entry."""

    inner: structures.Predictor
    entry: Entry

    def predict(
        self, atoms: Atoms | Sequence[Atoms], forces: bool = True, stress: bool = False
    ) -> structures.Prediction:
        given = [atoms] if isinstance(atoms, Atoms) else list(atoms)
        seen = [self.entry.structure(structure) for structure in given]
        return self.entry.prediction(self.inner.predict(seen, forces, stress))

"""Pairs of atoms: is there a wall at short range?"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import ClassVar, final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import chemical_symbols, covalent_radii
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.checks.base import Check
from mekrr_scale.checks.kinds import ANY, StructureKind
from mekrr_scale.checks.measured import Curve, Measured, Panel, Quantity
from mekrr_scale.checks.thresholds import Thresholds
from mekrr_scale.structures import electrons_info

_CLOSEST, _FAR, _POINTS = 0.4, 2.5, 64  # of the sum of covalent radii
_DEPTH = 0.05  # eV of a minimum that counts
_NEAR = 2.0  # angstrom, as most bonds are
_WALL = 10.0  # eV above separated atoms: no pair in a simulation comes over it, and what lies behind does not matter


@final
class DimerCheck(Check):
    """Energies of isolated pairs of all elements that a structure holds, against their distance."""

    name: ClassVar[str] = "dimers"
    what: ClassVar[str] = "pairs of elements: bound states at short range, where a wall should be"
    kinds: ClassVar[frozenset[StructureKind]] = ANY

    def measure(self, atoms: Atoms, calculator: Calculator) -> Measured:
        """The distance of lowest energy of each pair in sums of covalent radii, and the closest that is bound."""
        quantities: dict[str, Quantity] = {}
        curves: dict[str, Curve] = {}
        for a, b in combinations_with_replacement(sorted(set(atoms.numbers.tolist())), 2):
            pair = f"{chemical_symbols[a]}-{chemical_symbols[b]}"
            size = covalent_radii[a] + covalent_radii[b]
            places = np.linspace(_CLOSEST, _FAR, _POINTS)
            pairs = [_pair(a, b, size * place, atoms, calculator) for place in places]
            energies = np.array([each.get_potential_energy() for each in pairs])
            relative = energies - energies[-1]
            quantities[f"{pair} lowest at"] = Quantity(float(places[energies.argmin()]), "covalent radii")
            quantities[f"{pair} bound at"] = Quantity(_closest_bound(places, energies), "covalent radii")
            curves[pair] = Curve(size * places, np.clip(relative, None, 20.0))
        return Measured(quantities, Panel("distance (angstrom)", "energy of a pair (eV)", curves))

    def effort(self, atoms: Atoms) -> tuple[Atoms, int]:
        """A scan of each pair."""
        elements = sorted(set(atoms.numbers.tolist()))
        return _pair(elements[0], elements[:2][-1], _NEAR, atoms), _POINTS * len(elements) * (len(elements) + 1) // 2

    def failures(self, model: Measured, backbone: Measured | None, limits: Thresholds) -> list[str]:
        wrong = []
        for name in model.quantities:
            if name.endswith("bound at") and model[name] < limits.short_bond:
                also = backbone is not None and backbone[name] < limits.short_bond
                wrong.append(
                    f"{name.split()[0]} is bound at {model[name]:.2f} of the sum of covalent radii"
                    f"{', by the backbone too' if also else ''}: no wall keeps such atoms apart"
                )
        return wrong


def _pair(a: int, b: int, distance: float, atoms: Atoms, calculator: Calculator | None = None) -> Atoms:
    """Two atoms (angstrom apart) that say the charge and spin of the structure: others the model refuses."""
    info = electrons_info(atoms)
    return Atoms([a, b], [[0, 0, 0], [0, 0, distance]], calculator=calculator, info=info)


def _closest_bound(places: Float64[ndarray, " points"], energies: Float64[ndarray, " points"]) -> float:
    """The closest place that is a minimum and that atoms can come to; NaN where the energy only falls outwards.

    The end of the scan is one, where the energy falls towards it.
    """
    behind = np.flatnonzero(energies - energies[-1] > _WALL)
    for k in range(int(behind[-1]) if len(behind) else 0, len(places)):
        further = np.maximum.accumulate(energies[k:])
        lower = np.flatnonzero(energies[k:] < energies[k])
        barrier = further[lower[0]] if len(lower) else further[-1]
        nearer = energies[:k].min(initial=np.inf)
        if nearer > energies[k] and barrier - energies[k] > _DEPTH:
            return float(places[k])
    return float("nan")

"""Lattice constants at the potential's own minimum."""

from __future__ import annotations

from typing import ClassVar, final

from ase import Atoms
from ase.calculators.calculator import Calculator

from mekrr_scale.checks.base import Check
from mekrr_scale.checks.kinds import CRYSTALS, StructureKind
from mekrr_scale.checks.measured import Measured, Quantity
from mekrr_scale.checks.thresholds import Thresholds


@final
class LatticeCheck(Check):
    """Where the cell comes to rest."""

    name: ClassVar[str] = "lattice"
    what: ClassVar[str] = "lattice constants of the relaxed cell"
    kinds: ClassVar[frozenset[StructureKind]] = CRYSTALS
    relaxed: ClassVar[bool] = True

    def measure(self, atoms: Atoms, calculator: Calculator) -> Measured:
        """Lengths that differ, and the energy."""
        found: dict[str, Quantity] = {}
        for name, length in zip("abc", atoms.cell.lengths().tolist(), strict=True):
            if all(abs(length - known.value) > 1e-4 * length for known in found.values()):
                found[name] = Quantity(length, "angstrom")
        atoms.calc = calculator
        return Measured(found | {"energy": Quantity(atoms.get_potential_energy() / len(atoms), "eV/atom")})

    def failures(self, model: Measured, backbone: Measured | None, limits: Thresholds) -> list[str]:
        return []  # a number to compare; without a reference nothing says that it is wrong

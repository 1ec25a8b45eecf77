"""Forces and stress are the derivatives of the energy."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.stress import voigt_6_to_full_3x3_stress

from mekrr_scale.checks.base import Check
from mekrr_scale.checks.kinds import ANY, StructureKind, kind_of
from mekrr_scale.checks.measured import Measured, Quantity
from mekrr_scale.checks.thresholds import Thresholds

_RATTLE, _DIRECTIONS = 0.05, 6  # angstrom
_STEP, _STRAIN = 1e-3, 1e-4  # angstrom of the atom that moves most


@final
class DerivativeCheck(Check):
    """Central differences of the energy along random directions and a random strain."""

    name: ClassVar[str] = "derivatives"
    what: ClassVar[str] = "forces and stress against finite differences of the energy"
    kinds: ClassVar[frozenset[StructureKind]] = ANY

    def measure(self, atoms: Atoms, calculator: Calculator) -> Measured:
        """The largest differences."""
        generator = np.random.default_rng(0)
        moved = atoms.copy()
        moved.positions += generator.normal(scale=_RATTLE, size=moved.positions.shape)
        moved.calc = calculator
        forces, start = moved.get_forces(), moved.positions.copy()
        worst = 0.0
        for _ in range(_DIRECTIONS):
            direction = generator.normal(size=start.shape)
            direction /= np.linalg.norm(direction, axis=1).max()
            ends = []
            for side in (1.0, -1.0):
                moved.positions = start + side * _STEP * direction
                ends.append(moved.get_potential_energy())
            slope = (ends[0] - ends[1]) / (2 * _STEP)
            worst = max(worst, abs(slope + float((forces * direction).sum())) / np.linalg.norm(direction))
        moved.positions = start
        found = {"forces off by": Quantity(worst, "eV/angstrom")}
        if kind_of(atoms) == "crystal":
            found["stress off by"] = Quantity(_stress_error(moved, generator), "eV/angstrom^3")
        return Measured(found)

    def failures(self, model: Measured, backbone: Measured | None, limits: Thresholds) -> list[str]:
        wrong = [name for name in model.quantities if model[name] > limits.difference]
        return [f"{name} {model.quantities[name]} beside finite differences of the energy" for name in wrong]


def _stress_error(atoms: Atoms, generator: np.random.Generator) -> float:
    """Of the stress along a random strain."""
    strain = generator.normal(size=(3, 3))
    strain = (strain + strain.T) / (2 * np.abs(strain + strain.T).max())
    stress = voigt_6_to_full_3x3_stress(atoms.get_stress())
    ends = []
    for side in (1.0, -1.0):
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ (np.eye(3) + side * _STRAIN * strain), scale_atoms=True)
        strained.calc = atoms.calc
        ends.append(strained.get_potential_energy())
    slope = (ends[0] - ends[1]) / (2 * _STRAIN * atoms.get_volume())
    return float(abs(slope - (stress * strain).sum()) / np.linalg.norm(strain))

"""What no potential may depend on: place, orientation, numbering; and size."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from scipy.spatial.transform import Rotation

from mekrr_scale.checks.base import Check
from mekrr_scale.checks.kinds import ANY, StructureKind, kind_of
from mekrr_scale.checks.measured import Measured, Quantity
from mekrr_scale.checks.thresholds import Thresholds
from mekrr_scale.structures import electrons_info

_APART = 40.0  # angstrom


@final
class ExtensivityCheck(Check):
    """Twice the atoms have twice the energy."""

    name: ClassVar[str] = "extensivity"
    what: ClassVar[str] = "the energy of a doubled cell, or of two copies far apart"
    kinds: ClassVar[frozenset[StructureKind]] = ANY

    def measure(self, atoms: Atoms, calculator: Calculator) -> Measured:
        """The energy that is too much."""
        if kind_of(atoms) == "molecule":
            single = Atoms(atoms.numbers, atoms.positions, info=electrons_info(atoms))
            away = np.array([_APART + np.ptp(atoms.positions[:, 0]), 0.0, 0.0])
            twice = single + Atoms(atoms.numbers, atoms.positions + away)
        else:
            single = atoms.copy()
            shortest = min((length, axis) for axis, length in enumerate(atoms.cell.lengths()) if atoms.pbc[axis])[1]
            twice = atoms.repeat([2 if axis == shortest else 1 for axis in range(3)])
        single.calc = twice.calc = calculator
        one = single.get_potential_energy()
        excess = (twice.get_potential_energy() - 2 * one) / len(twice)
        return Measured({"excess": Quantity(float(excess), "eV/atom")})

    def failures(self, model: Measured, backbone: Measured | None, limits: Thresholds) -> list[str]:
        if abs(model["excess"]) <= limits.extensivity:
            return []
        return [f"twice the atoms have {model.quantities['excess']} more than twice the energy"]


@final
class MotionCheck(Check):
    """A copy that is turned, moved and renumbered has the same energy, and forces that turn along."""

    name: ClassVar[str] = "motion"
    what: ClassVar[str] = "energies and forces of a turned, moved and renumbered copy"
    kinds: ClassVar[frozenset[StructureKind]] = ANY

    def measure(self, atoms: Atoms, calculator: Calculator) -> Measured:
        """The largest differences."""
        generator = np.random.default_rng(0)
        turn = Rotation.random(rng=generator).as_matrix()
        order = generator.permutation(len(atoms))
        first = atoms.copy()
        second = Atoms(
            atoms.numbers[order],
            atoms.positions[order] @ turn + generator.normal(size=3),
            cell=atoms.cell.array @ turn,
            pbc=atoms.pbc,
            info=electrons_info(atoms),
        )
        first.calc = calculator
        energy, forces = first.get_potential_energy(), first.get_forces()
        second.calc = calculator
        off = np.abs(second.get_forces() - forces[order] @ turn).max()
        return Measured(
            {
                "energy off by": Quantity(abs(second.get_potential_energy() - energy) / len(atoms), "eV/atom"),
                "forces off by": Quantity(float(off), "eV/angstrom"),
            }
        )

    def failures(self, model: Measured, backbone: Measured | None, limits: Thresholds) -> list[str]:
        wrong = [name for name in model.quantities if model[name] > limits.motion]
        return [f"{name} {model.quantities[name]} in a turned, moved and renumbered copy" for name in wrong]

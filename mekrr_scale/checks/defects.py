"""Vacancies and surfaces of elements."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from ase import Atoms, units
from ase.build import surface
from ase.calculators.calculator import Calculator

from mekrr_scale.checks.base import Check
from mekrr_scale.checks.kinds import CRYSTALS, StructureKind, repeats
from mekrr_scale.checks.measured import Measured, Quantity
from mekrr_scale.checks.thresholds import Thresholds
from mekrr_scale.errors import ConfigError
from mekrr_scale.structures import relaxed

_LENGTH, _VACUUM = 10.0, 10.0  # angstrom
_FACES = ((1, 0, 0), (1, 1, 0), (1, 1, 1))
_AT_REST = 0.02  # eV/angstrom
_JOULE = units.J / units.m**2


@final
class VacancyCheck(Check):
    """E(N - 1) - (N - 1)/N E(N), relaxed at constant volume."""

    name: ClassVar[str] = "vacancy"
    what: ClassVar[str] = "formation energy of a vacancy"
    kinds: ClassVar[frozenset[StructureKind]] = CRYSTALS
    relaxed: ClassVar[bool] = True
    asked: ClassVar[bool] = True

    def measure(self, atoms: Atoms, calculator: Calculator) -> Measured:
        """Before and after relaxation."""
        _require_element(atoms)
        whole = atoms.repeat(repeats(atoms, _LENGTH))
        whole.calc = calculator
        energy = (len(whole) - 1) / len(whole) * whole.get_potential_energy()
        hole = whole.copy()
        del hole[0]
        hole.calc = calculator
        unrelaxed = hole.get_potential_energy() - energy
        found = relaxed(hole, calculator, cell=False, force=_AT_REST).get_potential_energy() - energy
        return Measured({"vacancy energy": Quantity(float(found), "eV"), "unrelaxed": Quantity(float(unrelaxed), "eV")})

    def failures(self, model: Measured, backbone: Measured | None, limits: Thresholds) -> list[str]:
        if model["vacancy energy"] > 0:
            return []
        return [f"a vacancy costs {model.quantities['vacancy energy']}: the crystal would fill with holes"]


@final
class SurfaceCheck(Check):
    """(E of a slab - N e of the crystal) / 2A, relaxed."""

    name: ClassVar[str] = "surface"
    what: ClassVar[str] = "energies of the faces (100), (110) and (111)"
    kinds: ClassVar[frozenset[StructureKind]] = CRYSTALS
    relaxed: ClassVar[bool] = True
    asked: ClassVar[bool] = True

    def measure(self, atoms: Atoms, calculator: Calculator) -> Measured:
        """One for each face."""
        _require_element(atoms)
        atoms.calc = calculator
        each = atoms.get_potential_energy() / len(atoms)
        found = {}
        for face in _FACES:
            layer = surface(atoms, face, 1, periodic=True)
            layers = int(np.ceil(_LENGTH / layer.cell.lengths()[2]))
            slab = surface(atoms, face, layers, vacuum=_VACUUM, periodic=True)
            area = float(np.linalg.norm(np.cross(slab.cell[0], slab.cell[1])))
            energy = relaxed(slab, calculator, cell=False, force=_AT_REST).get_potential_energy()
            cost = (energy - len(slab) * each) / (2 * area) / _JOULE
            found[f"surface ({''.join(map(str, face))})"] = Quantity(float(cost), "J/m^2")
        return Measured(found)

    def failures(self, model: Measured, backbone: Measured | None, limits: Thresholds) -> list[str]:
        return [
            f"the {name} costs {model.quantities[name]}: the crystal would fall apart"
            for name in model.quantities
            if not model[name] > 0
        ]


def _require_element(atoms: Atoms) -> None:
    if len(set(atoms.numbers.tolist())) > 1:
        raise ConfigError("it is for crystals of one element, whose parts have one chemical potential")

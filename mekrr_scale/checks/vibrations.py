"""Vibrations of molecules."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar, final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.vibrations import Vibrations

from mekrr_scale.checks.base import Check
from mekrr_scale.checks.kinds import MOLECULES, StructureKind
from mekrr_scale.checks.measured import Curve, Measured, Panel, Quantity
from mekrr_scale.checks.thresholds import Thresholds

_DISPLACEMENT = 0.01  # angstrom
_RIGID = 6  # modes of a molecule as a whole, 5 of a linear one


@final
class VibrationCheck(Check):
    """Harmonic frequencies of the relaxed molecule (ASE's finite displacements)."""

    name: ClassVar[str] = "vibrations"
    what: ClassVar[str] = "harmonic frequencies of a relaxed molecule: imaginary modes"
    kinds: ClassVar[frozenset[StructureKind]] = MOLECULES
    relaxed: ClassVar[bool] = True

    def measure(self, atoms: Atoms, calculator: Calculator) -> Measured:
        """The lowest and the highest frequency beside those of rigid motion; imaginary ones are negative."""
        atoms.calc = calculator
        with tempfile.TemporaryDirectory() as folder:
            vibrations = Vibrations(atoms, name=str(Path(folder) / "moves"), delta=_DISPLACEMENT)
            vibrations.run()
            found = vibrations.get_frequencies()
        signed = np.sort(np.where(np.abs(found.imag) > np.abs(found.real), -np.abs(found.imag), found.real))
        inner = signed[
            np.argsort(np.abs(signed), kind="stable")[_rigid(atoms) :]
        ]  # those of rigid motion are nearest 0
        if not len(inner):
            return Measured({})
        values = np.sort(inner)
        curve = Curve(np.arange(1.0, len(values) + 1), values, marked=True)
        quantities = {
            "lowest frequency": Quantity(float(values[0]), "1/cm"),
            "highest frequency": Quantity(float(values[-1]), "1/cm"),
        }
        return Measured(quantities, Panel("mode", "frequency (1/cm)", {"": curve}))

    def effort(self, atoms: Atoms) -> tuple[Atoms, int]:
        """The relaxation, and every coordinate moved both ways."""
        return atoms, 40 + 6 * len(atoms)

    def failures(self, model: Measured, backbone: Measured | None, limits: Thresholds) -> list[str]:
        if not model["lowest frequency"] < -limits.imaginary_molecule:
            return []
        if backbone is not None and backbone["lowest frequency"] < -limits.imaginary_molecule:
            return []
        return [f"an imaginary mode of {-model['lowest frequency']:.0f}i 1/cm: the molecule is not at a minimum"]


def _rigid(atoms: Atoms) -> int:
    """How many modes move the molecule as a whole."""
    if len(atoms) == 1:
        return 3
    placed = atoms.positions - atoms.positions.mean(0)
    return _RIGID if np.linalg.matrix_rank(placed, tol=1e-2) > 1 else _RIGID - 1

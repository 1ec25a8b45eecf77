"""Elastic constants by finite strains."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.optimize import BFGS
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.checks.base import Check
from mekrr_scale.checks.kinds import CRYSTALS, StructureKind
from mekrr_scale.checks.measured import Measured, Quantity
from mekrr_scale.checks.thresholds import Thresholds
from mekrr_scale.errors import ConfigError

_STEPS, _STRAIN = 5, 0.005  # stresses at up to +-1 %
_CUBIC = 0.02  # what lattice constants of a cubic cell may differ by, relative


@final
class ElasticityCheck(Check):
    """The elastic tensor by stresses of strained cells, atoms relaxed within (matscipy)."""

    name: ClassVar[str] = "elastic"
    what: ClassVar[str] = "elastic constants, and whether the crystal is stable against all strains"
    kinds: ClassVar[frozenset[StructureKind]] = CRYSTALS
    relaxed: ClassVar[bool] = True

    def measure(self, atoms: Atoms, calculator: Calculator) -> Measured:
        """C11, C12 and C44 of cubic crystals, the diagonal of others; Voigt's averages; the smallest eigenvalue."""
        try:
            from matscipy.elasticity import fit_elastic_constants
        except ImportError as error:
            raise ConfigError("elastic constants need matscipy: pip install 'mekrr-scale[check]'") from error
        strained = atoms.copy()
        strained.calc = calculator
        matrix, _ = fit_elastic_constants(
            strained, "triclinic", _STEPS, _STRAIN, optimizer=BFGS, verbose=False, fmax=5e-3
        )
        tensor = 0.5 * (matrix + matrix.T) / units.GPa
        found = {name: Quantity(value, "GPa") for name, value in _named(tensor, _is_cubic(atoms)).items()}
        found["smallest eigenvalue"] = Quantity(float(np.linalg.eigvalsh(tensor).min()), "GPa")
        return Measured(found)

    def failures(self, model: Measured, backbone: Measured | None, limits: Thresholds) -> list[str]:
        if model["smallest eigenvalue"] > 0:
            return []
        return [
            f"the elastic tensor is not positive definite (smallest eigenvalue {model['smallest eigenvalue']:.3g} GPa):"
            " the crystal is not stable against some strain"
        ]


def _is_cubic(atoms: Atoms) -> bool:
    lengths, angles = atoms.cell.lengths(), atoms.cell.angles()
    return bool(np.ptp(lengths) < _CUBIC * lengths.mean() and np.allclose(angles, 90.0, atol=1.0))


def _named(tensor: Float64[ndarray, "6 6"], cubic: bool) -> dict[str, float]:
    """Constants and Voigt's averages (GPa)."""
    along, across, shear = np.diag(tensor)[:3], tensor[[0, 0, 1], [1, 2, 2]], np.diag(tensor)[3:]
    averages = {
        "bulk modulus (Voigt)": float(along.sum() + 2 * across.sum()) / 9,
        "shear modulus (Voigt)": float(along.sum() - across.sum() + 3 * shear.sum()) / 15,
    }
    if cubic:
        return {"C11": float(along.mean()), "C12": float(across.mean()), "C44": float(shear.mean()), **averages}
    return {f"C{i + 1}{i + 1}": float(value) for i, value in enumerate(np.diag(tensor))} | averages

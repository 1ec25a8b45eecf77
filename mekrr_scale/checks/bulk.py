"""Equation of state: is the well at the lattice constant as wide as it should be?"""

from __future__ import annotations

import warnings
from typing import ClassVar, final

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.eos import EquationOfState
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.checks.base import Check
from mekrr_scale.checks.kinds import CRYSTALS, StructureKind, at_rest
from mekrr_scale.checks.measured import Curve, Measured, Panel, Quantity
from mekrr_scale.checks.thresholds import Thresholds

STRAINS = (0.005, 0.01, 0.02, 0.04)  # of the lattice constants, on both sides
_SHOWN = 0.02  # whose fit gives V0 and B0
_PLACES = np.linspace(-1.0, 1.0, 7)
_STRAINED = sorted({round(strain * place, 6) for strain in STRAINS for place in _PLACES.tolist()})


@final
class EquationOfStateCheck(Check):
    """Birch's third-order equation fitted over four ranges of strain (Birch, Phys. Rev. 71, 809 (1947)).

    Energies of a smooth potential give the same bulk modulus whatever the range. A fit whose energies are wrong by a
    millielectronvolt beside the minimum gives a sharp well there, which wide ranges do not see.
    """

    name: ClassVar[str] = "eos"
    what: ClassVar[str] = "bulk modulus over four ranges of strain: a sharp well shows as their spread"
    kinds: ClassVar[frozenset[StructureKind]] = CRYSTALS
    relaxed: ClassVar[bool] = True

    def measure(self, atoms: Atoms, calculator: Calculator) -> Measured:
        """V0, B0 and B0' of each range; energies against volumes of the widest."""
        energies: dict[float, float] = {}
        for place in sorted(_STRAINED, key=abs):
            strained = at_rest(atoms, calculator, 1.0 + place)
            energies[place] = float(strained.get_potential_energy())
        fits = {strain: _fitted(atoms, strain, energies) for strain in STRAINS}
        moduli = np.array([fit[1] for fit in fits.values()])
        volume, _, slope = fits[_SHOWN]
        n = len(atoms)
        found = {"V0": Quantity(volume / n, "angstrom^3/atom"), "B0": Quantity(fits[_SHOWN][1], "GPa")}
        found |= {f"B0 within {100 * strain:g} %": Quantity(fit[1], "GPa") for strain, fit in fits.items()}
        found |= {"B0'": Quantity(slope), "spread of B0": Quantity(float(np.ptp(moduli) / abs(moduli.mean())))}
        volumes = atoms.get_volume() / n * (1.0 + np.array(_STRAINED)) ** 3
        shown = 1e3 * (np.array([energies[place] for place in _STRAINED]) - energies[0.0]) / n
        panel = Panel("volume (angstrom^3/atom)", "energy (meV/atom)", {"": Curve(volumes, shown)})
        return Measured(found, panel)

    def effort(self, atoms: Atoms) -> tuple[Atoms, int]:
        """The relaxation, and one strained cell after another."""
        return atoms, 20 + len(_STRAINED)

    def failures(self, model: Measured, backbone: Measured | None, limits: Thresholds) -> list[str]:
        wrong = []
        if not model["B0"] > 0:
            wrong.append(f"the bulk modulus is {model.quantities['B0']}: the crystal is not stable against its volume")
        elif not model["spread of B0"] <= limits.bulk_spread:
            named = ", ".join(f"{model[f'B0 within {100 * s:g} %']:.0f} within {100 * s:g} %" for s in STRAINS)
            wrong.append(
                f"B0 depends on the range of strain ({named}, in GPa): spread {100 * model['spread of B0']:.0f} %, "
                f"more than {100 * limits.bulk_spread:.0f} %"
            )
        if backbone is not None and model["B0"] > 0 and abs(model["B0"] / backbone["B0"] - 1.0) > limits.bulk_change:
            wrong.append(
                f"B0 is {model.quantities['B0']}, the bare backbone's {backbone.quantities['B0']}: a change of "
                f"{100 * (model['B0'] / backbone['B0'] - 1.0):+.0f} %, more than {100 * limits.bulk_change:.0f} %"
            )
        return wrong


def _fitted(atoms: Atoms, strain: float, energies: dict[float, float]) -> tuple[float, float, float]:
    """Volume (angstrom^3), bulk modulus (GPa) and its pressure derivative."""
    places = [round(strain * place, 6) for place in _PLACES]
    volumes = atoms.get_volume() * (1.0 + np.array(places)) ** 3
    return birch(volumes, np.array([energies[place] for place in places]))


def birch(volumes: Float64[ndarray, " points"], energies: Float64[ndarray, " points"]) -> tuple[float, float, float]:
    """Equilibrium volume, bulk modulus (GPa) and its pressure derivative; NaN where there is no minimum.

    Args:
        volumes: angstrom^3, of whatever the energies (eV) are of.
    """
    equation = EquationOfState(volumes, energies, eos="birchmurnaghan")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            volume, _, modulus = equation.fit(warn=False)
    except (RuntimeError, ValueError):  # scipy, ASE: no fit
        return float("nan"), float("nan"), float("nan")
    return float(volume), float(modulus / units.GPa), float(equation.eos_parameters[2])

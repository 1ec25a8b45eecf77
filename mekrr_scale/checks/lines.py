"""Smoothness: forces along a random line must not jump."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.checks.base import Check
from mekrr_scale.checks.kinds import ANY, StructureKind
from mekrr_scale.checks.measured import Curve, Measured, Panel, Quantity
from mekrr_scale.checks.thresholds import Thresholds

_REACH, _STEP = 0.15, 5e-3  # angstrom, of the atom that moves most
_FINER = (5e-4, 1e-4)  # steps around the places that bend most
_PLACES = 2


@final
class LineCheck(Check):
    """Second differences of the forces, looked at more and more closely where they are largest.

    Of a smooth force they fall as the square of the step, of one that jumps they stay.
    """

    name: ClassVar[str] = "lines"
    what: ClassVar[str] = "forces along a random line: jumps"
    kinds: ClassVar[frozenset[StructureKind]] = ANY

    def measure(self, atoms: Atoms, calculator: Calculator) -> Measured:
        """The largest second difference at steps of 1e-4 angstrom; energies along the line."""
        direction = np.random.default_rng(0).normal(size=atoms.positions.shape)
        direction /= np.linalg.norm(direction, axis=1).max()
        energies: dict[float, float] = {}
        moved = atoms.copy()
        moved.calc = calculator

        def forces(place: float) -> Float64[ndarray, "atoms 3"]:
            moved.positions = atoms.positions + place * direction
            found: Float64[ndarray, "atoms 3"] = moved.get_forces()
            energies[place] = moved.get_potential_energy()
            return found

        places = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
        bends = _bends(forces, places)
        shown = Curve(places, 1e3 * (np.array([energies[place] for place in places]) - energies[places[0]]))
        candidates = places[1:-1][np.argsort(-bends)[:_PLACES]]
        jump = max(_closest(forces, float(place)) for place in candidates)
        panel = Panel("along a random line (angstrom)", "energy (meV)", {"": shown})
        return Measured({"largest jump": Quantity(jump, "eV/angstrom in 1e-4 angstrom")}, panel)

    def failures(self, model: Measured, backbone: Measured | None, limits: Thresholds) -> list[str]:
        own = 0.0 if backbone is None else backbone["largest jump"]
        if model["largest jump"] <= own + limits.jump:
            return []
        return [
            f"a force jumps by {model['largest jump']:.2g} eV/angstrom in 1e-4 angstrom, the backbone's by {own:.2g}"
        ]


def _bends(
    forces: Callable[[float], Float64[ndarray, "atoms 3"]], places: Float64[ndarray, " places"]
) -> Float64[ndarray, " inner"]:
    """The largest second difference of a force component at each inner place."""
    found = np.stack([forces(float(place)) for place in places])
    bends: Float64[ndarray, " inner"] = np.abs(np.diff(found, 2, axis=0)).max((1, 2))
    return bends


def _closest(forces: Callable[[float], Float64[ndarray, "atoms 3"]], place: float) -> float:
    """The largest second difference near a place, by ever finer steps."""
    reach, bends = _STEP, np.zeros(1)
    for step in _FINER:
        places = place + np.arange(-reach, reach + step / 2, step)
        bends = _bends(forces, places)
        place, reach = float(places[1:-1][bends.argmax()]), step
    return float(bends.max())

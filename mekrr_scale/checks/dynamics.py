"""Short dynamics: conserved energy, and heating until something gives."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet

from mekrr_scale.checks.base import Check
from mekrr_scale.checks.kinds import ANY, StructureKind, kind_of, repeats
from mekrr_scale.checks.measured import Curve, Measured, Panel, Quantity
from mekrr_scale.checks.thresholds import Thresholds
from mekrr_scale.errors import ConfigError
from mekrr_scale.models import MekrrCalculator

_LENGTH = 5.0  # angstrom, of a crystal's supercell
_KELVIN, _STEPS = 300.0, 500
_HEAT, _HOTTEST, _RISE = 10, 3000.0, 4.0  # steps between looks, kelvin, kelvin a step
_FRICTION = 0.05  # 1/fs: hot soon
_GRADE, _FORCE = 2.0, 100.0  # where heating stops: outside of the training data; eV/angstrom
_BLOCKS = 10  # of a run, whose means scatter as its drift does
_SEEN = 1.0  # the edge of the training data


@final
class EnergyCheck(Check):
    """Half a picosecond at constant energy (velocity Verlet)."""

    name: ClassVar[str] = "nve"
    what: ClassVar[str] = "drift of the total energy at constant energy"
    kinds: ClassVar[frozenset[StructureKind]] = ANY

    def measure(self, atoms: Atoms, calculator: Calculator) -> Measured:
        """The slope of the total energy, and how sure it is: by least squares over the means of ten parts."""
        moving = _moving(atoms, calculator)
        step = _timestep(moving)
        energies, total = [], len(moving)
        dynamics = VelocityVerlet(moving, step * units.fs)
        for _ in range(_STEPS):
            dynamics.run(1)
            energies.append(1e3 * moving.get_total_energy() / total)
        times = step * np.arange(1.0, _STEPS + 1)
        (slope, _), spread = np.polyfit(
            times.reshape(_BLOCKS, -1).mean(1), np.reshape(energies, (_BLOCKS, -1)).mean(1), 1, cov=True
        )
        curve = Curve(times, np.array(energies) - energies[0])
        panel = Panel("time (fs)", "total energy (meV/atom)", {"": curve})
        found = {"drift": slope, "drift, +-": np.sqrt(spread[0, 0])}
        return Measured({name: Quantity(1e4 * float(each), "meV/atom in 10 ps") for name, each in found.items()}, panel)

    def failures(self, model: Measured, backbone: Measured | None, limits: Thresholds) -> list[str]:
        if abs(model["drift"]) - 2 * model["drift, +-"] <= limits.drift:
            return []
        return [f"the total energy drifts by {model.quantities['drift']} at constant energy"]


@final
class HeatingCheck(Check):
    """From 300 K up until the grade says that the model does not know this, or the structure flies apart.

    A model that fails is bad; one that fails inside of what it calls known is worse: nothing would stop a run.
    """

    name: ClassVar[str] = "heating"
    what: ClassVar[str] = "heating from 300 K until it fails, or the extrapolation grade says stop"
    kinds: ClassVar[frozenset[StructureKind]] = ANY

    def measure(self, atoms: Atoms, calculator: Calculator) -> Measured:
        """Temperatures at which an atom left the training data, and where it ended."""
        moving = _moving(atoms, calculator)
        step = _timestep(moving)
        dynamics = Langevin(
            moving, step * units.fs, temperature_K=_KELVIN, friction=_FRICTION / units.fs,
            rng=np.random.default_rng(0), fixcm=False,
        )  # fmt: skip
        target, left, grade, kelvin = _KELVIN, float("nan"), float("nan"), []
        broken = False
        while target < _HOTTEST and not broken:
            dynamics.set_temperature(temperature_K=target)
            dynamics.run(_HEAT)
            kelvin.append((target, moving.get_temperature()))
            largest = float(np.linalg.norm(moving.get_forces(), axis=1).max())
            broken = not largest < _FORCE
            grade = _grade(moving, calculator)
            if grade > _SEEN and np.isnan(left):
                left = target
            if grade > _GRADE:
                break
            target += _RISE * _HEAT
        known = broken and (np.isnan(left) or left >= target)
        places = np.array(kelvin)
        found = {
            "heated to": Quantity(target, "K"),
            "leaves the training data at": Quantity(left, "K"),
            "broken inside of it": Quantity(float(known)),
        }
        panel = Panel("bath (K)", "temperature of the atoms (K)", {"": Curve(places[:, 0], places[:, 1])})
        return Measured(found, panel)

    def failures(self, model: Measured, backbone: Measured | None, limits: Thresholds) -> list[str]:
        if not model["broken inside of it"]:
            return []
        return [
            f"forces above {_FORCE:g} eV/angstrom at {model.quantities['heated to']}, among structures that the model "
            "calls known (no grade above 1)"
        ]


def _grade(atoms: Atoms, calculator: Calculator) -> float:
    """The largest extrapolation grade; NaN of what has none."""
    if not isinstance(calculator, MekrrCalculator) or calculator.potential.model.posterior is None:
        return float("nan")
    return float(calculator.potential.uncertainty(atoms).grade.max())


def _moving(atoms: Atoms, calculator: Calculator) -> Atoms:
    """A copy with velocities.

    Raises:
        ConfigError: one atom, which has none once the whole is at rest.
    """
    moving = atoms.repeat(repeats(atoms, _LENGTH)) if kind_of(atoms) == "crystal" else atoms.copy()
    if len(moving) == 1:
        raise ConfigError("an atom alone does not move")
    moving.calc = calculator
    MaxwellBoltzmannDistribution(moving, temperature_K=_KELVIN, rng=np.random.default_rng(0))
    Stationary(moving)
    return moving


def _timestep(atoms: Atoms) -> float:
    """In fs: hydrogen needs short ones."""
    return 0.5 if (atoms.numbers == 1).any() else 1.0

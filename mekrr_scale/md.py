"""Molecular dynamics and relaxation that say when the model leaves what it knows.

ASE integrates; here is what a long job needs around it: a restart file, a trajectory with energies,
forces and uncertainties, and bounds at which to stop with the last good frame kept.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ase.io
import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary

from mekrr_scale.calculator import MekrrCalculator
from mekrr_scale.errors import ConfigError, SimulationError
from mekrr_scale.progress import Progress, Silent
from mekrr_scale.restarts import RestartFile

Ensemble = Literal["nve", "langevin", "npt"]


@dataclass(frozen=True)
class Bounds:
    """When to stop. None switches a bound off.

    Args:
        force: largest force on an atom (eV/angstrom).
        uncertainty: of the energy, 68 % (eV/atom).
        grade: largest extrapolation grade of an atom; 1 is the edge of the training data.
        every: steps between looks at the uncertainty, which costs about a third of a step.
    """

    force: float | None = 50.0
    uncertainty: float | None = None
    grade: float | None = None
    every: int = 10

    def __post_init__(self) -> None:
        for name in ("force", "uncertainty", "grade"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"the bound on {name} is {value}; give a positive number, or none at all")
        if self.every < 1:
            raise ConfigError(f"the uncertainty is looked at every {self.every} steps; give a positive number")

    @property
    def asks_uncertainty(self) -> bool:
        return self.uncertainty is not None or self.grade is not None


@dataclass(frozen=True)
class MdPlan:
    """A simulation.

    Args:
        ensemble: ``nve`` (velocity Verlet), ``langevin`` (NVT) or ``npt`` (Langevin-Hoover with
            isotropic volume; LangevinBAOAB of ASE).
        steps: in all, those before a restart included.
        timestep: in fs.
        temperature: in K; of the initial velocities too, where the structure has none.
        friction: of Langevin, in 1/fs.
        pressure: of npt, in GPa.
        interval: steps between frames of the trajectory.
        checkpoint: steps between restart files.

    Raises:
        ConfigError: a value outside its range.
    """

    ensemble: Ensemble = "langevin"
    steps: int = 1000
    timestep: float = 1.0
    temperature: float = 300.0
    friction: float = 0.01
    pressure: float = 0.0
    interval: int = 10
    checkpoint: int = 100
    seed: int = 0
    bounds: Bounds = Bounds()

    def __post_init__(self) -> None:
        for name in ("timestep", "friction"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ConfigError(f"{name} is {getattr(self, name)}; give a positive number")
        if self.temperature < 0 or not math.isfinite(self.temperature):
            raise ConfigError(f"temperature is {self.temperature} K; it must not be negative")
        for name in ("steps", "interval", "checkpoint"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give at least 1")


@dataclass(frozen=True)
class MdReport:
    """What a simulation did."""

    atoms: Atoms  # at the end
    steps: int  # in all
    resumed: int  # of which were done before
    drift: float  # of the conserved energy in this run, meV/atom per 10 ps; NaN unless nve


def run_md(
    atoms: Atoms,
    calculator: MekrrCalculator,
    trajectory: Path | str,
    plan: MdPlan,
    progress: Progress | None = None,
) -> MdReport:
    """Simulate; the same call goes on from the restart file that an earlier one left.

    Beside the trajectory (extended xyz) lie ``<stem>.restart.json``, written at intervals and
    at the end, and, after a bound was exceeded, ``<stem>.last-good.xyz``.

    Raises:
        SimulationError: a bound was exceeded; names the step, the value and the files.
        ConfigError: the restart file is of another simulation, or the ensemble needs a cell.
    """
    progress = progress or Silent()
    path = Path(trajectory)
    identity = {"ensemble": plan.ensemble, "timestep": plan.timestep, "seed": plan.seed}
    restart = RestartFile(path, identity)
    atoms = atoms.copy()
    atoms.calc = calculator
    if plan.ensemble == "npt" and (atoms.cell.rank < 3 or not atoms.pbc.all()):
        raise ConfigError("npt changes the cell: the structure needs one that is periodic in all three directions")
    generator = np.random.default_rng(plan.seed)
    state = restart.read(atoms)
    if state is None:
        if not atoms.get_momenta().any() and plan.temperature > 0:
            MaxwellBoltzmannDistribution(atoms, temperature_K=plan.temperature, rng=generator)
            Stationary(atoms)
        path.write_text("", encoding="utf-8")
    else:
        restart.restore(state, atoms, generator)
    done = 0 if state is None else int(state["step"])
    dynamics = _dynamics(atoms, plan, generator)
    if state is not None and plan.ensemble == "npt":
        dynamics.p_eps = state["p_eps"]
    recorder = _Recorder(atoms, calculator, path, restart, plan, dynamics, generator)
    progress.stage(plan.ensemble, max(plan.steps - done, 0))
    if state is None:
        recorder.look(0)
        recorder.write(0)
    for step in range(done + 1, plan.steps + 1):
        dynamics.run(1)
        recorder.look(step)
        if step % plan.interval == 0:
            recorder.write(step)
        if step % plan.checkpoint == 0 or step == plan.steps:
            recorder.save(step)
        progress.advance()
    return MdReport(atoms, plan.steps, done, recorder.drift())


def relax(
    atoms: Atoms,
    calculator: MekrrCalculator,
    trajectory: Path | str | None = None,
    force: float = 0.02,
    steps: int = 500,
    cell: bool = False,
    bounds: Bounds | None = None,
    progress: Progress | None = None,
) -> Atoms:
    """Minimise the energy (FIRE of ASE), of positions and, if asked for, the cell.

    Args:
        trajectory: extended xyz of all steps.
        force: stop when no atom feels more (eV/angstrom).
        cell: relax the cell too (FrechetCellFilter).

    Raises:
        SimulationError: not converged within ``steps``, or a bound was exceeded.
        ConfigError: the cell is to be relaxed, but there is none.
    """
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    progress = progress or Silent()
    atoms = atoms.copy()
    atoms.calc = calculator
    if cell and (atoms.cell.rank < 3 or not atoms.pbc.any()):
        raise ConfigError("there is no cell to relax; give a periodic structure, or relax positions only")
    path = None if trajectory is None else Path(trajectory)
    if path is not None:
        path.write_text("", encoding="utf-8")
    bounds = bounds or Bounds()
    guard = _Guard(atoms, calculator, bounds, path or Path("relaxed.xyz"))
    optimizer = FIRE(FrechetCellFilter(atoms) if cell else atoms, logfile=None)
    progress.stage("relax", steps)
    for step, converged in enumerate(optimizer.irun(fmax=force, steps=steps)):
        found = guard.look(step)
        if path is not None:
            with path.open("a", encoding="utf-8") as stream:
                ase.io.write(stream, _frame(atoms, {"step": step, **found}), format="extxyz")
        progress.advance()
        if converged:
            return atoms
    largest = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    raise SimulationError(
        f"not converged after {steps} steps: the largest force is {largest:.3g} eV/angstrom, asked for was {force:g}; "
        "give more --steps, or a larger --force"
    )


class _Guard:
    """Looks at forces and uncertainties, and keeps the last frame that was good."""

    def __init__(self, atoms: Atoms, calculator: MekrrCalculator, bounds: Bounds, path: Path) -> None:
        self.atoms, self.calculator, self.bounds = atoms, calculator, bounds
        self.path = path
        self.good: Atoms | None = None
        self.found: dict[str, float] = {}

    def look(self, step: int) -> Mapping[str, float]:
        """What is known of the uncertainty.

        Raises:
            SimulationError: a bound is exceeded.
        """
        forces = self.atoms.get_forces()
        largest = float(np.linalg.norm(forces, axis=1).max())
        if not np.isfinite(forces).all():
            self._stop(step, "forces are not finite")
        if self.bounds.force is not None and largest > self.bounds.force:
            self._stop(step, f"a force of {largest:.3g} eV/angstrom exceeds the bound of {self.bounds.force:g}")
        if self.bounds.asks_uncertainty and step % self.bounds.every == 0:
            sure = self.calculator.potential.uncertainty(self.atoms)
            energy, grade = float(sure.energy[0]) / len(self.atoms), float(sure.grade.max())
            self.found = {"uncertainty_per_atom": energy, "largest_grade": grade}
            if self.bounds.uncertainty is not None and energy > self.bounds.uncertainty:
                self._stop(
                    step,
                    f"the energy is uncertain by {1e3 * energy:.3g} meV/atom, the bound is "
                    f"{1e3 * self.bounds.uncertainty:.3g}",
                )
            if self.bounds.grade is not None and grade > self.bounds.grade:
                worst = int(sure.grade.argmax())
                self._stop(
                    step,
                    f"atom {worst} ({self.atoms.symbols[worst]}) is outside of the training data: grade {grade:.3g}, "
                    f"the bound is {self.bounds.grade:g}",
                )
        self.good = _frame(self.atoms, {"step": step, **self.found})
        return self.found

    def _stop(self, step: int, reason: str) -> None:
        kept = ""
        if self.good is not None:
            file = self.path.with_name(f"{self.path.stem}.last-good.xyz")
            ase.io.write(file, self.good, format="extxyz")
            kept = f"; the last good frame is in {file}"
        raise SimulationError(
            f"stopped at step {step}: {reason}{kept}. Add such structures to the training data, or raise the bound"
        )


class _Recorder:
    """Writes what a simulation leaves behind."""

    def __init__(
        self,
        atoms: Atoms,
        calculator: MekrrCalculator,
        path: Path,
        restart: RestartFile,
        plan: MdPlan,
        dynamics: Any,
        generator: np.random.Generator,
    ) -> None:
        self.atoms, self.plan, self.dynamics, self.generator = atoms, plan, dynamics, generator
        self.path, self.restart = path, restart
        self.guard = _Guard(atoms, calculator, plan.bounds, path)
        self.found: Mapping[str, float] = {}
        self._first: float | None = None
        self._sums = np.zeros(5)  # over steps: 1, t, e, t^2, t e; of the energy e after the first

    def look(self, step: int) -> None:
        self.found = self.guard.look(step)
        if self.plan.ensemble == "nve":
            time = step * self.plan.timestep * 1e-4  # in 10 ps
            energy = 1e3 * self.atoms.get_total_energy() / len(self.atoms)
            self._first = energy if self._first is None else self._first
            risen = energy - self._first
            self._sums += (1.0, time, risen, time**2, time * risen)

    def write(self, step: int) -> None:
        info = {
            "step": step,
            "time_fs": step * self.plan.timestep,
            "temperature_K": self.atoms.get_temperature(),
            "total_energy": self.atoms.get_total_energy(),
            **self.found,
        }
        with self.path.open("a", encoding="utf-8") as stream:
            ase.io.write(stream, _frame(self.atoms, info), format="extxyz")

    def save(self, step: int) -> None:
        self.restart.save(self.atoms, step, self.generator, p_eps=float(getattr(self.dynamics, "p_eps", 0.0)))

    def drift(self) -> float:
        """Slope of the total energy, by least squares over all steps."""
        count, times, energies, squares, products = self._sums
        spread = count * squares - times**2
        if count < 2 or spread <= 0:
            return math.nan
        return float((count * products - times * energies) / spread)


def _dynamics(atoms: Atoms, plan: MdPlan, generator: np.random.Generator) -> Any:
    step = plan.timestep * units.fs
    if plan.ensemble == "nve":
        from ase.md.verlet import VelocityVerlet

        return VelocityVerlet(atoms, step)
    if plan.ensemble == "langevin":
        from ase.md.langevin import Langevin

        return Langevin(
            atoms, step, temperature_K=plan.temperature, friction=plan.friction / units.fs, fixcm=False, rng=generator
        )
    try:
        from ase.md.langevinbaoab import LangevinBAOAB
    except ImportError as error:
        raise ConfigError("ensemble npt needs a newer ase (with ase.md.langevinbaoab): pip install -U ase") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its default barostat mass
        return LangevinBAOAB(
            atoms,
            step,
            temperature_K=plan.temperature,
            externalstress=-plan.pressure * units.GPa,
            hydrostatic=True,
            T_tau=units.fs / plan.friction,
            P_tau=20 * units.fs / plan.friction,
            rng=generator,
        )


def _frame(atoms: Atoms, info: Mapping[str, Any]) -> Atoms:
    """A copy with what is known, for a file."""
    frame = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc, momenta=atoms.get_momenta())
    frame.info.update(info)
    results = {key: atoms.calc.results[key] for key in ("energy", "forces", "stress") if key in atoms.calc.results}
    frame.calc = SinglePointCalculator(frame, **results)
    return frame

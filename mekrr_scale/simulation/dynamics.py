"""Molecular dynamics that says when the model leaves what it knows.

ASE integrates; here is what a long job needs around it: a restart file, a trajectory with energies,
forces and uncertainties, and bounds at which to stop with the last good frame kept.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from pydantic import Field

from mekrr_scale.errors import ConfigError
from mekrr_scale.files import locked
from mekrr_scale.models import MekrrCalculator, Model, as_calculator
from mekrr_scale.outputs import STREAM, check_output
from mekrr_scale.plans import plan, plan_of
from mekrr_scale.progress import Progress, shown_progress
from mekrr_scale.simulation.bounds import Bounds, Guard, append_frame, frame_with, memory_kept, moving
from mekrr_scale.simulation.cells import warn_of_cell
from mekrr_scale.simulation.choices import Ensemble
from mekrr_scale.simulation.identity import run_identity
from mekrr_scale.simulation.restarts import RestartFile, RestartState
from mekrr_scale.structures import with_predictions

_BAROSTAT = ("p_eps", "force_eps")  # what LangevinBAOAB carries from step to step beside the atoms


@plan
class MdPlan:
    """A simulation.

    Raises:
        ConfigError: a value outside its range, or of no such kind.
    """

    ensemble: Ensemble = "langevin"
    """``nve`` (velocity Verlet), ``langevin`` (NVT) or ``npt`` (Langevin-Hoover with isotropic volume; LangevinBAOAB of
    ASE)."""

    steps: int = Field(default=1000, ge=1)
    """Steps in all, those before a restart included."""

    timestep: float = Field(default=1.0, gt=0)
    """Time step (fs)."""

    temperature: float = Field(default=300.0, ge=0)
    """Temperature (K); of the initial velocities too, where the structure has none."""

    friction: float = Field(default=0.01, gt=0)
    """Friction of the Langevin thermostat (1/fs)."""

    pressure: float = 0.0
    """Pressure of ``npt`` (GPa)."""

    interval: int = Field(default=10, ge=1)
    """Steps between frames of the trajectory."""

    checkpoint: int = Field(default=100, ge=1)
    """Steps between restart files."""

    seed: int = Field(default=0, ge=0)
    """Of the initial velocities and of the thermostat."""

    bounds: Bounds = Field(default_factory=Bounds)
    """Forces, uncertainties and grades at which it stops."""


@dataclass(frozen=True)
class MdReport:
    """What a simulation did."""

    atoms: Atoms  # at the end
    steps: int  # in all
    resumed: int  # of which were done before
    drift: float  # of the conserved energy in this run, meV/atom per 10 ps; NaN unless nve


def run_md(
    atoms: Atoms,
    calculator: BaseCalculator | Model | Path | str,
    trajectory: Path | str,
    plan: MdPlan | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> MdReport:
    """Simulate; the same call goes on from the restart file that an earlier one left.

    Frames hold what the model says of them as ``predicted_energy`` (eV), ``predicted_forces`` and ``predicted_stress``:
    names that no extraction takes for labels. Beside the trajectory (extended xyz) lie ``<stem>.restart.json``,
    written at the start, at intervals and at the end, and, after a bound was exceeded, ``<stem>.last-good.xyz``.
    Another start structure, model, ensemble,
    temperature, friction, pressure, time step, seed or interval is another simulation; ``steps``, ``checkpoint`` and
    the bounds may change on the way. While it runs, nothing else may simulate into the same trajectory.

    Args:
        calculator: a model's, or another one of ASE's; or a model, or a model's file.
        plan: by default 1000 steps of 1 fs at 300 K (Langevin).
        overwrite: begin anew where a file or another simulation is in the way; the same one still goes on.

    Raises:
        SimulationError: a bound was exceeded; names the step, the value and the files.
        ConfigError: the trajectory is another simulation's, no simulation's, or being written; or the ensemble needs
            a cell, or the bounds a model.
    """
    plan, calculator = plan_of(plan, MdPlan), as_calculator(calculator)
    plan.bounds.require_model(calculator)
    path = check_output(trajectory, STREAM, overwrite=True)  # whether it may be replaced, its restart file tells
    atoms = moving(atoms)
    atoms.calc = calculator
    if plan.ensemble == "npt" and (atoms.cell.rank < 3 or not atoms.pbc.all()):
        raise ConfigError("npt changes the cell: the structure needs one that is periodic in all three directions")
    if plan.ensemble == "npt":
        warn_of_cell(atoms, calculator)
    restart = RestartFile(path, run_identity(atoms, calculator, plan))
    with locked(path):
        return _run(atoms, calculator, restart, plan, progress, overwrite)


def _run(
    atoms: Atoms,
    calculator: BaseCalculator,
    restart: RestartFile,
    plan: MdPlan,
    progress: Progress | None,
    overwrite: bool,
) -> MdReport:
    """The run of a trajectory that is locked."""
    generator = np.random.default_rng(plan.seed)
    state = _state_of(restart, atoms, overwrite)
    if state is None:
        _begin(atoms, plan, restart, generator)
    else:
        restart.restore(state, atoms, generator)
    done = 0 if state is None else state["step"]
    if done and plan.ensemble == "npt":
        atoms.get_stress()  # forces come with it from then on, as they did when the state was written
    recorder = _Recorder(atoms, calculator, restart, plan, _integrator(atoms, plan, generator, state), generator)
    with shown_progress(progress, "steps") as shown, memory_kept(calculator):
        shown.stage(plan.ensemble, max(plan.steps - done, 0))
        if not done:
            recorder.look(0)
            recorder.write(0)
        elif state is not None and done < plan.steps:
            recorder.guard.resume(done, state.get("known", {}))
        for step in range(done + 1, plan.steps + 1):
            recorder.move(step)
            shown.advance()
    return MdReport(atoms, max(plan.steps, done), done, recorder.drift())


def _state_of(restart: RestartFile, atoms: Atoms, overwrite: bool) -> RestartState | None:
    """The state to go on from; None where nothing is in the way of a new run."""
    try:
        state = restart.read(atoms)
        path = restart.trajectory
        if state is not None:
            restart.require_frames(state)
            restart.require_potential(state, atoms)
        if state is None and path.stat().st_size:
            raise ConfigError(
                f"{path} is there already and no restart file tells how it came to be; choose another output, or "
                "begin anew with --overwrite"
            )
    except ConfigError:
        if not overwrite:
            raise
        return None
    return state


def _begin(atoms: Atoms, plan: MdPlan, restart: RestartFile, generator: np.random.Generator) -> None:
    """Velocities where there are none, and an empty trajectory that is known from the start to be this run's."""
    if not atoms.get_momenta().any() and plan.temperature > 0:
        MaxwellBoltzmannDistribution(atoms, temperature_K=plan.temperature, rng=generator)
        Stationary(atoms)
    restart.trajectory.write_text("", encoding="utf-8")
    restart.save(atoms, 0, generator)


@final
class _Recorder:
    """Writes what a simulation leaves behind."""

    def __init__(
        self,
        atoms: Atoms,
        calculator: BaseCalculator,
        restart: RestartFile,
        plan: MdPlan,
        integrator: MolecularDynamics,
        generator: np.random.Generator,
    ) -> None:
        self.atoms, self.plan, self.integrator, self.generator = atoms, plan, integrator, generator
        self.calculator = calculator
        self.path, self.restart = restart.trajectory, restart
        self.guard = Guard(atoms, calculator, plan.bounds, self.path)
        self.known: Mapping[str, float] = {}
        self._first: float | None = None
        self._sums = np.zeros(5)  # over steps: 1, t, e, t^2, t e; of the energy e after the first

    def move(self, step: int) -> None:
        """One step, and all that is due after it."""
        with self.guard.watching():
            self.integrator.run(1)
        self.look(step)
        if step % self.plan.interval == 0:
            self.write(step)
        if step % self.plan.checkpoint == 0 or step == self.plan.steps:
            self.save(step)
            self._forget(step)

    def look(self, step: int) -> None:
        self.known = self.guard.look(step)
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
            **self.known,
        }
        append_frame(self.path, with_predictions(frame_with(self.atoms, info)))

    def save(self, step: int) -> None:
        held = {name: float(getattr(self.integrator, name)) for name in _BAROSTAT if hasattr(self.integrator, name)}
        told = isinstance(self.calculator, MekrrCalculator)  # by the identity, all that it predicts from
        energy = None if told else float(self.atoms.get_potential_energy(apply_constraint=False))
        self.restart.save(self.atoms, step, self.generator, held, self.known, energy)

    def _forget(self, step: int) -> None:
        """What a continued run does not have either, so that both go on alike, bit by bit."""
        if step < self.plan.steps and self.plan.ensemble != "npt" and isinstance(self.calculator, MekrrCalculator):
            self.calculator.neighbours.forget()  # a changed cell makes new lists anyway
            self.calculator.reset()

    def drift(self) -> float:
        """Slope of the total energy, by least squares over all steps."""
        count, times, energies, squares, products = self._sums
        spread = count * squares - times**2
        if count < 2 or spread <= 0:
            return math.nan
        return float((count * products - times * energies) / spread)


def _integrator(
    atoms: Atoms, plan: MdPlan, generator: np.random.Generator, state: RestartState | None
) -> MolecularDynamics:
    """ASE's dynamics of the plan's ensemble."""
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
        barostat = LangevinBAOAB(
            atoms,
            step,
            temperature_K=plan.temperature,
            externalstress=-plan.pressure * units.GPa,
            hydrostatic=True,
            T_tau=units.fs / plan.friction,
            P_tau=20 * units.fs / plan.friction,
            rng=generator,
        )
    if state is not None:
        barostat.p_eps = state["p_eps"]
        barostat.force_eps = state.get("force_eps", barostat.force_eps)
    return barostat

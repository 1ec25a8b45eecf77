"""What happened along a simulation or relaxation, as figures show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms, units
from ase.filters import Filter
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.errors import ConfigError
from mekrr_scale.figures import BLUE, ORANGE, SERIES, Line, Track, course_axes
from mekrr_scale.regression import UNITS
from mekrr_scale.simulation.dynamics import MdPlan
from mekrr_scale.structures import read_structures, with_predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FS_PER_PS = 1000.0


@dataclass(frozen=True)
class MdCourse:
    """A simulation frame by frame; NaN where a frame does not tell."""

    plan: MdPlan
    stopped: bool  # whether the last frame is the one that exceeded a bound
    time: Float64[ndarray, " frames"]  # ps
    temperature: Float64[ndarray, " frames"]  # K
    potential: Float64[ndarray, " frames"]  # eV/atom
    total: Float64[ndarray, " frames"]  # eV/atom
    pressure: Float64[ndarray, " frames"]  # GPa, with the part of the moving atoms
    uncertainty: Float64[ndarray, " frames"]  # eV/atom, 68 %
    grade: Float64[ndarray, " frames"]  # the largest of an atom

    @classmethod
    def read(cls, trajectory: Path | str, plan: MdPlan, beyond: Atoms | None = None) -> MdCourse:
        """Of the trajectory that ``run_md`` wrote, all parts of a resumed run included.

        Args:
            plan: of the run.
            beyond: the frame that exceeded a bound, which no trajectory has: ``SimulationError.beyond``.

        Raises:
            ConfigError: there are no frames.
        """
        path = Path(trajectory)
        there = path.exists() and path.stat().st_size  # a run that stops at once leaves nothing
        rows = [_row(atoms, plan) for atoms in read_structures(path, "extxyz")] if there else []
        if beyond is not None:
            rows.append(_row(with_predictions(beyond), plan))
        if not rows:
            raise ConfigError(f"{path} holds no frames; there is nothing to draw")
        return cls(plan, beyond is not None, *np.array(rows, float).T)

    @property
    def drift(self) -> float:
        """Slope of the total energy by least squares over the frames, meV/atom per ps; NaN of fewer than two."""
        if len(self.time) < 2:
            return np.nan
        return float(np.polyfit(self.time, 1e3 * self.total, 1)[0])

    def plot(self) -> list[Axes]:
        """Temperature, energies and whatever else is known, against time."""
        return course_axes(self._tracks(), "time (ps)")

    def _tracks(self) -> list[Track]:
        plan, bounds, energy = self.plan, self.plan.bounds, UNITS["energy"]
        thermal = plan.ensemble != "nve"
        start = self.potential[0]
        energies = {
            "total": self._line(energy.factor * (self.total - start), ORANGE),
            "potential": self._line(energy.factor * (self.potential - start)),
        }
        drift = (
            "" if thermal or np.isnan(self.drift) else f"the total energy drifts by {self.drift:.2g} meV/atom per ps"
        )
        tracks = [
            Track(
                "temperature (K)", {"of the atoms": self._line(self.temperature)},
                plan.temperature if thermal else None, f"thermostat, {plan.temperature:g} K",
            ),
            Track(f"energy less the first\npotential energy ({energy.symbol})", energies, title=drift),
        ]  # fmt: skip
        if np.isfinite(self.pressure).any():
            target = plan.pressure if plan.ensemble == "npt" else None
            tracks.append(
                Track("pressure (GPa)", {"of the cell": self._line(self.pressure)}, target,
                      f"barostat, {plan.pressure:g} GPa")
            )  # fmt: skip
        if np.isfinite(self.grade).any():
            lines = self._guarded("of the least sure atom", self.grade)
            tracks.append(Track("extrapolation grade", lines, bounds.grade, f"bound, {bounds.grade or 0:g}"))
        if np.isfinite(self.uncertainty).any():
            bound = None if bounds.uncertainty is None else energy.factor * bounds.uncertainty
            lines = self._guarded("of the energy", energy.factor * self.uncertainty)
            label = f"uncertainty of the energy,\n68 % ({energy.symbol})"
            tracks.append(Track(label, lines, bound, f"bound, {bound or 0:g} {energy.symbol}"))
        return tracks

    def _line(self, values: Float64[ndarray, " frames"], colour: str = BLUE) -> Line:
        return Line(self.time, values, colour, marked=len(values) == 1)

    def _guarded(self, name: str, values: Float64[ndarray, " frames"]) -> dict[str, Line]:
        """A line, and where it ended the run."""
        end = {"stopped here": Line(self.time[-1:], values[-1:], ORANGE, marked=True)} if self.stopped else {}
        return {name: self._line(values), **end}


def _row(atoms: Atoms, plan: MdPlan) -> tuple[float, ...]:
    """The fields of a course."""
    info, size = atoms.info, len(atoms)
    kinetic = atoms.get_kinetic_energy()
    total = info["total_energy"] if "total_energy" in info else info["predicted_energy"] + kinetic
    stress = np.ravel(info.get("predicted_stress", np.full(6, np.nan)))
    normal = stress[:3] if len(stress) == 6 else stress[[0, 4, 8]]  # Voigt, or the whole tensor
    pressure = np.nan if np.isnan(normal).any() else 2 * kinetic / (3 * atoms.get_volume()) - normal.mean()
    return (
        info["step"] * plan.timestep / _FS_PER_PS,
        info.get("temperature_K", atoms.get_temperature()),
        (total - kinetic) / size,
        total / size,
        pressure / units.GPa,
        info.get("uncertainty_per_atom", np.nan),
        info.get("largest_grade", np.nan),
    )


@dataclass(frozen=True)
class RelaxCourse:
    """A relaxation step by step: what ``relax`` is given one for."""

    energies: list[float] = field(default_factory=list)  # eV
    forces: list[float] = field(default_factory=list)  # eV/angstrom, the largest, the cell's among them

    def add(self, atoms: Atoms, moved: Atoms | Filter) -> None:
        """Another step.

        Args:
            moved: what is relaxed: the atoms, or them and their cell.
        """
        self.energies.append(float(atoms.get_potential_energy()))
        self.forces.append(float(np.linalg.norm(moved.get_forces(), axis=1).max()))

    def plot(self, force: float | None = None) -> list[Axes]:
        """Energy and largest force against the step.

        Args:
            force: below which all should be (eV/angstrom).
        """
        return relaxation_axes([self], force)


def relaxation_axes(courses: Sequence[RelaxCourse], force: float | None = None) -> list[Axes]:
    """The same of several structures, by their places.

    Args:
        force: below which all should be (eV/angstrom).

    Raises:
        ConfigError: none has a step.
    """
    begun = {place: course for place, course in enumerate(courses) if course.energies}
    if not begun:
        raise ConfigError("no step was made; there is nothing to draw")
    energies, forces = {}, {}
    for place, course in begun.items():
        name = "" if len(courses) == 1 else f"structure {place}"
        step, colour = np.arange(len(course.energies), dtype=float), SERIES[place % len(SERIES)]
        marked = len(step) == 1
        relative = np.array(course.energies) - course.energies[0]
        energies[name or "energy"] = Line(step, relative, colour, marked=marked)
        forces[name or "largest force"] = Line(step, np.array(course.forces), colour, marked=marked)
    asked = "" if force is None else f"asked for: {force:g} eV/angstrom"
    tracks = [
        Track("energy less that of the start (eV)", energies),
        Track("largest force (eV/angstrom)", forces, force, asked, logarithmic=True),
    ]
    return course_axes(tracks, "step")

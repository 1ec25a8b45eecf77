"""Bounds at which a simulation stops, with the last good frame kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar, final

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from pydantic import Field

from mekrr_scale.arrays import kept_memory
from mekrr_scale.errors import ConfigError, SimulationError, StructureError
from mekrr_scale.models import ADVICE, Limits, MekrrCalculator, require_bound
from mekrr_scale.plans import plan
from mekrr_scale.simulation.restarts import beside
from mekrr_scale.structures import with_predictions, without_results, write_structure

_OF_A_STEP = ("step", "time_fs", "temperature_K", "uncertainty_per_atom", "scf_converged")
_LABEL = re.compile("energ|force|stress|virial", re.IGNORECASE)

T = TypeVar("T")


@plan
class Bounds:
    """When to stop. None switches a bound off.

    Raises:
        ConfigError: a bound that is no positive number.
    """

    force: float | None = 50.0
    """Largest force on an atom (eV/angstrom)."""

    uncertainty: float | None = None
    """Of the energy, 68 % (eV/atom)."""

    grade: float | None = None
    """Largest extrapolation grade of an atom; 1 is the edge of the training data."""

    every: int = Field(default=10, ge=1)
    """Steps between looks at the uncertainty, which costs about a third of a step."""

    def __post_init__(self) -> None:
        for name in ("force", "uncertainty", "grade"):
            require_bound(name, getattr(self, name))

    @property
    def limits(self) -> Limits:
        """Those of the uncertainty and the grade."""
        return Limits(self.uncertainty, self.grade)

    @property
    def asks_uncertainty(self) -> bool:
        return self.limits.any

    def require_model(self, calculator: BaseCalculator) -> None:
        """Refuse bounds that a calculator cannot be held to.

        Raises:
            ConfigError: of uncertainty or grade, which models alone tell.
        """
        if self.asks_uncertainty and not isinstance(calculator, MekrrCalculator):
            raise ConfigError(
                f"{type(calculator).__name__} tells no uncertainty and no grade; leave their bounds out or give a model"
            )


def memory_kept(calculator: BaseCalculator) -> AbstractContextManager[None]:
    """Pages of memory are kept while it computes, but for a model whose memory was bounded."""
    bounded = isinstance(calculator, MekrrCalculator) and calculator.potential.max_memory is not None
    return kept_memory(not bounded)


@final
class Guard:
    """Looks at forces and uncertainties, and keeps the last frame that was good.

    Args:
        path: of the trajectory; the last good frame is kept beside it.
    """

    def __init__(self, atoms: Atoms, calculator: BaseCalculator, bounds: Bounds, path: Path) -> None:
        self.atoms, self.calculator, self.bounds = atoms, calculator, bounds
        self.path = path
        self.good: Atoms | None = None
        self.known: dict[str, float] = {}
        self.step: int | None = None  # that was looked at last

    def resume(self, step: int, known: Mapping[str, float]) -> None:
        """Go on behind a state that an earlier run left: its frame is the last good one, if the bounds allow it.

        Its forces are those of the next step, which asks for them anyway.

        Args:
            known: of the uncertainty, when it was looked at last.
        """
        asks = self.bounds.asks_uncertainty
        self.step, self.known = step, dict(known) if asks else {}
        if self._pushed():
            return
        now, broken = self._asked() if asks else ({}, "")
        if not broken:
            self.good = frame_with(self.atoms, {"step": step, **now})

    def look(self, step: int) -> Mapping[str, float]:
        """What is known of the uncertainty.

        Raises:
            SimulationError: a bound is exceeded.
        """
        pushed = self._pushed()
        if pushed:
            self._stop(step, pushed)
        due = step % self.bounds.every == 0
        if self.bounds.asks_uncertainty and due:
            self.known, broken = self._asked()
            if broken:
                self._stop(step, broken, frame_with(self.atoms, {"step": step, **self.known}))
        self.step = step
        if due or not self.bounds.asks_uncertainty:  # a frame whose uncertainty nobody saw may be beyond its bound
            self.good = frame_with(self.atoms, {"step": step, **self.known})
        return self.known

    @contextmanager
    def watching(self) -> Iterator[None]:
        """A step that leads to a geometry without energies (atoms at one place, lost positions) stops, too.

        Raises:
            SimulationError: it does.
        """
        try:
            yield
        except StructureError as error:
            if self.step is None:
                raise
            self._stop(self.step + 1, str(error))

    def watched(self, steps: Iterable[T]) -> Iterator[T]:
        """Steps as they come, watched."""
        stream = iter(steps)
        while True:
            with self.watching():
                try:
                    item = next(stream)
                except StopIteration:
                    return
            yield item

    def _pushed(self) -> str:
        """In words, why forces are not good; nothing where they are."""
        forces = self.atoms.get_forces()
        if not np.isfinite(forces).all():
            return "forces are not finite"
        largest = float(np.linalg.norm(forces, axis=1).max())
        if self.bounds.force is not None and largest > self.bounds.force:
            return f"a force of {largest:.3g} eV/angstrom exceeds the bound of {self.bounds.force:g} eV/angstrom"
        return ""

    def _asked(self) -> tuple[dict[str, float], str]:
        """What the uncertainty is now, and which bound it exceeds, in words."""
        assert isinstance(self.calculator, MekrrCalculator)
        sure = self.calculator.potential.uncertainty(self.atoms)
        energy, grade = float(sure.energy[0]) / len(self.atoms), float(sure.grade.max())
        broken = self.bounds.limits.broken(energy, sure.grade, list(self.atoms.symbols), range(len(self.atoms)))
        return {"uncertainty_per_atom": energy, "largest_grade": grade}, broken

    def _stop(self, step: int, reason: str, beyond: Atoms | None = None) -> None:
        kept = ""
        if self.good is not None:
            file = beside(self.path, "last-good.xyz")
            write_structure(file, with_predictions(self.good))
            kept = f"; the last good frame is in {file}"
        raise SimulationError(
            f"stopped at step {step}: {reason}{kept}. {ADVICE}",
            self.good,
            beyond,
        )


def moving(atoms: Atoms) -> Atoms:
    """A copy to start from: constraints, tags, arrays and info stay.

    Labels, under whatever name, do not: they are of a geometry that is about to be left.
    """
    start = without_results(atoms)
    for held in (start.info, start.arrays):
        for name in [key for key in held if key in _OF_A_STEP or _LABEL.search(str(key))]:
            del held[name]
    return start


def frame_with(
    atoms: Atoms, info: Mapping[str, float | str], names: Sequence[str] = ("energy", "forces", "stress")
) -> Atoms:
    """A copy with results of its calculator, which may go on to others, and what else is known.

    Args:
        names: of the results.
    """
    frame = atoms.copy()
    frame.info.update(info)
    results = {key: atoms.calc.results[key] for key in names if key in atoms.calc.results}
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def append_frame(path: Path, frame: Atoms) -> None:
    """Write a frame behind those of an extended xyz file."""
    with path.open("a", encoding="utf-8") as stream:
        ase.io.write(stream, frame, format="extxyz")

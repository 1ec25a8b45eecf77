"""Relaxation of positions and cells, within bounds."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from mekrr_scale.errors import ConfigError, SimulationError
from mekrr_scale.files import locked
from mekrr_scale.models import Model, as_calculator
from mekrr_scale.outputs import STREAM, check_output
from mekrr_scale.progress import Progress, shown_progress
from mekrr_scale.simulation.bounds import Bounds, Guard, append_frame, frame_with, memory_kept, moving
from mekrr_scale.simulation.cells import cell_mask, warn_of_cell
from mekrr_scale.simulation.courses import RelaxCourse
from mekrr_scale.structures import PREDICTED_BY, WRITER


def relax(
    atoms: Atoms,
    calculator: BaseCalculator | Model | Path | str,
    trajectory: Path | str | None = None,
    force: float = 0.02,
    steps: int = 500,
    cell: bool = False,
    bounds: Bounds | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    course: RelaxCourse | None = None,
) -> Atoms:
    """Minimise the energy (FIRE of ASE), of positions and, if asked for, the cell.

    Args:
        calculator: a model's, or another one of ASE's; or a model, or a model's file.
        trajectory: extended xyz of all steps.
        force: stop when no atom feels more (eV/angstrom).
        cell: relax the cell too (FrechetCellFilter): along directions that are periodic. Warns of vacuum, and of a
            model that was not trained on stress.
        overwrite: a trajectory that is there may be replaced.
        course: an empty one, which then holds energy and largest force of every step, also where this raises.

    Raises:
        SimulationError: not converged within ``steps``, or a bound was exceeded; its ``atoms`` is the last (good)
            structure.
        ConfigError: the cell is to be relaxed, but there is none; or the trajectory cannot or must not be written; or
            the bounds are not for this calculator; or force or steps are not positive.
    """
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    if not 0 < force < math.inf or steps < 1:
        raise ConfigError(f"relaxation to {force} eV/angstrom in {steps} steps: give positive numbers, as 0.02 and 500")
    path = None if trajectory is None else check_output(trajectory, STREAM, overwrite)
    calculator = as_calculator(calculator)
    atoms = moving(atoms)
    atoms.calc = calculator
    if cell and (atoms.cell.rank < 3 or not atoms.pbc.any()):
        raise ConfigError("there is no cell to relax; give a periodic structure, or relax positions only")
    if cell:
        warn_of_cell(atoms, calculator)
    bounds = bounds or Bounds()
    bounds.require_model(calculator)
    guard = Guard(atoms, calculator, bounds, path or Path("relaxed.xyz"))
    moved = FrechetCellFilter(atoms, mask=cell_mask(atoms)) if cell else atoms
    optimizer = FIRE(moved, logfile=None)
    with (
        shown_progress(progress, "steps") as shown,
        nullcontext() if path is None else locked(path),
        memory_kept(calculator),
    ):
        if path is not None:
            path.write_text("", encoding="utf-8")
        shown.stage("relax", steps)
        for step, converged in enumerate(guard.watched(optimizer.irun(fmax=force, steps=steps))):
            if course is not None:
                course.add(atoms, moved)
            known = guard.look(step)
            if path is not None:
                append_frame(path, frame_with(atoms, {"step": step, PREDICTED_BY: WRITER, **known}))
            shown.advance()
            if converged:
                return atoms
    raise _not_converged(atoms, moved.get_forces()[len(atoms) :], force, steps)


def _not_converged(atoms: Atoms, strains: np.ndarray, force: float, steps: int) -> SimulationError:
    """Say what did not."""
    sizes = np.linalg.norm(atoms.get_forces(), axis=1)
    worst = int(sizes.argmax())
    left = f"the largest force is {sizes[worst]:.3g} eV/angstrom, on atom {worst} ({atoms.symbols[worst]})"
    if len(strains):
        left += f"; the cell's is {np.linalg.norm(strains, axis=1).max():.3g} eV/atom"
    return SimulationError(
        f"not converged after {steps} steps: {left}; asked for was {force:g} eV/angstrom. Give more --steps, or a "
        "larger --force",
        frame_with(atoms, {PREDICTED_BY: WRITER}),
    )

"""The checks that the end of a fit can afford, so that what is unphysical is said at once."""

from __future__ import annotations

import time

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator

from mekrr_scale.checks.all import CHECKS
from mekrr_scale.checks.kinds import checked_cell, kind_of
from mekrr_scale.checks.report import CheckReport
from mekrr_scale.checks.run import bare_calculator, check
from mekrr_scale.errors import MekrrError
from mekrr_scale.models import MekrrCalculator, Model
from mekrr_scale.progress import LOGGER, Progress
from mekrr_scale.structures import without_results

SECONDS = 20.0  # that all of them may take together
_MOST = 200  # energies of a check; more are not even timed


def quick_check(
    model: Model, device: str = "cpu", seconds: float | None = None, progress: Progress | None = None
) -> CheckReport | None:
    """Run the cheap ones on the structure that a model brings along: what energies of it cost is measured first.

    Args:
        seconds: that all of them may take; default: 20. What takes longer than foreseen is given up.

    Returns:
        What they found; None where there is nothing to run them on, or all would take longer.
    """
    efforts = {} if model.structure is None else _efforts(without_results(model.structure))
    if not efforts:
        return None
    seconds = SECONDS if seconds is None else seconds
    until = time.monotonic() + seconds
    try:
        calculator = MekrrCalculator(model, None, torch.float64, device)
        potentials = [each for each in (calculator, bare_calculator(calculator)) if each is not None]
        chosen = []
        for name, (sample, count) in efforts.items():
            needed = count * sum(seconds_of(sample, potential) for potential in potentials)
            if needed > seconds:
                LOGGER.info("check %s would take %.0f s, and is left to mekrr-scale check", name, needed)
                continue
            seconds -= needed
            chosen.append(name)
        return check(calculator, None, chosen, progress=progress, until=until) if chosen else None
    except MekrrError as error:  # features of another's making, a network that is not there
        LOGGER.info("the model was not checked: %s", error)
        return None


def _efforts(atoms: Atoms) -> dict[str, tuple[Atoms, int]]:
    """What each check that can be run on a structure and is not long for certain would ask for."""
    kind, cell = kind_of(atoms), checked_cell(atoms)
    asked = {name: each.effort(cell) for name, each in CHECKS.items() if kind in each.kinds}
    return {name: effort for name, effort in asked.items() if effort is not None and effort[1] <= _MOST}


def seconds_of(atoms: Atoms, potential: Calculator) -> float:
    """Of energy and forces; the first call of all prepares things, and is not timed."""
    sample = atoms.copy()
    sample.calc = potential
    sample.get_forces()
    sample.positions[0, 2] += 1e-3
    begin = time.perf_counter()
    sample.get_forces()
    return time.perf_counter() - begin

"""From evaluations of tests to the numbers of a page."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Int64
from numpy import ndarray

from mekrr_scale.pipeline import Evaluation
from mekrr_scale.regression import UNITS
from mekrr_scale.report.advising import advice
from mekrr_scale.report.listing import listed, picture, scores_by, short
from mekrr_scale.report.results import Measured, Quantity, Results, Rows, Worst
from mekrr_scale.report.statistics import scored

_WORST = 6


def with_evaluation(
    found: Results,
    evaluation: Evaluation,
    name: str,
    frames: Sequence[Atoms] = (),
    config_key: str = "config_type",
) -> Results:
    """The same with errors on a test.

    Args:
        name: of the test; one of the same name is replaced.
        frames: that were evaluated, for pictures and configuration types.
    """
    before = [each for each in found.measured if each.name != name]
    more = found.but(measured=[*before, _tested(evaluation, name, frames, config_key)])
    return more.but(advice=advice(more))


def _tested(found: Evaluation, name: str, frames: Sequence[Atoms], config_key: str) -> Measured:
    number = len(found.energy)
    structure = np.arange(number)
    chosen = [frames[at] for at in found.index.tolist()] if len(frames) and len(found.index) == number else []
    named = np.array([str(atoms.info.get(config_key, "")) for atoms in chosen] or [""] * number, dtype=object)
    quantities = [each for each in (_energies(found, structure, named), _forces(found, named)) if each is not None]
    foreign = [*found.remarks, *found.warnings()]
    if found.rejected:
        foreign.append(f"{len(found.rejected)} structures could not be used, the first: {found.rejected[0]}")
    return Measured(name, True, number, quantities, foreign, _worst(found, name, chosen))


def _energies(found: Evaluation, structure: Int64[ndarray, " structures"], named: ndarray) -> Quantity | None:
    unit = UNITS["energy"]
    reference, predicted = (
        unit.factor * (energy - found.baseline) / found.n_atoms for energy in (found.energy, found.energy_predicted)
    )
    total = scored(reference, predicted, structure)
    if total is None:
        return None
    sure = unit.factor * found.energy_uncertainty / found.n_atoms if len(found.energy_uncertainty) else np.empty(0)
    shown = listed("energy", len(reference))
    return Quantity(
        "energy", "energies per atom", unit.text, total,
        scores_by(reference, predicted, structure, {n: named == n for n in sorted(set(named)) if n}), {},
        Rows(
            structure[shown].tolist(), short(reference[shown]), short(predicted[shown]),
            short(sure[shown]) if len(sure) else [], short(found.grade[shown]) if len(found.grade) else [],
        ),
        found.energy_ratio_95 if math.isfinite(found.energy_ratio_95) else None,
    )  # fmt: skip


def _forces(found: Evaluation, named: ndarray) -> Quantity | None:
    if not len(found.forces):
        return None
    unit = UNITS["force"]
    owner = found.force_owner()
    rows = owner.repeat(3)
    reference, predicted = unit.factor * found.forces.ravel(), unit.factor * found.forces_predicted.ravel()
    total = scored(reference, predicted, rows)
    assert total is not None
    species = found.species.repeat(3)
    elements = {chemical_symbols[z]: species == z for z in np.unique(species).tolist()}
    configs = {n: (named == n)[owner].repeat(3) for n in sorted(set(named[owner])) if n}
    shown = listed("force", len(reference))
    size = unit.factor * np.linalg.norm(found.forces, axis=1).repeat(3)
    grade = found.grade[owner].repeat(3) if len(found.grade) else np.empty(0)
    return Quantity(
        "force", "components", unit.text, total, scores_by(reference, predicted, rows, configs),
        scores_by(reference, predicted, rows, elements),
        Rows(
            rows[shown].tolist(), short(reference[shown]), short(predicted[shown]), [],
            short(grade[shown]) if len(grade) else [], short(size[shown]),
        ),
    )  # fmt: skip


def _worst(found: Evaluation, name: str, chosen: Sequence[Atoms]) -> list[Worst]:
    """The structures with the largest force errors, or energy errors where none has forces."""
    if len(found.forces):
        own, owner = np.unique(found.force_owner(), return_inverse=True)
        squares = np.bincount(owner, weights=((found.forces_predicted - found.forces) ** 2).mean(1))
        errors, kind = np.sqrt(squares / found.n_atoms[own]), "force"
    else:
        own, kind = np.arange(len(found.energy)), "energy"
        errors = np.abs(found.energy_predicted - found.energy) / found.n_atoms
    unit, middle = UNITS[kind], float(np.median(errors)) if len(errors) else 0.0
    listed = []
    for rank in np.argsort(-errors, kind="stable")[:_WORST].tolist():
        at = int(own[rank])
        times = f"{errors[rank] / middle:.1f} times that of the middle structure" if middle > 0 else ""
        grade = f", grade {found.grade[at]:.2g}" if len(found.grade) else ""
        place = int(found.index[at]) if len(found.index) else at
        drawn = picture(chosen[at]) if chosen else None
        error = unit.factor * float(errors[rank])
        listed.append(Worst(f"structure {place} of {name}", kind, error, unit.text, f"{times}{grade}", picture=drawn))
    return listed

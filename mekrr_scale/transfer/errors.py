"""How far predictors are from labels, or from each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms

from mekrr_scale.arrays import beyond_composition
from mekrr_scale.regression import UNITS, Errors
from mekrr_scale.structures import Labels, Predictor, species_counts
from mekrr_scale.transfer.examples import Example


@dataclass(frozen=True)
class PredictionErrors:
    """Energies in meV/atom, force components in meV/angstrom; NaN where there are no labels."""

    energy_mae: float
    energy_rmse: float
    energy_rmse_shifted: float  # of what energies per element, fitted to the difference, leave
    force_mae: float
    force_rmse: float


def errors_on(predictor: Predictor, examples: Sequence[Example]) -> PredictionErrors:
    """Errors of a predictor on labelled structures."""
    labels = [example.labels for example in examples]
    structures = [example.atoms for example in examples]
    found = [
        predicted(predictor, atoms, forces=known.forces is not None)
        for atoms, known in zip(structures, labels, strict=True)
    ]
    return errors_between(structures, found, labels)


def predicted(predictor: Predictor, atoms: Atoms, forces: bool = True, stress: bool = False) -> Labels:
    """A predictor's results for one structure."""
    found = predictor.predict(atoms, forces=forces, stress=stress).results()
    return Labels(found["energy"], found.get("forces"), found.get("stress"))


def errors_between(
    structures: Sequence[Atoms], given: Sequence[Labels], expected: Sequence[Labels]
) -> PredictionErrors:
    """Differences of two sets of results, where both have them."""
    energies, compared, forces = [], [], []
    for atoms, left, right in zip(structures, given, expected, strict=True):
        if left.energy is not None and right.energy is not None:
            energies.append((left.energy - right.energy) / len(atoms))
            compared.append(atoms)
        if left.forces is not None and right.forces is not None:
            forces.append((left.forces - right.forces).ravel())
    energy = Errors.of(np.array(energies)).scaled(UNITS["energy"].factor)
    force = Errors.of(np.concatenate([np.empty(0), *forces])).scaled(UNITS["force"].factor)
    return PredictionErrors(
        energy_mae=energy.mae,
        energy_rmse=energy.rmse,
        energy_rmse_shifted=_shifted_rmse(energies, compared),
        force_mae=force.mae,
        force_rmse=force.rmse,
    )


def _shifted_rmse(energies: Sequence[float], structures: Sequence[Atoms]) -> float:
    """Of what energies per element, fitted to the differences (eV/atom), leave (meV/atom)."""
    if not structures:
        return math.nan
    table = species_counts(structures)[1]
    fractions = torch.from_numpy(table / table.sum(1, keepdims=True))
    left = beyond_composition(torch.from_numpy(np.array(energies)), fractions).numpy()
    return Errors.of(left).scaled(UNITS["energy"].factor).rmse

"""How far predictors are from labels, or from each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from numpy import ndarray

from mekrr_scale.baselines import beyond_composition
from mekrr_scale.priors import Predictor
from mekrr_scale.structures import Labels, species_counts
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
    energies, told, pulls = [], [], []
    for atoms, left, right in zip(structures, given, expected, strict=True):
        if left.energy is not None and right.energy is not None:
            energies.append((left.energy - right.energy) / len(atoms))
            told.append(atoms)
        if left.forces is not None and right.forces is not None:
            pulls.append((left.forces - right.forces).ravel())
    energy, forces = np.array(energies), np.concatenate(pulls) if pulls else np.empty(0)
    table = species_counts(told)[1]
    fractions = torch.from_numpy(table / table.sum(1, keepdims=True))
    shifted = beyond_composition(torch.from_numpy(energy), fractions).numpy() if told else energy
    return PredictionErrors(
        energy_mae=_mean(np.abs(energy)),
        energy_rmse=_rms(energy),
        energy_rmse_shifted=_rms(shifted),
        force_mae=_mean(np.abs(forces)),
        force_rmse=_rms(forces),
    )


def _mean(values: ndarray) -> float:
    """In thousandths; NaN of nothing."""
    return 1e3 * float(values.mean()) if values.size else math.nan


def _rms(values: ndarray) -> float:
    return 1e3 * math.sqrt(float(np.square(values).mean())) if values.size else math.nan

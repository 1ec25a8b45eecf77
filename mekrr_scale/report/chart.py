"""The map of environments: atoms in the plane of the largest principal components of their features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Float, Float64, Int64
from numpy import ndarray

from mekrr_scale.arrays import Plane
from mekrr_scale.models import Potential
from mekrr_scale.pipeline import Evaluation
from mekrr_scale.regression import UNITS
from mekrr_scale.report.results import Chart
from mekrr_scale.store import FeatureStore, drawn_atoms

SHOWN = 3000  # atoms of the training data
TESTED = 40  # structures of a test whose features are computed


@dataclass(frozen=True)
class SetAtoms:
    """Atoms of a test with their features."""

    name: str
    features: Float[ndarray, "atoms dim"]
    species: Int64[ndarray, " atoms"]
    error: Float64[ndarray, " atoms"]  # of the structure's energy, meV/atom


def charted(
    stores: Sequence[FeatureStore],
    errors: Mapping[int, float],
    tests: Sequence[SetAtoms] = (),
    before: Chart | None = None,
) -> Chart | None:
    """The map of training atoms drawn from stores, and of the atoms of tests; None where there is too little to draw.

    Args:
        errors: of held-out energies (meV/atom), by hash of the structure.
        before: a map of the same stores, whose training atoms are the same: their errors are taken from it.
    """
    drawn = drawn_atoms(stores, SHOWN)
    plane = Plane.of(drawn.features)
    if plane is None:
        return None
    places = [plane.at(drawn.features), *(plane.at(test.features) for test in tests)]
    species = [*drawn.species.tolist(), *(z for test in tests for z in test.species.tolist())]
    known = [errors.get(number) for number in drawn.structures.tolist()]
    if before is not None and before.test.count("") == len(known):
        known = list(before.error[: len(known)])
    x, y = np.concatenate(places).T
    return Chart(
        plane.explained, _short(x), _short(y), [chemical_symbols[z] for z in species],
        [*(None if e is None else float(f"{e:.4g}") for e in known), *(e for t in tests for e in _short(t.error))],
        [*[""] * len(known), *(test.name for test in tests for _ in test.species)],
    )  # fmt: skip


def atoms_of_test(potential: Potential, evaluation: Evaluation, frames: Sequence[Atoms], name: str) -> SetAtoms:
    """Features of the atoms of some structures of a test."""
    count = len(evaluation.index)
    chosen = np.unique(np.linspace(0, count - 1, min(count, TESTED)).astype(int)).tolist()
    errors = UNITS["energy"].factor * np.abs(evaluation.energy_predicted - evaluation.energy) / evaluation.n_atoms
    parts = list(_features(potential, [frames[int(evaluation.index[at])] for at in chosen]))
    sizes = [len(species) for _, species in parts]
    return SetAtoms(
        name,
        np.concatenate([features for features, _ in parts]),
        np.concatenate([species for _, species in parts]),
        np.repeat(errors[chosen], sizes),
    )


def _features(potential: Potential, frames: Sequence[Atoms]) -> Iterator[tuple[ndarray, ndarray]]:
    for atoms in frames:
        batch = potential.batch(atoms)
        yield (
            np.concatenate([run.features.numpy() for run in batch.runs]),
            np.concatenate([np.full(len(run.features), run.z) for run in batch.runs]),
        )


def _short(values: ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]

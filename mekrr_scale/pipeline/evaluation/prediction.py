"""Predictions for structures without labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import TypeVar

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from mekrr_scale.models import Model, Potential, Uncertainty, as_potential
from mekrr_scale.progress import Progress, shown_progress
from mekrr_scale.structures import Frames, Prediction, bare, count_structures, structures_from

_BATCH_ATOMS = 256

T = TypeVar("T")


def predict(
    model: Potential | Model | Path | str,
    structures: Frames,
    forces: bool = True,
    progress: Progress | None = None,
    uncertainty: bool = False,
    format: str | None = None,
    device: str = "cpu",
) -> Iterator[Atoms]:
    """Copies of structures with predicted energy, per-atom energies, forces and stress attached, one by one.

    With ``uncertainty``, ``energy_uncertainty`` and ``energy_uncertainty_95`` (eV), and for each atom
    ``energies_uncertainty`` and ``extrapolation`` (grade; above 1 is outside of the training data).

    Args:
        model: a potential, a model, or a model's file.
        structures: files, or in memory.
        progress: what shows how far it is; by default a bar in terminals and notebooks.
        format: ASE's name of the files' format, where their names do not tell.
        device: of backbone and kernel, e.g. ``"cuda"``; a potential has its own.

    Raises:
        StructureError, ModelError, BackboneError: a structure that cannot be predicted.
    """
    potential = as_potential(model, device)
    with shown_progress(progress) as shown:
        if progress is None:
            shown.stage("predict", count_of(structures, format))
        yield from _predictions(potential, structures_from(structures, format), forces, shown, uncertainty)


def count_of(structures: Frames, format: str | None = None) -> int | None:
    """How many structures there are, where that is known before they are read."""
    if isinstance(structures, Path | str):
        return count_structures(structures, format)
    return len(structures) if isinstance(structures, Sized) and not isinstance(structures, Atoms) else None


def _predictions(
    potential: Potential, structures: Iterable[Atoms], forces: bool, progress: Progress, uncertainty: bool
) -> Iterator[Atoms]:
    for batch in in_batches((atoms, None) for atoms in structures):
        structures_here = [item for item, _ in batch]
        periodic = all(item.cell.rank == 3 and item.pbc.any() for item in structures_here)
        found = potential.predict(structures_here, forces=forces, stress=forces and periodic)
        sure = potential.uncertainty(structures_here) if uncertainty else None
        start = 0
        for i, atoms in enumerate(structures_here):
            part = slice(start, start + len(atoms))
            start += len(atoms)
            result = _predicted(atoms, found, i, part)
            if sure is not None:
                _add_uncertainty(result, sure, i, part)
            yield result
        progress.advance(len(batch))


def _predicted(atoms: Atoms, found: Prediction, i: int, part: slice) -> Atoms:
    """A copy with the i-th of the results, whose atoms are a part of the batch's."""
    results: dict[str, object] = {"energy": float(found.energy[i]), "energies": found.energies[part].numpy()}
    if found.forces is not None:
        results["forces"] = found.forces[part].numpy()
    if found.stress is not None:
        results["stress"] = full_3x3_to_voigt_6_stress(found.stress[i].numpy())
    result = bare(atoms)
    result.info.update({key: value for key, value in atoms.info.items() if np.size(value) == 1})
    result.calc = SinglePointCalculator(result, **results)
    return result


def _add_uncertainty(result: Atoms, sure: Uncertainty, i: int, part: slice) -> None:
    result.info["energy_uncertainty"] = float(sure.energy[i])
    result.info["energy_uncertainty_95"] = float(sure.energy[i] * sure.energy_ratio_95)
    result.arrays["energies_uncertainty"] = sure.energies[part].numpy()
    result.arrays["extrapolation"] = sure.grade[part].numpy()


def in_batches(items: Iterable[tuple[Atoms, T]], largest: int = _BATCH_ATOMS) -> Iterator[list[tuple[Atoms, T]]]:
    """Structures, and what goes with each, in lists of at most so many atoms, or of one structure."""
    batch: list[tuple[Atoms, T]] = []
    atoms = 0
    for item in items:
        if batch and atoms + len(item[0]) > largest:
            yield batch
            batch, atoms = [], 0
        batch.append(item)
        atoms += len(item[0])
    if batch:
        yield batch

"""Predictions for structures without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from mekrr_scale.errors import MekrrError
from mekrr_scale.models import Model, Potential, Uncertainty, as_potential
from mekrr_scale.pipeline.workers import Workers, atoms_at_once, processes
from mekrr_scale.progress import Progress, shown_progress
from mekrr_scale.structures import (
    PREDICTED_BY,
    WRITER,
    Frames,
    Prediction,
    Unreadable,
    count_structures,
    in_batches,
    structures_from,
    without_results,
)

T = TypeVar("T")
R = TypeVar("R")
Results: TypeAlias = tuple[Prediction, Uncertainty | None]


def predict(
    model: Potential | Model | Path | str,
    structures: Frames,
    forces: bool = True,
    progress: Progress | None = None,
    uncertainty: bool = False,
    format: str | None = None,
    failed: list[MekrrError] | None = None,
    device: str = "cpu",
    workers: int | None = None,
) -> Iterator[Atoms]:
    """Copies of structures with predicted energy, per-atom energies, forces and stress attached, one by one.

    Stress is that of structures with a cell, whatever else stands beside them.

    With ``uncertainty``, ``energy_uncertainty`` and ``energy_uncertainty_95`` (eV), and for each atom
    ``energies_uncertainty`` and ``extrapolation`` (grade; above 1 is outside of the training data).

    Args:
        model: a potential, a model, or a model's file.
        structures: files, or in memory.
        progress: what shows how far it is; by default a bar in terminals and notebooks.
        format: ASE's name of the files' format, where their names do not tell.
        failed: a list that takes an error for every structure that cannot be predicted; those come without results, in
            their places, and the others are predicted.
        device: of backbone and kernel, e.g. ``"cuda"``; a potential has its own.
        workers: processes that predict side by side on a CPU, as those of ``ExtractPlan``; of a stream whose length is
            not known there is one.

    Raises:
        StructureError, ModelError, BackboneError: a structure that cannot be predicted, where no list takes it.
    """
    potential = as_potential(model, device)
    with shown_progress(progress) as shown:
        number = count_of(structures, format)
        if progress is None:
            shown.stage("predict", number)
        given = structures_from(structures, format, keep_unreadable=failed is not None)
        wanted = _Wanted(potential, forces, uncertainty)
        with Workers(wanted.of, processes(workers, potential.device, number or 0)) as side_by_side:
            yield from _predictions(wanted, side_by_side, given, shown, failed)


def count_of(structures: Frames, format: str | None = None) -> int | None:
    """How many structures there are, where that is known before they are read."""
    if isinstance(structures, Path | str):
        return count_structures(structures, format)
    if isinstance(structures, list | tuple) and structures and isinstance(structures[0], Path | str):
        counts = [count_structures(file, format) for file in structures]
        return None if None in counts else sum(count or 0 for count in counts)
    return len(structures) if isinstance(structures, Sized) and not isinstance(structures, Atoms) else None


@dataclass(frozen=True)
class _Wanted:
    """What is predicted, with what."""

    potential: Potential
    forces: bool
    uncertainty: bool

    def of(self, batch: Sequence[tuple[Atoms, int]]) -> list[Results | MekrrError]:
        """Results of structures together, or of each (``parts_of``)."""
        celled = self.forces and any(has_stress(atoms) for atoms, _ in batch)
        return one_by_one_if_needed(batch, partial(results_of, self.potential, self.forces, celled, self.uncertainty))


def results_of(
    potential: Potential, forces: bool, stress: bool, uncertainty: bool, structures: Sequence[Atoms]
) -> Results:
    """Of structures together."""
    if uncertainty:
        return potential.predict_with_uncertainty(structures, forces, stress)
    return potential.predict(structures, forces, stress), None


def has_stress(atoms: Atoms) -> bool:
    """Whether a structure has a cell, and is periodic somewhere."""
    return bool(atoms.cell.rank == 3 and atoms.pbc.any())


def _predictions(
    wanted: _Wanted,
    workers: Workers[Sequence[tuple[Atoms, int]], list[Results | MekrrError]],
    structures: Iterable[Atoms],
    progress: Progress,
    failed: list[MekrrError] | None,
) -> Iterator[Atoms]:
    if wanted.uncertainty:
        wanted.potential.require_uncertainty()
    first: MekrrError | None = None
    good = False
    numbered = ((atoms, index) for index, atoms in enumerate(structures))
    batches = in_batches(numbered, atoms_at_once(wanted.potential.device), lambda item: len(item[0]))
    for batch, made in workers.each(batches):
        for part, results in parts_of(batch, made):
            good, first = (good, first or results) if isinstance(results, MekrrError) else (True, first)
            yield from _given(part, results, failed)
        progress.advance(len(batch))
    if first is not None and not good:
        raise type(first)(f"no structure could be predicted: {first}") from first


def _given(
    batch: Sequence[tuple[Atoms, int]], results: Results | MekrrError, failed: list[MekrrError] | None
) -> Iterator[Atoms]:
    """Structures with their results, or the one that has none."""
    if isinstance(results, MekrrError):
        ((atoms, index),) = batch
        named = type(results)(f"structure {index}: {results}")
        if failed is None:
            raise named from results
        failed.append(named)
        if not isinstance(atoms, Unreadable):  # of which there is nothing to give
            yield without_results(atoms)
        return
    found, sure = results
    start = 0
    for i, (atoms, _) in enumerate(batch):
        part = slice(start, start + len(atoms))
        start += len(atoms)
        result = _predicted(atoms, found, i, part)
        if sure is not None:
            _add_uncertainty(result, sure, i, part)
        yield result


def one_by_one_if_needed(
    batch: Sequence[tuple[Atoms, T]], work: Callable[[Sequence[Atoms]], R]
) -> list[R | MekrrError]:
    """The results of a batch; where one of its structures cannot be used, those of each, or what is wrong with it."""
    try:
        return [work([atoms for atoms, _ in batch])]
    except MekrrError as error:
        if len(batch) == 1:
            return [error]
    found: list[R | MekrrError] = []
    for atoms, _ in batch:
        try:
            found.append(work([atoms]))
        except MekrrError as error:
            found.append(error)
    return found


def parts_of(
    batch: Sequence[tuple[Atoms, T]], found: Sequence[R | MekrrError]
) -> Iterator[tuple[Sequence[tuple[Atoms, T]], R | MekrrError]]:
    """The results beside the structures that they are of."""
    return zip([batch] if len(found) == 1 else [[item] for item in batch], found, strict=True)


def _predicted(atoms: Atoms, found: Prediction, i: int, part: slice) -> Atoms:
    """A copy with the i-th of the results, whose atoms are a part of the batch's."""
    results: dict[str, object] = {"energy": float(found.energy[i]), "energies": found.energies[part].numpy()}
    if found.forces is not None:
        results["forces"] = found.forces[part].numpy()
    if found.stress is not None and has_stress(atoms):
        results["stress"] = full_3x3_to_voigt_6_stress(found.stress[i].numpy())
    result = without_results(atoms)
    result.info[PREDICTED_BY] = WRITER
    result.calc = SinglePointCalculator(result, **results)
    return result


def _add_uncertainty(result: Atoms, sure: Uncertainty, i: int, part: slice) -> None:
    result.info["energy_uncertainty"] = float(sure.energy[i])
    result.info["energy_uncertainty_95"] = float(sure.energy[i] * sure.energy_ratio_95)
    result.arrays["energies_uncertainty"] = sure.energies[part].numpy()
    result.arrays["extrapolation"] = sure.grade[part].numpy()

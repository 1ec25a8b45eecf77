"""Errors of a model on structures with labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeGuard

import numpy as np
import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress
from numpy import ndarray

from mekrr_scale.arrays import content_hash
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.errors import MekrrError, StructureError
from mekrr_scale.kernels import exponential
from mekrr_scale.models import Model, Potential, Uncertainty, as_potential, load_model
from mekrr_scale.pipeline.evaluation.prediction import (
    Results,
    count_of,
    one_by_one_if_needed,
    parts_of,
    results_of,
)
from mekrr_scale.pipeline.evaluation.report import Evaluation
from mekrr_scale.pipeline.evaluation.sets import SetNames, SetWidths, expected
from mekrr_scale.pipeline.evaluation.stores import evaluate_store
from mekrr_scale.pipeline.workers import Workers, atoms_at_once, processes
from mekrr_scale.progress import Progress, Silent, shown_progress
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import (
    Frames,
    Kind,
    LabelKeys,
    Labels,
    Prediction,
    check_structure,
    in_batches,
    is_deepmd,
    read_labels,
    surveyed,
)

_NEEDED: tuple[Kind, ...] = ("energy",)  # of the others what is usable is compared


def evaluate(
    model: Potential | Model | Path | str,
    structures: Frames | FeatureStore,
    keys: LabelKeys | None = None,
    forces: bool = True,
    progress: Progress | None = None,
    uncertainty: bool = False,
    group: Group = ALONE,
    format: str | None = None,
    device: str = "cpu",
    group_key: str | None = None,
    workers: int | None = None,
) -> Evaluation:
    """Predict labelled structures and compare; with ``uncertainty``, intervals too.

    Errors of energies are told with and without the shift that all structures share, and of each set where there are
    several (files, or values of ``group_key``).

    Args:
        model: a potential, a model, or a model's file.
        structures: with labels: files, or in memory; or a feature store (or its folder), whose energies are
            compared alone.
        keys: where the labels are.
        progress: what shows how far it is; by default a bar in terminals and notebooks.
        group: ranks that share the work; all get the result.
        format: ASE's name of the files' format, where their names do not tell.
        device: of backbone and kernel, e.g. ``"cuda"``; a potential has its own.
        group_key: info key of the set that a structure belongs to, whose errors stand apart; not of stores.
        workers: processes that predict side by side on a CPU, as those of ``ExtractPlan``; not of stores.

    Raises:
        ModelError: see ``Potential``, and ``evaluate_store``.
        StructureError: no structure could be used.
    """
    if _is_store(structures):
        return evaluate_store(_model(model), structures, progress, uncertainty, group, device=device)
    potential = as_potential(model, device)
    with shown_progress(progress or (Silent() if group.rank else None)) as shown:
        number = count_of(structures, format)
        if progress is None:
            shown.stage("evaluate", number)
        names = SetNames.of(structures, group_key)
        given = names.read(structures, format)
        count = processes(workers, potential.device, (number or 0) // group.size)
        return _evaluated(potential, given, names, keys, forces, shown, uncertainty, group, count)


def _is_store(given: Frames | FeatureStore) -> TypeGuard[FeatureStore | Path | str]:
    """Whether features are meant: a store, or a folder that holds no structures."""
    if isinstance(given, Path | str):
        return Path(given).is_dir() and not is_deepmd(given)
    return isinstance(given, FeatureStore)


def _model(given: Potential | Model | Path | str) -> Model:
    """Without its backbone, which features that are known already do not need."""
    if isinstance(given, Potential):
        return given.model
    return given if isinstance(given, Model) else load_model(given)


def _evaluated(
    potential: Potential,
    structures: Iterable[Atoms],
    names: SetNames,
    keys: LabelKeys | None,
    forces: bool,
    progress: Progress,
    uncertainty: bool,
    group: Group,
    workers: int,
) -> Evaluation:
    asked = f"{keys or LabelKeys()!r}, forces {forces}, uncertainty {uncertainty}"
    group.require_alike(model=content_hash(potential.model.coefficients), options=asked, MEKRR_SCALE_EXP=exponential())
    survey, structures = surveyed(structures, keys or LabelKeys())
    rows, lone = _Rows(potential.model, survey.remarks(("forces", "stress") if forces else ())), _Rows(potential.model)
    own = progress if group.rank == 0 else Silent()
    labelled = _labelled(structures, names, survey.settled, potential, rows.rejected, own)
    listed = in_batches(labelled, atoms_at_once(potential.device), lambda item: len(item[0]))
    widths = SetWidths(potential.model.posterior if uncertainty else None)

    def results(batch: Sequence[tuple[Atoms, _Item]]) -> list[Results | MekrrError]:
        labels = [item.labels for _, item in batch]
        moved = forces and any(known.forces is not None for known in labels)
        strained = forces and any(known.stress is not None for known in labels)
        return one_by_one_if_needed(batch, partial(results_of, potential, moved, strained, uncertainty))

    with Workers(results, workers) as side_by_side:
        for batch, made in side_by_side.each(islice(listed, group.rank, None, group.size)):
            for part, found in parts_of(batch, made):
                if isinstance(found, MekrrError):
                    rows.rejected.append(f"structure {part[0][1].index}: {found}")
                else:
                    _add(part, *found, rows, lone)
                    _add_set(part, found[1], widths)
            progress.advance(len(batch))
    others, alone = group.sum(torch.tensor([len(rows.n_atoms), len(lone.n_atoms)])).tolist()
    if not others:  # nothing but isolated atoms: they are what is compared
        rows, lone = replace(lone, remarks=rows.remarks, rejected=rows.rejected), _Rows(potential.model)
    if not others + alone:
        reason = rows.rejected[0] if rows.rejected else "the file is empty"
        raise StructureError(f"no structure could be evaluated: {reason}")
    whole = replace(rows.evaluation(lone).gathered(group), set_names=tuple(names.names))
    if not others or not uncertainty:
        return whole
    return replace(whole, mean_within_95=widths.half_widths(len(names.names), potential.model, group))


def _add_set(batch: Sequence[tuple[Atoms, _Item]], sure: Uncertainty | None, widths: SetWidths) -> None:
    """A batch's part in the intervals of mean errors; isolated atoms have none."""
    if sure is None or sure.per_atom is None:
        return
    kept = [not item.isolated for _, item in batch]
    widths.add(sure.per_atom.take(torch.tensor(kept)), [item.place for _, item in batch if not item.isolated])


def _add(
    batch: Sequence[tuple[Atoms, _Item]], found: Prediction, sure: Uncertainty | None, rows: _Rows, lone: _Rows
) -> None:
    """The rows of a batch, those of isolated atoms apart."""
    start = 0
    for i, (atoms, item) in enumerate(batch):
        (lone if item.isolated else rows).add(atoms, item, i, slice(start, start + len(atoms)), found, sure)
        start += len(atoms)


@dataclass
class _Rows:
    """Labels and predictions so far, a row for each structure, atom or stress."""

    model: Model
    remarks: list[str] = field(default_factory=list)
    n_atoms: list[int] = field(default_factory=list)
    energy: list[float | None] = field(default_factory=list)  # eV
    predicted: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)
    counts: list[list[int]] = field(default_factory=list)
    forces: list[ndarray] = field(default_factory=list)  # eV/angstrom, one array for each structure
    forces_predicted: list[ndarray] = field(default_factory=list)
    species: list[ndarray] = field(default_factory=list)
    stress: list[ndarray] = field(default_factory=list)  # eV/angstrom^3, Voigt
    stress_predicted: list[ndarray] = field(default_factory=list)
    uncertainty: list[float] = field(default_factory=list)  # eV
    beyond: list[float] = field(default_factory=list)  # part of the atoms beyond grade 1
    grade: list[float] = field(default_factory=list)  # the largest of the atoms
    index: list[int] = field(default_factory=list)  # in the input
    places: list[int] = field(default_factory=list)  # of the structures' sets
    force_rows: list[int] = field(default_factory=list)  # of each structure
    ratio: float = math.nan
    rejected: list[str] = field(default_factory=list)

    def add(self, atoms: Atoms, item: _Item, i: int, part: slice, found: Prediction, sure: Uncertainty | None) -> None:
        """The rows of a structure, the i-th of what was predicted, whose atoms are a part of all."""
        labels = item.labels
        self.places.append(item.place)
        self.index.append(item.index)
        if sure is not None:
            self.uncertainty.append(float(sure.energy[i]))
            self.beyond.append(float((sure.grade[part] > 1).double().mean()))
            self.grade.append(float(sure.grade[part].max()))
            self.ratio = sure.energy_ratio_95
        self._add_energy(atoms, labels, float(found.energy[i]))
        self.force_rows.append(0)
        if labels.forces is not None and found.forces is not None:
            self.force_rows[-1] = len(atoms)
            self.forces.append(labels.forces)
            self.forces_predicted.append(found.forces[part].numpy())
            self.species.append(atoms.numbers)
        if labels.stress is not None and found.stress is not None:
            self.stress.append(labels.stress)
            self.stress_predicted.append(full_3x3_to_voigt_6_stress(found.stress[i].numpy()))

    def _add_energy(self, atoms: Atoms, labels: Labels, predicted: float) -> None:
        baseline = self.model.baseline
        places = [baseline.species.index(z) for z in atoms.numbers.tolist()]
        self.n_atoms.append(len(atoms))
        self.energy.append(labels.energy)
        self.predicted.append(predicted)
        self.baseline.append(float(baseline.energies[places].sum()))
        self.counts.append([int((atoms.numbers == z).sum()) for z in self.model.species])

    def evaluation(self, lone: _Rows) -> Evaluation:
        """All of them as arrays, beside isolated atoms."""
        places = np.array(lone.counts, dtype=np.int64).reshape(-1, len(self.model.species)).argmax(1)
        return Evaluation(
            n_atoms=np.array(self.n_atoms, dtype=np.int64),
            energy=np.array(self.energy, dtype=np.float64),
            energy_predicted=np.array(self.predicted, dtype=np.float64),
            baseline=np.array(self.baseline, dtype=np.float64),
            forces=_joined(self.forces),
            forces_predicted=_joined(self.forces_predicted),
            species=np.concatenate([np.empty(0, np.int64), *self.species]).astype(np.int64),
            stress=np.array(self.stress, dtype=np.float64).reshape(-1, 6),
            stress_predicted=np.array(self.stress_predicted, dtype=np.float64).reshape(-1, 6),
            rejected=self.rejected,
            remarks=[*self.remarks, *self._lacking()],
            energy_uncertainty=np.array(self.uncertainty, dtype=np.float64),
            energy_ratio_95=self.ratio,
            counts=np.array(self.counts, dtype=np.int64).reshape(-1, len(self.model.species)),
            isolated=np.array(self.model.species, dtype=np.int64)[places],
            isolated_energy=np.array(lone.energy, dtype=np.float64),
            isolated_predicted=np.array(lone.predicted, dtype=np.float64),
            places=np.array(self.places, dtype=np.int64),
            force_rows=np.array(self.force_rows, dtype=np.int64),
            beyond=np.array(self.beyond, dtype=np.float64),
            grade=np.array(self.grade, dtype=np.float64),
            index=np.array(self.index, dtype=np.int64),
            typical=expected(self.model.posterior)[0],
            limit=expected(self.model.posterior)[1],
        )

    def _lacking(self) -> list[str]:
        """What some structures have, and others not."""
        counts = {"forces": len(self.forces), "stress": len(self.stress)}
        whole = len(self.n_atoms)
        return [f"{name} of {count} of {whole} structures were compared; the others have no such label"
                for name, count in counts.items() if 0 < count < whole]  # fmt: skip


@dataclass(frozen=True)
class _Item:
    """What is known of a structure."""

    labels: Labels
    index: int  # in the input
    isolated: bool
    place: int  # of its set among the names


def _joined(parts: Sequence[ndarray]) -> ndarray:
    return np.concatenate(parts) if parts else np.empty((0, 3))


def _labelled(
    structures: Iterable[Atoms],
    names: SetNames,
    keys: LabelKeys,
    potential: Potential,
    rejected: list[str],
    progress: Progress,
) -> Iterator[tuple[Atoms, _Item]]:
    """Structures that the model can be compared on; the others go to the rejected."""
    for index, atoms in enumerate(structures):
        try:
            labels = read_labels(atoms, keys, _NEEDED)
            check_structure(atoms, labels)
            potential.model.check_species(atoms.numbers.tolist())
            isolated = potential.is_isolated(atoms)
        except MekrrError as error:
            rejected.append(f"structure {index}: {error}")
            progress.advance()
            continue
        yield atoms, _Item(labels, index, isolated, names.place(atoms, index))

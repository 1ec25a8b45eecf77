"""Errors of a model on structures with labels, and predictions for structures without."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import Float64
from numpy import ndarray
from numpy.typing import NDArray
from scipy.stats import spearmanr

from mekrr_scale.distributed import ALONE, ExactSum, Group
from mekrr_scale.draws import uniform
from mekrr_scale.errors import MekrrError, ModelError, StructureError
from mekrr_scale.model import Model
from mekrr_scale.posterior import Variances
from mekrr_scale.potential import Potential
from mekrr_scale.progress import Progress, Silent
from mekrr_scale.store import FeatureStore, deal
from mekrr_scale.structures import LabelKeys, bare, check_structure, read_labels

_BATCH_ATOMS = 256
_LISTED = 1_000_000  # structures of a store that are listed one by one


@dataclass(frozen=True)
class Evaluation:
    """Labels beside predictions. Structures that could not be used are in ``rejected``."""

    n_atoms: NDArray[np.int64]
    energy: Float64[ndarray, " structures"]  # eV, labels
    energy_predicted: Float64[ndarray, " structures"]
    baseline: Float64[ndarray, " structures"]  # eV, sums of the species' reference energies
    forces: Float64[ndarray, "moved 3"]  # eV/angstrom, labels; empty without
    forces_predicted: Float64[ndarray, "moved 3"]
    species: NDArray[np.int64]  # atomic number of each row of ``forces``
    stress: Float64[ndarray, "stressed 6"]  # eV/angstrom^3, labels; empty without
    stress_predicted: Float64[ndarray, "stressed 6"]
    rejected: Sequence[str] = field(default_factory=list)
    energy_uncertainty: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))  # eV, 68 %; empty: unknown
    energy_ratio_95: float = float("nan")  # what to multiply it with for 95 %
    totals: Mapping[str, float] = field(default_factory=dict)  # metrics of more structures than are listed here
    counts: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 0), np.int64))  # [structures, species]

    def gathered(self, group: Group) -> Evaluation:
        """That of all ranks' structures, one rank's after the other's."""
        if group.size == 1:
            return self
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, ndarray)}
        joined: dict[str, Any] = {name: group.joined(torch.from_numpy(value)).numpy() for name, value in arrays.items()}
        ratios = [r for r in group.gather_json(self.energy_ratio_95) if not math.isnan(r)]
        return replace(self, **joined, energy_ratio_95=ratios[0] if ratios else math.nan)

    def coverage(self) -> dict[str, float]:
        """Parts of the energies within their 68 % and 95 % intervals, and how well these rank the errors."""
        if not len(self.energy_uncertainty):
            return {}
        error = np.abs(self.energy_predicted - self.energy)
        rank = float(spearmanr(error / self.n_atoms, self.energy_uncertainty / self.n_atoms).statistic)
        return {
            "within_68": float((error <= self.energy_uncertainty).mean()),
            "within_95": float((error <= self.energy_ratio_95 * self.energy_uncertainty).mean()),
            "rank_correlation": rank if len(error) > 2 else float("nan"),
        }

    def metrics(self) -> dict[str, float]:
        """MAE and RMSE: energy in meV/atom, forces in meV/angstrom, stress in meV/angstrom^3."""
        if self.totals:
            return dict(self.totals)
        found: dict[str, float] = {"structures": float(len(self.energy))}
        parts = {
            "energy": (self.energy_predicted - self.energy) / self.n_atoms,
            "force": self.forces_predicted - self.forces,
            "stress": self.stress_predicted - self.stress,
        }
        for name, error in parts.items():
            if error.size:
                found[f"{name}_mae"] = 1e3 * float(np.abs(error).mean())
                found[f"{name}_rmse"] = 1e3 * float(np.sqrt((error**2).mean()))
        return found

    def force_errors_by_species(self) -> dict[str, tuple[int, float, float]]:
        """Atoms, MAE and RMSE of the force components (meV/angstrom) for each element."""
        rows = {}
        for z in np.unique(self.species).tolist():
            error = 1e3 * (self.forces_predicted - self.forces)[self.species == z]
            rows[chemical_symbols[z]] = (len(error), float(np.abs(error).mean()), float(np.sqrt((error**2).mean())))
        return rows


def evaluate(
    potential: Potential,
    structures: Iterable[Atoms],
    keys: LabelKeys | None = None,
    forces: bool = True,
    progress: Progress | None = None,
    uncertainty: bool = False,
    group: Group = ALONE,
) -> Evaluation:
    """Predict labelled structures and compare; with ``uncertainty``, intervals too.

    Args:
        group: ranks that share the work; all get the result.

    Raises:
        StructureError: no structure could be used.
    """
    keys = keys or LabelKeys()
    progress = progress or Silent()
    rows: dict[str, list[Any]] = {name: [] for name in ("n", "e", "ep", "b", "f", "fp", "z", "s", "sp", "u", "c")}
    ratio = float("nan")
    rejected: list[str] = []
    model = potential.model
    listed = _batches(_labelled(structures, keys, model, rejected, progress if group.rank == 0 else Silent()))
    for batch in islice(listed, group.rank, None, group.size):
        atoms = [item for item, _ in batch]
        with_forces = forces and any(labels.forces is not None for _, labels in batch)
        with_stress = all(labels.stress is not None and a.cell.rank == 3 for a, labels in batch)
        found = potential.predict(atoms, forces=with_forces, stress=with_stress)
        if uncertainty:
            sure = potential.uncertainty(atoms)
            rows["u"].append(sure.energy.numpy())
            ratio = sure.energy_ratio_95
        start = 0
        for i, (item, labels) in enumerate(batch):
            part = slice(start, start + len(item))
            start += len(item)
            rows["n"].append(len(item))
            rows["e"].append(labels.energy)
            rows["ep"].append(float(found.energy[i]))
            places = [model.baseline.species.index(z) for z in item.numbers.tolist()]
            rows["b"].append(float(model.baseline.energies[places].sum()))
            rows["c"].append([int((item.numbers == z).sum()) for z in model.species])
            if labels.forces is not None and found.forces is not None:
                rows["f"].append(labels.forces)
                rows["fp"].append(found.forces[part].numpy())
                rows["z"].append(item.numbers)
            if labels.stress is not None and found.stress is not None:
                rows["s"].append(labels.stress)
                rows["sp"].append(full_3x3_to_voigt_6_stress(found.stress[i].numpy()))
        progress.advance(len(batch))
    if not int(group.sum(torch.tensor(len(rows["n"])))):
        raise StructureError(f"no structure could be evaluated: {rejected[0] if rejected else 'the file is empty'}")
    return Evaluation(
        n_atoms=np.array(rows["n"], dtype=np.int64),
        energy=np.array(rows["e"], dtype=np.float64),
        energy_predicted=np.array(rows["ep"], dtype=np.float64),
        baseline=np.array(rows["b"], dtype=np.float64),
        forces=np.concatenate(rows["f"]) if rows["f"] else np.empty((0, 3)),
        forces_predicted=np.concatenate(rows["fp"]) if rows["fp"] else np.empty((0, 3)),
        species=np.concatenate(rows["z"]).astype(np.int64) if rows["z"] else np.empty(0, np.int64),
        stress=np.array(rows["s"], dtype=np.float64).reshape(-1, 6),
        stress_predicted=np.array(rows["sp"], dtype=np.float64).reshape(-1, 6),
        rejected=rejected,
        energy_uncertainty=np.concatenate(rows["u"]) if rows["u"] else np.empty(0),
        energy_ratio_95=ratio,
        counts=np.array(rows["c"], dtype=np.int64).reshape(-1, len(model.species)),
    ).gathered(group)


def evaluate_store(
    model: Model,
    store: FeatureStore,
    progress: Progress | None = None,
    uncertainty: bool = False,
    group: Group = ALONE,
) -> Evaluation:
    """Energies of a store's structures against their labels; needs no backbone.

    Memory does not depend on the store: of more than a million structures a random part is listed,
    while ``metrics`` are those of all.

    Args:
        group: ranks that share the work, each with whole shards; all get the result.

    Raises:
        ModelError: features of another backbone, or no posterior to tell uncertainties from.
        StructureError: no structure has an energy.
    """
    progress = progress or Silent()
    model.require_backbone(store.header.backbone, f"the store {store.path}")
    model.require_prior(store.header.prior, f"the store {store.path}")
    if uncertainty and model.posterior is None:
        raise ModelError("the model cannot tell its uncertainty; fit it with folds and uncertainty = true")
    posterior = model.posterior if uncertainty else None
    variances = None if posterior is None else Variances(model.kernel, model.landmarks, posterior)
    columns: dict[str, list[NDArray[Any]]] = {name: [np.empty(0)] for name in ("e", "p", "b", "u")}
    columns["n"] = [np.empty(0, np.int64)]
    columns["c"] = [np.empty((0, len(model.species)), np.int64)]
    errors = ExactSum(3)
    (own,) = deal([store], group.rank, group.size)
    for batch in own:
        known = ~batch.energy.isnan()
        predicted = model.energies(batch)
        error = ((predicted - batch.energy) / batch.n_atoms)[known]
        errors.add(torch.stack([torch.tensor(float(len(error))).double(), error.abs().sum(), error.square().sum()]))
        listed = uniform(batch.ids.numpy().astype(np.uint64), 7) < _LISTED / max(store.n_structures, 1)
        kept = known.numpy() & listed
        columns["n"].append(batch.n_atoms.numpy()[kept])
        columns["c"].append(batch.counts(model.species).numpy()[kept])
        columns["e"].append(batch.energy.numpy()[kept])
        columns["p"].append(predicted.numpy()[kept])
        columns["b"].append((batch.counts(model.baseline.species).double() @ model.baseline.energies).numpy()[kept])
        if variances is not None and posterior is not None:
            size = batch.n_atoms.double() if model.kernel.reduce == "mean" else 1.0
            raw = variances.structures(batch).sqrt() * size
            columns["u"].append(posterior.energy.within_68 * raw.numpy()[kept])
        progress.advance(batch.n_structures)
    count, absolute, square = errors.value(group).tolist()
    if not count:
        raise StructureError(f"no structure in {store.path} has an energy to compare with")
    totals = {
        "structures": count,
        "energy_mae": 1e3 * absolute / count,
        "energy_rmse": 1e3 * math.sqrt(square / count),
    }
    empty = np.empty((0, 3))
    return Evaluation(
        n_atoms=np.concatenate(columns["n"]),
        energy=np.concatenate(columns["e"]),
        energy_predicted=np.concatenate(columns["p"]),
        baseline=np.concatenate(columns["b"]),
        forces=empty,
        forces_predicted=empty,
        species=np.empty(0, np.int64),
        stress=np.empty((0, 6)),
        stress_predicted=np.empty((0, 6)),
        energy_uncertainty=np.concatenate(columns["u"]),
        energy_ratio_95=math.nan if posterior is None else posterior.energy.within_95 / posterior.energy.within_68,
        totals=totals,
        counts=np.concatenate(columns["c"]),
    ).gathered(group)


def predict(
    potential: Potential,
    structures: Iterable[Atoms],
    forces: bool = True,
    progress: Progress | None = None,
    uncertainty: bool = False,
) -> Iterator[Atoms]:
    """Copies of structures with predicted energy, per-atom energies, forces and stress attached.

    With ``uncertainty``, ``energy_uncertainty`` and ``energy_uncertainty_95`` (eV), and for each atom
    ``energies_uncertainty`` and ``extrapolation`` (grade; above 1 is outside of the training data).

    Raises:
        StructureError, ModelError, BackboneError: a structure that cannot be predicted.
    """
    progress = progress or Silent()
    for batch in _batches((atoms, None) for atoms in structures):
        atoms = [item for item, _ in batch]
        periodic = all(item.cell.rank == 3 and item.pbc.any() for item in atoms)
        found = potential.predict(atoms, forces=forces, stress=forces and periodic)
        sure = potential.uncertainty(atoms) if uncertainty else None
        start = 0
        for i, item in enumerate(atoms):
            part = slice(start, start + len(item))
            start += len(item)
            results: dict[str, Any] = {"energy": float(found.energy[i]), "energies": found.energies[part].numpy()}
            if found.forces is not None:
                results["forces"] = found.forces[part].numpy()
            if found.stress is not None:
                results["stress"] = full_3x3_to_voigt_6_stress(found.stress[i].numpy())
            result = bare(item)
            result.info.update({k: v for k, v in item.info.items() if np.size(v) == 1})
            result.calc = SinglePointCalculator(result, **results)
            if sure is not None:
                result.info["energy_uncertainty"] = float(sure.energy[i])
                result.info["energy_uncertainty_95"] = float(sure.energy[i] * sure.energy_ratio_95)
                result.arrays["energies_uncertainty"] = sure.energies[part].numpy()
                result.arrays["extrapolation"] = sure.grade[part].numpy()
            yield result
        progress.advance(len(batch))


def summary(evaluation: Evaluation) -> Mapping[str, Any]:
    """What ``evaluate --json`` writes."""
    return {
        "metrics": evaluation.metrics(),
        "uncertainty": evaluation.coverage(),
        "forces_by_species": {
            symbol: {"atoms": n, "mae": mae, "rmse": rmse}
            for symbol, (n, mae, rmse) in evaluation.force_errors_by_species().items()
        },
        "units": {"energy": "meV/atom", "force": "meV/angstrom", "stress": "meV/angstrom^3"},
        "rejected": list(evaluation.rejected),
    }


def _labelled(
    structures: Iterable[Atoms], keys: LabelKeys, model: Model, rejected: list[str], progress: Progress
) -> Iterator[tuple[Atoms, Any]]:
    for index, atoms in enumerate(structures):
        try:
            labels = read_labels(atoms, keys)
            check_structure(atoms, labels)
            model.check_species(atoms.numbers.tolist())
        except MekrrError as error:
            rejected.append(f"structure {index}: {error}")
            progress.advance()
            continue
        yield atoms, labels


def _batches(items: Iterable[tuple[Atoms, Any]]) -> Iterator[list[tuple[Atoms, Any]]]:
    batch: list[tuple[Atoms, Any]] = []
    atoms = 0
    for item in items:
        if batch and atoms + len(item[0]) > _BATCH_ATOMS:
            yield batch
            batch, atoms = [], 0
        batch.append(item)
        atoms += len(item[0])
    if batch:
        yield batch

"""Results for structures, and what gives them: another potential, a calculator, labels in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.errors import ModelError, StructureError
from mekrr_scale.structures.columns import PREDICTED
from mekrr_scale.structures.labels import LabelKeys, bare, read_labels
from mekrr_scale.structures.neighbours import volume_of
from mekrr_scale.version import __version__

PREDICTED_BY = "predicted_by"  # info of frames whose energies, under ASE's names, are what a model said
WRITER = f"mekrr-scale {__version__}"

# under what names the package writes what a model gives
RESULTS = (
    "energy", "free_energy", "energies", "forces", "stress", "total_energy", "energy_uncertainty",
    "energy_uncertainty_95", "largest_grade", "energies_uncertainty", "extrapolation", "contribution", "similarity",
    "nearest_landmark", PREDICTED_BY, *(PREDICTED + name for name in ("energy", "forces", "stress")),
)  # fmt: skip


def without_results(atoms: Atoms) -> Atoms:
    """A copy with all that it carried (constraints, tags, arrays, info) but the results of an earlier prediction."""
    copy = atoms.copy()
    for name in RESULTS:
        copy.info.pop(name, None)
        copy.arrays.pop(name, None)
    return copy


def with_predictions(atoms: Atoms) -> Atoms:
    """A copy that holds the results of its calculator under names that nobody takes for labels.

    What a model says of frames must not become what the next one learns: extraction reads ``energy``, ``forces`` and
    ``stress`` as ASE does, these are ``predicted_energy`` and so on.
    """
    copy = atoms.copy()
    results = {} if atoms.calc is None else atoms.calc.results
    for name in ("energy", "forces", "stress"):
        if name in results:
            (copy.arrays if name == "forces" else copy.info)[PREDICTED + name] = results[name]
    return copy


@dataclass(frozen=True, repr=False)
class Prediction:
    """Results for structures, atoms in their order; stress in ASE's sign."""

    energy: Float64[Tensor, " structures"]  # eV
    energies: Float64[Tensor, " atoms"]  # eV, each atom's part
    forces: Float64[Tensor, "atoms 3"] | None  # eV/angstrom
    stress: Float64[Tensor, "structures 3 3"] | None  # eV/angstrom^3; NaN where a lattice vector is missing

    def __repr__(self) -> str:
        known = [name for name, value in vars(self).items() if value is not None]
        return f"Prediction of {len(self.energy)} structures, {len(self.energies)} atoms: {', '.join(known)}"

    def plus(self, other: Prediction) -> Prediction:
        """Sums with another one's of the same structures; forces and stress where both have them."""
        return Prediction(
            self.energy + other.energy,
            self.energies + other.energies,
            None if self.forces is None or other.forces is None else self.forces + other.forces,
            None if self.stress is None or other.stress is None else self.stress + other.stress,
        )

    def results(self) -> dict[str, Any]:
        """ASE's results, of a single structure; stress in Voigt order."""
        energy = float(self.energy[0])
        found = {"energy": energy, "free_energy": energy, "energies": self.energies.numpy()}
        if self.forces is not None:
            found["forces"] = self.forces.numpy()
        if self.stress is not None and bool(self.stress[0].isfinite().all()):
            found["stress"] = full_3x3_to_voigt_6_stress(self.stress[0].numpy())
        return found


@runtime_checkable
class Predictor(Protocol):
    """What gives energies, and if asked for forces and stress."""

    def predict(self, atoms: Atoms | Sequence[Atoms], forces: bool = True, stress: bool = False) -> Prediction: ...


@final
@dataclass(frozen=True)
class Calculated:
    """An ASE calculator, such as one of a lower level of theory.

    Args:
        force_consistent: take its free energy where it gives one, as labels are; else the energy (at sigma -> 0).
    """

    calculator: Calculator
    force_consistent: bool = True

    def predict(self, atoms: Atoms | Sequence[Atoms], forces: bool = True, stress: bool = False) -> Prediction:
        found = []
        for structure in [atoms] if isinstance(atoms, Atoms) else list(atoms):
            copy = bare(structure)
            copy.calc = self.calculator
            force = copy.get_forces() if forces else None
            energy = self._energy(copy)
            found.append((len(copy), energy, force, _stress_of(copy) if stress else None))
        return _joined(found)

    def _energy(self, atoms: Atoms) -> float:
        try:
            return float(atoms.get_potential_energy(force_consistent=self.force_consistent))
        except PropertyNotImplementedError:
            return float(atoms.get_potential_energy(force_consistent=False))


def _stress_of(atoms: Atoms) -> Any:
    """Of a structure with a calculator; NaN without a full cell."""
    if np.isnan(volume_of(atoms)):
        return np.full((3, 3), np.nan)
    try:
        return atoms.get_stress(voigt=False)
    except PropertyNotImplementedError as error:
        raise ModelError(f"the prior's calculator gives no stress: {error}") from error


@final
@dataclass(frozen=True)
class Labelled:
    """A lower level of theory whose results the structures' files hold."""

    keys: LabelKeys

    def predict(self, atoms: Atoms | Sequence[Atoms], forces: bool = True, stress: bool = False) -> Prediction:
        found = []
        for structure in [atoms] if isinstance(atoms, Atoms) else list(atoms):
            message = (
                f"the model corrects a lower level of theory, whose results it looks for under the keys "
                f"{self.keys.energy}, {self.keys.forces}; the structure has none. For others give a calculator of "
                "that level: MekrrCalculator(model, prior=calculator)"
            )
            try:
                labels = read_labels(structure, self.keys)
            except StructureError as error:
                raise StructureError(f"{message} ({error})") from error
            whole = not np.isnan(volume_of(structure))
            lacking = (forces and labels.forces is None) or (stress and whole and labels.stress is None)
            if labels.energy is None or lacking:
                raise StructureError(message)
            known = np.full(6, np.nan) if labels.stress is None else labels.stress
            tensor = voigt_6_to_full_3x3_stress(known) if stress else None
            found.append((len(structure), labels.energy, labels.forces if forces else None, tensor))
        return _joined(found)


def _joined(found: Sequence[tuple[int, float, Any, Any]]) -> Prediction:
    sizes, energy, forces, stress = zip(*found, strict=True)
    total = torch.tensor(energy, dtype=torch.float64)
    per_atom = (total / torch.tensor(sizes)).repeat_interleave(torch.tensor(sizes))
    every_force = None if forces[0] is None else torch.cat([torch.from_numpy(part).double() for part in forces])
    every_stress = None if stress[0] is None else torch.stack([torch.from_numpy(part).double() for part in stress])
    return Prediction(total, per_atom, every_force, every_stress)

"""Labels beside predictions: other units and other systems show in the factor between the two, and in what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import Float64
from numpy import ndarray
from torch import Tensor

from mekrr_scale.arrays import beyond_composition
from mekrr_scale.errors import ConfigError, ModelError, StructureError
from mekrr_scale.structures.labels import Labels
from mekrr_scale.structures.predictions import Prediction, Predictor
from mekrr_scale.structures.units import ENERGY_UNITS, LENGTH_UNITS, STRESS_UNITS

_ENERGY = {name: value for name, value in ENERGY_UNITS.items() if name != "eV"}
_FORCE = {f"{name}/angstrom": value for name, value in _ENERGY.items()} | {
    f"{name}/bohr": ENERGY_UNITS[name] / LENGTH_UNITS["bohr"] for name in ("Hartree", "Ry")
}
_COMPARED = 16  # structures that a prior is checked on
_FEWEST = 6  # numbers to compare
_ALIKE = 0.8  # correlation from which two sets of numbers are taken for the same quantity
_SAME = (0.3, 3.0)  # factors that another level of theory may explain
_NEAR = 1.4  # factor around that of a unit
_OPPOSITE = -0.5  # correlation of stresses whose sign is the other one
_WORSE = 10.0  # a prediction that leaves so many times more than none


def check_forces(labels: Float64[Tensor, "n 3"], predicted: Float64[Tensor, "n 3"], what: str) -> str | None:
    """Refuse forces (eV/angstrom) that follow predicted ones with the factor of another unit.

    Args:
        what: who predicted, for the message.

    Returns:
        A warning where the factor is of no unit, yet far from one; else None.

    Raises:
        ConfigError: names the likely unit.
    """
    return _factor(labels.flatten(), predicted.flatten(), f"the forces are {{:.3g}} times those of {what}", _FORCE)


def check_stress(labels: Float64[Tensor, "n 6"], predicted: Float64[Tensor, "n 6"], what: str) -> str | None:
    """A warning where stresses (eV/angstrom^3) have the other sign than predicted ones, or follow them in another unit.

    Signs differ between codes: ASE's is negative under compression, VASP's the other one; virials are -V sigma.
    """
    given, own = labels.flatten(), predicted.flatten()
    scale = float(given.norm() * own.norm())
    if len(given) < _FEWEST or not scale > 0:
        return None
    correlation = float(given @ own) / scale
    if correlation < _OPPOSITE:
        return (
            f"stresses are opposite to those of {what} (correlation {correlation:.2f}): is their sign that of ASE, "
            "negative under compression? VASP and LAMMPS print the other one; a virial belongs in a column of that "
            "name (--stress-key virial)"
        )
    units = {f"{name}, as --units eV,angstrom,{name} reads": STRESS_UNITS[name] for name in ("GPa", "kbar")}
    factor = float(given @ own) / float(own.square().sum())
    if correlation < _ALIKE or _SAME[0] < factor < _SAME[1]:
        return None
    likely = [name for name, value in units.items() if 1 / _NEAR < factor * value < _NEAR]
    hint = f": are they in {likely[0]}?" if likely else "; are they in eV/angstrom^3 (--units)?"
    return f"stresses are {factor:.3g} times those of {what}{hint}"


def check_energies(
    labels: Float64[Tensor, " structures"],
    predicted: Float64[Tensor, " structures"],
    counts: Float64[Tensor, "structures species"],
    what: str,
) -> str | None:
    """Refuse energies (eV) that follow predicted ones with the factor of another unit.

    Only what the composition does not explain is compared, since references differ between levels of theory.

    Returns:
        A warning where the prediction explains nothing; else None.

    Raises:
        ConfigError: names the likely unit, or says that the prediction leaves far more than none.
    """
    n_atoms = counts.sum(1)
    given, own = (beyond_composition(values, counts) / n_atoms for values in (labels, predicted))
    left = beyond_composition(labels - predicted, counts) / n_atoms
    if len(given) - counts.shape[1] < _FEWEST or not float(given.norm()) > 0:
        return None
    warning = _factor(given, own, f"energies vary {{:.3g}} times as much as those of {what}", _ENERGY)
    worse = float(left.norm() / given.norm())
    message = (
        f"{what} leaves {1e3 * _rms(left):.3g} meV/atom of the energies where reference energies alone leave "
        f"{1e3 * _rms(given):.3g}"
    )
    if worse > _WORSE:
        raise ConfigError(f"{message}: it is of another system, or its energies are in other units than eV")
    return f"{message}: it explains nothing of them" if worse > 1.0 else warning


def _factor(labels: Tensor, predicted: Tensor, message: str, units: Mapping[str, float]) -> str | None:
    if len(labels) < _FEWEST or not float(labels.norm()) > 0 or not float(predicted.norm()) > 0:
        return None
    product = float(labels @ predicted)
    factor = product / float(predicted.square().sum())
    if product / float(labels.norm() * predicted.norm()) < _ALIKE or _SAME[0] < factor < _SAME[1]:
        return None
    near = {}
    for name, value in units.items():
        near[f"the labels are in {name} (--units {_option(name)})"] = 1 / value
        near[f"the prediction is in {name}"] = value
    ratios = {text: max(factor / value, value / factor) for text, value in near.items()}
    likely = sorted((text for text in ratios if ratios[text] < _NEAR), key=ratios.__getitem__)
    if likely:
        raise ConfigError(f"{message.format(factor)}: {', or '.join(likely)}")
    return message.format(factor)


def _option(name: str) -> str:
    """A unit as ``LabelKeys.parse_units`` reads it: the energy, and a length other than angstrom."""
    energy, _, length = name.rpartition("/")
    return name if name in _ENERGY else energy if length == "angstrom" else f"{energy},{length}"


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def species_counts(structures: Sequence[Atoms]) -> tuple[tuple[int, ...], Float64[ndarray, "structures species"]]:
    """The elements of structures (atomic numbers, in order), and how many atoms of each every structure has."""
    numbers = [atoms.numbers for atoms in structures]
    species = np.unique(np.concatenate([np.empty(0, np.int64), *numbers]))
    table = np.array([(found[:, None] == species).sum(0) for found in numbers], dtype=np.float64)
    return tuple(species.tolist()), table.reshape(len(numbers), len(species))


def compared(labelled: Sequence[tuple[Atoms, Labels]], prior: Predictor, what: str = "the prior") -> list[str]:
    """Warnings from a comparison of labels with a prior's results, on a few structures.

    Args:
        what: the prior's name in messages.

    Raises:
        ConfigError: the prior is in other units, or of another system.
    """
    few = labelled[:: max(1, len(labelled) // _COMPARED)][:_COMPARED]
    found = [_predicted(prior, atoms, labels) for atoms, labels in few]
    warnings = [_compared_stress([labels for _, labels in few], found, what)]
    forces = [
        (torch.from_numpy(labels.forces), own.forces)
        for (_, labels), own in zip(few, found, strict=True)
        if labels.forces is not None and own.forces is not None
    ]
    if forces:
        given, own = (torch.cat(parts) for parts in zip(*forces, strict=True))
        warnings.append(check_forces(given, own, what))
    known = [(atoms, labels.energy, own.energy) for (atoms, labels), own in zip(few, found, strict=True)
             if labels.energy is not None]  # fmt: skip
    if known:
        energies = torch.tensor([energy for _, energy, _ in known], dtype=torch.float64)
        predicted = torch.cat([own for _, _, own in known])
        counts = torch.from_numpy(species_counts([atoms for atoms, _, _ in known])[1])
        warnings.append(check_energies(energies, predicted, counts, what))
    return [warning for warning in warnings if warning is not None]


def _predicted(prior: Predictor, atoms: Atoms, labels: Labels) -> Prediction:
    """What the prior gives of what there are labels for; it need not know stress."""
    if labels.stress is not None:
        try:
            return prior.predict(atoms, forces=labels.forces is not None, stress=True)
        except (ModelError, StructureError):
            pass
    return prior.predict(atoms, forces=labels.forces is not None)


def _compared_stress(labels: Sequence[Labels], found: Sequence[Prediction], what: str) -> str | None:
    pairs = [
        (torch.from_numpy(known.stress), torch.from_numpy(full_3x3_to_voigt_6_stress(own.stress[0].numpy())))
        for known, own in zip(labels, found, strict=True)
        if known.stress is not None and own.stress is not None and bool(own.stress.isfinite().all())
    ]
    if not pairs:
        return None
    given, own = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    return check_stress(given, own, what)

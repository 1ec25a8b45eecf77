"""Labels beside predictions: other units and other systems show in the factor between the two, and in what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float64
from numpy import ndarray
from torch import Tensor

from mekrr_scale.arrays import beyond_composition
from mekrr_scale.errors import ConfigError
from mekrr_scale.structures.labels import Labels
from mekrr_scale.structures.predictions import Predictor
from mekrr_scale.structures.units import ENERGY_UNITS, LENGTH_UNITS

_ENERGY = {name: value for name, value in ENERGY_UNITS.items() if name != "eV"}
_FORCE = {f"{name}/angstrom": value for name, value in _ENERGY.items()} | {
    f"{name}/bohr": ENERGY_UNITS[name] / LENGTH_UNITS["bohr"] for name in ("Hartree", "Ry")
}
_COMPARED = 16  # structures that a prior is checked on
_FEWEST = 6  # numbers to compare
_ALIKE = 0.8  # correlation from which two sets of numbers are taken for the same quantity
_SAME = (0.3, 3.0)  # factors that another level of theory may explain
_NEAR = 1.4  # factor around that of a unit
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
        near[f"the labels are in {name} (--units {name.split('/a')[0]})"] = 1 / value
        near[f"the prediction is in {name}"] = value
    ratios = {text: max(factor / value, value / factor) for text, value in near.items()}
    likely = sorted((text for text in ratios if ratios[text] < _NEAR), key=ratios.__getitem__)
    if likely:
        raise ConfigError(f"{message.format(factor)}: {', or '.join(likely)}")
    return message.format(factor)


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
    found = [prior.predict(atoms, forces=labels.forces is not None) for atoms, labels in few]
    warnings = []
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

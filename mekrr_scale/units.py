"""Labels in other units than predictions: told by the factor between the two, and by what is left."""

from __future__ import annotations

from collections.abc import Mapping

from ase.units import Bohr, Hartree, Rydberg, kcal, kJ, mol
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.baselines import beyond_composition
from mekrr_scale.errors import ConfigError

_ENERGY = {"kcal/mol": kcal / mol, "kJ/mol": kJ / mol, "Hartree": Hartree, "Ry": Rydberg, "meV": 1e-3}
_FORCE = {f"{name}/angstrom": value for name, value in _ENERGY.items()} | {
    "Hartree/bohr": Hartree / Bohr,
    "Ry/bohr": Rydberg / Bohr,
}
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
    bare, own = (beyond_composition(values, counts) / n_atoms for values in (labels, predicted))
    left = beyond_composition(labels - predicted, counts) / n_atoms
    if len(bare) - counts.shape[1] < _FEWEST or not float(bare.norm()) > 0:
        return None
    warning = _factor(bare, own, f"energies vary {{:.3g}} times as much as those of {what}", _ENERGY)
    worse = float(left.norm() / bare.norm())
    told = (
        f"{what} leaves {1e3 * _rms(left):.3g} meV/atom of the energies where reference energies alone leave "
        f"{1e3 * _rms(bare):.3g}"
    )
    if worse > _WORSE:
        raise ConfigError(f"{told}: it is of another system, or its energies are in other units than eV")
    return f"{told}: it explains nothing of them" if worse > 1.0 else warning


def _factor(labels: Tensor, predicted: Tensor, told: str, units: Mapping[str, float]) -> str | None:
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
        raise ConfigError(f"{told.format(factor)}: {', or '.join(likely)}")
    return told.format(factor)


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())

"""Reference results of structures: where they stand, what they are, and along directions.

Energies are ASE's force-consistent ones where a file has them, forces those without constraints.
A column whose name says that it is a virial W (eV) is one: the stress is -W/V.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from ase import Atoms
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.errors import StructureError, suggestion
from mekrr_scale.structures.columns import Kind, is_virial, near_names, numbers
from mekrr_scale.structures.electrons import electrons_info
from mekrr_scale.structures.neighbours import volume_of
from mekrr_scale.structures.units import ENERGY_UNITS, LENGTH_UNITS, STRESS_UNITS
from mekrr_scale.structures.unreadable import check_readable

KINDS: tuple[Kind, ...] = ("energy", "forces", "stress")
_ABSENT = ("none", "n/a", "na", "null", "-", "")  # texts that say that there is none


@dataclass(frozen=True)
class LabelKeys:
    """Where labels stand in a file, and in which units.

    Without a key the label is what ASE takes as the result of a calculation. Positions are
    angstrom in every format that ASE reads; ``length`` is the unit in the forces' denominator. A stress key that
    names a virial (eV, or the energies' unit; W = -V sigma) is converted, unless a unit of stresses is given for it.

    Raises:
        StructureError: a unit that is not known.
    """

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    energy_unit: str = "eV"
    length_unit: str = "angstrom"
    stress_unit: str = "eV/A^3"

    def __post_init__(self) -> None:
        for value, units in (
            (self.energy_unit, ENERGY_UNITS),
            (self.length_unit, LENGTH_UNITS),
            (self.stress_unit, STRESS_UNITS),
        ):
            if value not in units:
                raise StructureError(f"unknown unit {value!r}. {suggestion(value, units)}")

    @property
    def virial(self) -> bool:
        """Whether the column of the stress holds a virial."""
        return is_virial(self.stress) and self.stress_unit == "eV/A^3"

    def of(self, kind: Kind) -> str | None:
        """The key of a kind of labels."""
        return {"energy": self.energy, "forces": self.forces, "stress": self.stress}[kind]

    @classmethod
    def parse_units(cls, units: str) -> dict[str, str]:
        """Units from a text such as ``Hartree``, ``Hartree,bohr`` or ``eV,angstrom,GPa``."""
        parts = [part.strip() for part in units.split(",") if part.strip()]
        names = ("energy_unit", "length_unit", "stress_unit")
        if not 1 <= len(parts) <= 3:
            raise StructureError(f"units {units!r}: give energy, or energy,length or energy,length,stress")
        return dict(zip(names, parts, strict=False))


@dataclass(frozen=True)
class Labels:
    """Reference results of one structure, in eV and angstrom with ASE's signs."""

    energy: float | None  # eV
    forces: Float64[ndarray, "atoms 3"] | None  # eV/angstrom
    stress: Float64[ndarray, "6"] | None  # eV/angstrom^3, Voigt order xx yy zz yz xz xy


def bare(atoms: Atoms) -> Atoms:
    """A copy of elements, positions, cell, periodicity, charge and spin alone: no labels, constraints or calculator."""
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=electrons_info(atoms))


def read_labels(atoms: Atoms, keys: LabelKeys, wanted: Collection[Kind] = KINDS) -> Labels:
    """Labels of a structure in eV and angstrom; None where it has none, and for a stress without a full cell.

    Args:
        wanted: kinds that must be usable where they are there; others are None where they are not (text, NaN, shape).

    Raises:
        StructureError: a label that is no number or of the wrong shape, or an energy key that the structure lacks.
    """
    check_readable(atoms)
    found: dict[Kind, Any] = {}
    readers: Mapping[Kind, Callable[[Atoms, LabelKeys], Any]] = {
        "energy": _energy, "forces": _forces, "stress": _stress
    }  # fmt: skip
    for kind, read in readers.items():
        try:
            found[kind] = read(atoms, keys)
        except StructureError:
            if kind in wanted:
                raise
        value = found.setdefault(kind, None)
        if value is not None and kind not in wanted and not np.isfinite(value).all():
            found[kind] = None
    return Labels(found["energy"], found["forces"], found["stress"])


def _energy(atoms: Atoms, keys: LabelKeys) -> float | None:
    value = _named(atoms, keys.energy, ("free_energy", "energy"))
    if value is None:
        if keys.energy is not None:
            found = suggestion(keys.energy, _keys(atoms, results_of(atoms)))
            raise StructureError(f"no energy under the key {keys.energy!r}. {found}")
        return None
    if not isinstance(value, str) and np.size(value) != 1:
        raise StructureError(f"the energy has shape {np.shape(value)}, one number was expected")
    number: ndarray = numbers(value, "the energy")
    if number.size != 1:
        raise StructureError(f"the energy is {value!r}, one number was expected")
    return float(number.reshape(()) * ENERGY_UNITS[keys.energy_unit])


def _forces(atoms: Atoms, keys: LabelKeys) -> Float64[ndarray, "atoms 3"] | None:
    value = _named(atoms, keys.forces, ("forces",))
    if _absent(value):
        return None
    forces: ndarray = numbers(value, "the forces") * (ENERGY_UNITS[keys.energy_unit] / LENGTH_UNITS[keys.length_unit])
    if forces.shape != (len(atoms), 3):
        raise StructureError(f"forces have shape {forces.shape}, expected ({len(atoms)}, 3)")
    return forces


def _stress(atoms: Atoms, keys: LabelKeys) -> Float64[ndarray, "6"] | None:
    value, volume = _named(atoms, keys.stress, ("stress",)), volume_of(atoms)
    if _absent(value) or np.isnan(volume):
        return None
    voigt: ndarray = _voigt(numbers(value, "the virial" if keys.virial else "the stress"))
    factor = -ENERGY_UNITS[keys.energy_unit] / volume if keys.virial else STRESS_UNITS[keys.stress_unit]
    return np.asarray(voigt * factor)


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in _ABSENT)


def results_of(atoms: Atoms) -> Mapping[str, object]:
    """What ASE takes for the results of a calculation."""
    return getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}


def has_label(atoms: Atoms, keys: LabelKeys, kind: Kind) -> bool:
    """Whether there is something under the key of a kind, usable or not."""
    defaults = ("free_energy", "energy") if kind == "energy" else (kind,)
    return _named(atoms, keys.of(kind), defaults) is not None


def structure_hash(atoms: Atoms, labels: Labels) -> int:
    """63-bit hash of geometry and labels; equal for copies of a structure wherever they stand."""
    digest = xxhash.xxh3_64(np.ascontiguousarray(atoms.numbers, dtype=np.int64).tobytes())
    for part in (atoms.positions, atoms.cell.array, atoms.pbc, labels.energy, labels.forces, labels.stress):
        digest.update(b"|" if part is None else np.ascontiguousarray(part, dtype=np.float64).tobytes())
    return digest.intdigest() >> 1


def geometry_hash(atoms: Atoms) -> int:
    """63-bit hash of elements, positions, periodicity and the lattice vectors of periodic directions, to 1e-5 angstrom.

    Files of the same structure with more or fewer decimals mostly agree in it; a cell around a molecule is no part of
    its geometry.
    """
    parts = [np.asarray(atoms.numbers, dtype=np.int64), np.asarray(atoms.pbc, dtype=np.int64)]
    parts += [np.round(part * 1e5) + 0.0 for part in (atoms.positions, atoms.cell.array * atoms.pbc[:, None])]
    return xxhash.xxh3_64_intdigest(b"".join(part.tobytes() for part in parts)) >> 1


def slopes(
    atoms: Atoms,
    moves: Float64[ndarray, "moves atoms 3"],
    strains: Float64[ndarray, "strains 3 3"],
    forces: Float64[ndarray, "atoms 3"] | None,
    stress: Float64[ndarray, "3 3"] | None,
) -> Float64[ndarray, " directions"]:
    """-u.F and V sigma:eps; NaN where unknown."""
    found = np.full(len(moves) + len(strains), np.nan)
    if forces is not None:
        found[: len(moves)] = -(moves * forces).sum((1, 2))
    if stress is not None and len(strains):
        found[len(moves) :] = atoms.get_volume() * (strains * stress).sum((1, 2))
    return found


def hint(atoms: Atoms, kind: Kind = "energy") -> str:
    """Where the label of a kind may stand in a structure, for messages."""
    results = results_of(atoms)
    found = near_names(atoms, results, kind)
    if found:
        more = f" (or one of {', '.join(found[1:])})" if found[1:] else ""
        return f"pass --{kind}-key {found[0]}{more}"
    return f"the structure has the keys {', '.join(_keys(atoms, results))}; name the right one with --{kind}-key"


def _named(atoms: Atoms, key: str | None, defaults: tuple[str, ...]) -> Any:
    results = results_of(atoms)
    if key is None:
        found = [results[name] for name in defaults if results.get(name) is not None]
        return next((value for value in found if not _absent(value)), found[0] if found else None)
    places: tuple[Mapping[str, object], ...] = (atoms.info, atoms.arrays, results)
    return next((place[key] for place in places if place.get(key) is not None), None)


def _keys(atoms: Atoms, results: Mapping[str, object]) -> list[str]:
    arrays = [name for name in atoms.arrays if name not in ("numbers", "positions")]
    return [*map(str, atoms.info), *arrays, *results] or ["(the structure has no labels)"]


def _voigt(stress: ndarray) -> Float64[ndarray, "6"]:
    if stress.size == 9:
        full = stress.reshape(3, 3)
        return np.array([full[0, 0], full[1, 1], full[2, 2], full[1, 2], full[0, 2], full[0, 1]])
    if stress.size != 6:
        raise StructureError(f"the stress has shape {stress.shape}, expected 6 (Voigt) or 3 x 3")
    return stress.reshape(6)

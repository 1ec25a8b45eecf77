"""Reference results of structures: where they stand, what they are, and along directions.

Energies are ASE's force-consistent ones where a file has them, forces those without constraints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from ase import Atoms
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.errors import StructureError, suggestion
from mekrr_scale.structures.units import ENERGY_UNITS, LENGTH_UNITS, STRESS_UNITS


@dataclass(frozen=True)
class LabelKeys:
    """Where labels stand in a file, and in which units.

    Without a key the label is what ASE takes as the result of a calculation. Positions are
    angstrom in every format that ASE reads; ``length`` is the unit in the forces' denominator.

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
    """A copy of elements, positions, cell and periodicity alone: no labels, constraints or calculator."""
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def read_labels(atoms: Atoms, keys: LabelKeys) -> Labels:
    """Labels of a structure in eV and angstrom.

    Raises:
        StructureError: a key that the structure lacks, or a label of the wrong shape.
    """
    results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    energy = _named(atoms, results, keys.energy, "energy", ("free_energy", "energy"))
    forces = _named(atoms, results, keys.forces, "forces", ("forces",))
    stress = _named(atoms, results, keys.stress, "stress", ("stress",))
    scale = ENERGY_UNITS[keys.energy_unit]
    if energy is not None and np.size(energy) != 1:
        raise StructureError(f"the energy has shape {np.shape(energy)}, one number was expected")
    if forces is not None:
        forces = np.asarray(forces, dtype=np.float64) * (scale / LENGTH_UNITS[keys.length_unit])
        if forces.shape != (len(atoms), 3):
            raise StructureError(f"forces have shape {forces.shape}, expected ({len(atoms)}, 3)")
    if stress is not None:
        stress = _voigt(np.asarray(stress, dtype=np.float64)) * STRESS_UNITS[keys.stress_unit]
    number = None if energy is None else float(np.asarray(energy, dtype=np.float64).reshape(())) * scale
    return Labels(number, forces, stress)


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


def energy_hint(atoms: Atoms) -> str:
    """Where the energy of a structure may stand, for messages."""
    found = [str(k) for k, v in atoms.info.items() if np.size(v) == 1 and "energy" in str(k).lower()]
    if found:
        return f"pass --energy-key {found[0]}" + (f" (or one of {', '.join(found[1:])})" if found[1:] else "")
    return f"the structure has the keys {', '.join(_keys(atoms, {}))}; name the right one with --energy-key"


def _named(atoms: Atoms, results: Mapping[str, object], key: str | None, what: str, defaults: tuple[str, ...]) -> Any:
    if key is None:
        return next((results[name] for name in defaults if results.get(name) is not None), None)
    places: tuple[Mapping[str, object], ...] = (atoms.info, atoms.arrays, results)
    for place in places:
        if key in place:
            return place[key]
    raise StructureError(f"no {what} under the key {key!r}. {suggestion(key, _keys(atoms, results))}")


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

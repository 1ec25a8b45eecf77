"""Reading structures and their labels: anything ASE reads, streamed, compressed or not.

Energies are ASE's force-consistent ones where a file has them, forces those without constraints.
ASE's own reading of a compressed extended xyz file is quadratically slow, since it seeks
backwards in the stream; here the text is cut into frames first.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import ase.db
import ase.io
import numpy as np
import vesin
import xxhash
from ase import Atoms
from ase.units import Bohr, GPa, Hartree, Rydberg, kcal, kJ, mol
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.errors import MekrrError, StructureError, suggestion
from mekrr_scale.graphs import check_geometry

_OPENERS: dict[str, Any] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
_XYZ = {".xyz", ".extxyz", ".exyz"}
_FRAMES_AT_ONCE = 32
OVERLAP = 0.3  # angstrom; closer atoms are an error in the file, not physics

ENERGY_UNITS = {
    "eV": 1.0, "meV": 1e-3, "Hartree": Hartree, "Ry": Rydberg, "kcal/mol": kcal / mol, "kJ/mol": kJ / mol,
}  # fmt: skip
LENGTH_UNITS = {"angstrom": 1.0, "bohr": Bohr, "nm": 10.0}
STRESS_UNITS = {"eV/A^3": 1.0, "GPa": GPa, "kbar": 0.1 * GPa}


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


@dataclass(frozen=True)
class Reject:
    """A structure that is left out, and why."""

    source: str
    index: int
    reason: str


def bare(atoms: Atoms) -> Atoms:
    """A copy of elements, positions, cell and periodicity alone: no labels, constraints or calculator."""
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def species_counts(structures: Sequence[Atoms]) -> tuple[tuple[int, ...], Float64[ndarray, "structures species"]]:
    """The elements of structures (atomic numbers, in order), and how many atoms of each every structure has."""
    numbers = [atoms.numbers for atoms in structures]
    species = np.unique(np.concatenate([np.empty(0, np.int64), *numbers]))
    table = np.array([(found[:, None] == species).sum(0) for found in numbers], dtype=np.float64)
    return tuple(species.tolist()), table.reshape(len(numbers), len(species))


def read_structures(paths: Path | str | Sequence[Path | str], format: str | None = None) -> Iterator[Atoms]:
    """Stream the structures of files in order, a few frames at a time.

    Args:
        format: ASE's name of the format, where the file name does not tell.

    Raises:
        StructureError: a file that is missing, empty or cannot be read.
    """
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        if not path.exists():
            raise StructureError(f"there is no file {path}")
        count = 0
        try:
            for atoms in _frames(path, format):
                count += 1
                yield atoms
        except (MekrrError, KeyboardInterrupt, GeneratorExit):
            raise
        except Exception as error:
            raise StructureError(
                f"{path} cannot be read after {count} structures: {type(error).__name__}: {error}. "
                "Correct the file, or name its format with --format"
            ) from error
        if count == 0:
            raise StructureError(f"{path} holds no structures")


def count_structures(path: Path | str, format: str | None = None) -> int | None:
    """Number of structures where that is cheap to tell, else None."""
    path = Path(path)
    bare = Path(path.stem) if path.suffix in _OPENERS else path
    if format in (None, "extxyz", "xyz") and bare.suffix in _XYZ:
        with _open(path) as stream:
            return sum(1 for _ in _xyz_blocks(stream, path))
    if bare.suffix == ".traj" and path.suffix not in _OPENERS:
        from ase.io.trajectory import Trajectory

        with Trajectory(str(path)) as trajectory:
            return len(trajectory)
    if bare.suffix == ".db" and path.suffix not in _OPENERS:
        return int(ase.db.connect(path).count())
    return None


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


def check_structure(atoms: Atoms, labels: Labels, need_energy: bool = True) -> None:
    """Refuse what must not enter a fit.

    Raises:
        StructureError: no atoms, a broken geometry, atoms on top of each other, labels missing
            or not finite.
    """
    check_geometry(atoms)
    if need_energy and labels.energy is None:
        raise StructureError(f"no energy; {_label_hint(atoms)}")
    for name, value in (("energy", labels.energy), ("forces", labels.forces), ("stress", labels.stress)):
        if value is not None and not np.isfinite(value).all():
            raise StructureError(f"{name} not finite (NaN or infinite)")
    finder = vesin.NeighborList(cutoff=OVERLAP, full_list=False)
    box = atoms.cell.complete().array if atoms.cell.rank < 3 else atoms.cell.array
    i, j, d = finder.compute(points=atoms.positions, box=box, periodic=atoms.pbc, quantities="ijd")
    if len(d):
        raise StructureError(f"atoms {int(i[0])} and {int(j[0])} overlap ({float(d[0]):.3f} angstrom apart)")


def structure_hash(atoms: Atoms, labels: Labels) -> int:
    """63-bit hash of geometry and labels; equal for copies of a structure wherever they stand."""
    digest = xxhash.xxh3_64(np.ascontiguousarray(atoms.numbers, dtype=np.int64).tobytes())
    for part in (atoms.positions, atoms.cell.array, atoms.pbc, labels.energy, labels.forces, labels.stress):
        digest.update(b"|" if part is None else np.ascontiguousarray(part, dtype=np.float64).tobytes())
    return digest.intdigest() >> 1


def _frames(path: Path, format: str | None) -> Iterator[Atoms]:
    bare = Path(path.stem) if path.suffix in _OPENERS else path
    if format in (None, "extxyz", "xyz") and bare.suffix in _XYZ:
        yield from _read_xyz(path)
    elif path.suffix in _OPENERS:
        with tempfile.NamedTemporaryFile(suffix=bare.suffix) as plain, _binary(path) as stream:
            for piece in iter(lambda: stream.read(1 << 20), b""):
                plain.write(piece)
            plain.flush()
            yield from ase.io.iread(plain.name, ":", format=format or _format_of(bare))
    elif bare.suffix == ".db":
        for row in ase.db.connect(path).select():
            atoms = row.toatoms()
            atoms.info |= row.key_value_pairs
            yield atoms
    else:
        yield from ase.io.iread(path, ":", format=format or _format_of(bare))


def _format_of(bare: Path) -> str | None:
    """ASE tells VASP's files by their full name, which a compressed copy no longer has."""
    return "vasp-out" if "OUTCAR" in bare.name else "vasp-xml" if bare.name.startswith("vasprun") else None


def _read_xyz(path: Path) -> Iterator[Atoms]:
    with _open(path) as stream:
        blocks = _xyz_blocks(stream, path)
        while chunk := list(islice(blocks, _FRAMES_AT_ONCE)):
            yield from cast(Iterable[Atoms], ase.io.read(io.StringIO("".join(chunk)), ":", format="extxyz"))


def _xyz_blocks(stream: io.TextIOWrapper, path: Path) -> Iterator[str]:
    """The text of each frame: a line with the number of atoms, a comment, the atoms."""
    number = 0
    for line in stream:
        number += 1
        if not line.strip():
            continue
        try:
            size = int(line)
        except ValueError:
            raise StructureError(
                f"{path}, line {number}: expected a number of atoms, found {line.strip()[:40]!r}"
            ) from None
        body = list(islice(stream, size + 1))
        if len(body) < size + 1:
            raise StructureError(f"{path} ends in the middle of a frame (line {number}: {size} atoms announced)")
        number += size + 1
        yield "".join([line, *body[:-1], body[-1] if body[-1].endswith("\n") else body[-1] + "\n"])


def _open(path: Path) -> io.TextIOWrapper:
    return cast(io.TextIOWrapper, _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8"))


def _binary(path: Path) -> Any:
    return _OPENERS[path.suffix](path, "rb")


def _named(atoms: Atoms, results: dict[str, Any], key: str | None, what: str, defaults: tuple[str, ...]) -> Any:
    if key is None:
        return next((results[name] for name in defaults if results.get(name) is not None), None)
    places: tuple[dict[str, Any], ...] = (atoms.info, atoms.arrays, results)
    for place in places:
        if key in place:
            return place[key]
    raise StructureError(f"no {what} under the key {key!r}. {suggestion(key, _keys(atoms, results))}")


def _keys(atoms: Atoms, results: dict[str, Any]) -> list[str]:
    arrays = [name for name in atoms.arrays if name not in ("numbers", "positions")]
    return [*map(str, atoms.info), *arrays, *results] or ["(the structure has no labels)"]


def _label_hint(atoms: Atoms) -> str:
    found = [str(k) for k, v in atoms.info.items() if np.size(v) == 1 and "energy" in str(k).lower()]
    if found:
        return f"pass --energy-key {found[0]}" + (f" (or one of {', '.join(found[1:])})" if found[1:] else "")
    return f"the structure has the keys {', '.join(_keys(atoms, {}))}; name the right one with --energy-key"


def _voigt(stress: ndarray) -> Float64[ndarray, "6"]:
    if stress.size == 9:
        full = stress.reshape(3, 3)
        return np.array([full[0, 0], full[1, 1], full[2, 2], full[1, 2], full[0, 2], full[0, 1]])
    if stress.size != 6:
        raise StructureError(f"the stress has shape {stress.shape}, expected 6 (Voigt) or 3 x 3")
    return stress.reshape(6)

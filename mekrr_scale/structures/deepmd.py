"""DeePMD-kit's npy folders: a system (``type.raw`` beside ``set.*``), or a folder of many.

Energies are eV, forces eV/angstrom; virials (eV) are W = -V sigma of ASE's stress.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import Int64
from numpy import ndarray

from mekrr_scale.errors import StructureError

_LABELS = ("energy", "force", "virial")


def systems_of(folder: Path) -> list[Path]:
    """The systems in a folder, itself included, in the order of their names."""
    return sorted(found.parent for found in folder.rglob("type.raw"))


def count_deepmd(folder: Path) -> int:
    """Number of frames, by the headers of the coordinates."""
    return sum(len(_load(part / "coord.npy")) for system in systems_of(folder) for part in _sets(system))


def read_deepmd(folder: Path) -> Iterator[Atoms]:
    """The frames of all systems; the info key ``system`` names the folder that each comes from, where there are many.

    Folders of mixed types (``real_atom_types.npy``) are read too; their padding (type -1) is left out.

    Raises:
        StructureError: a file that is missing or does not fit the others.
    """
    systems = systems_of(folder)
    for system in systems:
        elements, types = _elements(system), _types(system)
        periodic = not (system / "nopbc").exists()
        for part in _sets(system):
            for atoms in _frames(part, elements, types, periodic):
                if len(systems) > 1:
                    atoms.info["system"] = str(system.relative_to(folder))
                yield atoms


def _sets(system: Path) -> list[Path]:
    found = sorted(path for path in system.glob("set.*") if path.is_dir())
    if not found:
        raise StructureError(f"{system} has no folder set.000; write the system as deepmd/npy (dpdata)")
    return found


def _elements(system: Path) -> list[str]:
    """Of each type."""
    path = system / "type_map.raw"
    if not path.exists():
        raise StructureError(f"{path} is missing: write the element of each type into it, one a line")
    names = path.read_text(encoding="utf-8").split()
    unknown = [name for name in names if atomic_numbers.get(name, 0) < 1]
    if unknown:
        raise StructureError(f"{path}: {unknown[0]!r} is no element; name the element of each type, one a line")
    return names


def _types(system: Path) -> Int64[ndarray, " atoms"]:
    path = system / "type.raw"
    try:
        return np.loadtxt(path, dtype=np.int64, ndmin=1)
    except ValueError as error:
        raise StructureError(f"{path} holds something else than the numbers of types: {error}") from error


def _load(path: Path) -> ndarray:
    if not path.exists():
        raise StructureError(f"{path} is missing")
    try:
        return cast(ndarray, np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise StructureError(f"{path} is damaged or no array of numpy: {error}") from error


def _frames(part: Path, elements: list[str], types: Int64[ndarray, " atoms"], periodic: bool) -> Iterator[Atoms]:
    count, size = len(_load(part / "coord.npy")), len(types)
    positions = _shaped(part, "coord", (count, size, 3))
    cells = _shaped(part, "box", (count, 3, 3)) if periodic else None
    shapes = {"energy": (count,), "force": (count, size, 3), "virial": (count, 3, 3)}
    labels = {name: _shaped(part, name, shapes[name]) for name in _LABELS if (part / f"{name}.npy").exists()}
    mixed = (part / "real_atom_types.npy").exists()
    own = _shaped(part, "real_atom_types", (count, size)) if mixed else np.broadcast_to(types, (count, size))
    for index in range(count):
        there = own[index] >= 0
        if own[index].max() >= len(elements):
            raise StructureError(f"{part}: type {own[index].max()}, but type_map.raw names {len(elements)} elements")
        symbols = [elements[int(kind)] for kind in own[index][there]]
        atoms = Atoms(symbols, positions=np.float64(positions[index][there]), pbc=periodic)
        if cells is not None:
            atoms.set_cell(np.float64(cells[index]))
        atoms.calc = SinglePointCalculator(atoms, **_results(labels, index, there, atoms))
        yield atoms


def _shaped(part: Path, name: str, shape: tuple[int, ...]) -> ndarray:
    found = _load(part / f"{name}.npy")
    if found.size != np.prod(shape):
        raise StructureError(f"{part / name}.npy has shape {found.shape}, expected {shape}: is it of another system?")
    return found.reshape(shape)


def _results(labels: Mapping[str, ndarray], index: int, there: ndarray, atoms: Atoms) -> dict[str, object]:
    found: dict[str, object] = {}
    if "energy" in labels:
        found["energy"] = float(labels["energy"][index])
    if "force" in labels:
        found["forces"] = np.float64(labels["force"][index][there])
    if "virial" in labels and atoms.cell.rank == 3 and atoms.pbc.all():
        found["stress"] = full_3x3_to_voigt_6_stress(-np.float64(labels["virial"][index]) / atoms.get_volume())
    return found

"""Published formats to extended xyz with labels under ASE's names, in eV and angstrom."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import kcal, mol
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.errors import StructureError, suggestion
from mekrr_scale.outputs import FRAMES, check_output
from mekrr_scale.structures import LabelKeys, read_labels, read_structures, require_file, surveyed, write_structures

Source = Literal["mlearn", "md17", "rmd17", "ase"]
SOURCES: tuple[Source, ...] = ("mlearn", "md17", "rmd17", "ase")


def convert(
    path: Path | str,
    source: Source = "ase",
    keys: LabelKeys | None = None,
    format: str | None = None,
    group_key: str | None = None,
    group: str | None = None,
) -> Iterator[Atoms]:
    """Structures of a published file with energy, forces and stress as ASE results.

    Args:
        group_key: info key that takes the file's name, where a structure does not have it yet: structures of one
            trajectory belong together in splits and in cross-validation (``extract --group-key``).
        group: what it takes in place of the file's name.
        source: ``mlearn``: JSON of materialsvirtuallab/mlearn (VASP, eV, eV/angstrom, stress in kbar);
            ``md17``: npz of Chmiela et al. (keys E, F, R, z; kcal/mol); ``rmd17``: npz of
            Christensen and von Lilienfeld (energies, forces, coords, nuclear_charges; kcal/mol);
            ``ase``: anything ASE reads, with other label names or units (``keys``).

    Raises:
        StructureError: a file of another layout.
    """
    readers = {"mlearn": _mlearn, "md17": _npz, "rmd17": _npz}
    if source not in SOURCES:
        raise StructureError(f"unknown source {source!r}. {suggestion(source, SOURCES)}")
    path = Path(path)
    require_file(path)
    found = _read_by_ase(path, keys or LabelKeys(), format) if source == "ase" else readers[source](path)
    for atoms in found:
        if group_key is not None:
            atoms.info.setdefault(group_key, group or _stem(path))
        yield atoms


def group_names(paths: Sequence[Path]) -> list[str]:
    """Names of trajectories: those of the files, with their folders where several files have one (run1/OUTCAR)."""
    stems = [_stem(path) for path in paths]
    return [stem if stems.count(stem) == 1 else str(path) for stem, path in zip(stems, paths, strict=True)]


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


def _read_by_ase(path: Path, keys: LabelKeys, format: str | None) -> Iterator[Atoms]:
    survey, structures = surveyed(read_structures(path, format), keys)
    for remark in survey.remarks():
        warnings.warn(f"{path}: {remark}", stacklevel=3)
    yield from (_with_labels(atoms, survey.settled) for atoms in structures)


def write(path: Path | str, structures: Iterable[Atoms], overwrite: bool = False) -> int:
    """Write extended xyz, compressed if the name ends in .xz, .gz or .bz2 (.traj and .db too); returns the number.

    Raises:
        ConfigError: the file is there already, or its name stands for another format.
    """
    return write_structures(check_output(path, FRAMES, overwrite), structures)


def _with_labels(atoms: Atoms, keys: LabelKeys) -> Atoms:
    labels = read_labels(atoms, keys)
    results: dict[str, Any] = {}
    if labels.energy is not None:
        results["energy"] = labels.energy
    if labels.forces is not None:
        results["forces"] = labels.forces
    if labels.stress is not None:
        results["stress"] = labels.stress
    clean = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    used = {keys.energy, keys.forces, keys.stress}
    clean.info.update({k: v for k, v in atoms.info.items() if k not in used})
    clean.calc = SinglePointCalculator(clean, **results)
    return clean


def _mlearn(path: Path) -> Iterator[Atoms]:
    """Entries with a pymatgen structure and VASP outputs (virial stress in kbar, VASP's sign)."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        entries = entries if isinstance(entries, list) else [entries]
        for entry in entries:
            structure, outputs = entry["structure"], entry.get("outputs", entry)
            species = [site["species"][0]["element"] for site in structure["sites"]]
            positions = np.array([site["xyz"] for site in structure["sites"]], dtype=np.float64)
            atoms = Atoms(species, positions=positions, cell=structure["lattice"]["matrix"], pbc=True)
            atoms.info.update({k: entry[k] for k in ("group", "tag", "description") if k in entry})
            results: dict[str, Any] = {"energy": float(outputs["energy"]), "forces": np.array(outputs["forces"])}
            stress = outputs.get("virial_stress")
            if stress is not None:
                results["stress"] = _vasp_stress(np.array(stress, dtype=np.float64))
            atoms.calc = SinglePointCalculator(atoms, **results)
            yield atoms
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise StructureError(f"{path} is not a JSON file of the mlearn data sets: {error!r}") from error


def _vasp_stress(kbar: Float64[ndarray, "6"]) -> Float64[ndarray, "6"]:
    """VASP's xx yy zz xy yz zx in kbar, positive under compression, to ASE's convention."""
    from ase.units import GPa

    return np.asarray(-0.1 * GPa * kbar[[0, 1, 2, 4, 5, 3]])


def _npz(path: Path) -> Iterator[Atoms]:
    """MD17 (E, F, R, z) and rMD17 (energies, forces, coords, nuclear_charges), kcal/mol."""
    try:
        data = np.load(path, allow_pickle=False)
        names = _npz_names(data)
        numbers, positions = data[names["numbers"]], data[names["positions"]]
        energies, forces = np.asarray(data[names["energies"]]).reshape(-1), data[names["forces"]]
    except (OSError, ValueError, KeyError) as error:
        raise StructureError(f"{path} is not an npz file of MD17 or rMD17: {error}") from error
    unit = kcal / mol
    for i in range(len(energies)):
        atoms = Atoms(numbers, positions=positions[i])
        atoms.calc = SinglePointCalculator(atoms, energy=float(energies[i]) * unit, forces=forces[i] * unit)
        yield atoms


def _npz_names(data: Mapping[str, Any]) -> dict[str, str]:
    layouts = (
        {"numbers": "nuclear_charges", "positions": "coords", "energies": "energies", "forces": "forces"},
        {"numbers": "z", "positions": "R", "energies": "E", "forces": "F"},
    )
    for layout in layouts:
        if all(name in data for name in layout.values()):
            return layout
    raise KeyError(f"keys {sorted(data)} are those of neither")

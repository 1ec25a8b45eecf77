"""Values to compare with: from a TOML file, or from labelled frames of a crystal at several volumes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms

from mekrr_scale.checks.bulk import birch
from mekrr_scale.errors import ConfigError
from mekrr_scale.files import read_toml
from mekrr_scale.structures import LabelKeys, read_labels, read_structures

_RANGE = 0.15  # of the volume, around the lowest frame
_VOLUMES = 5  # that a fit needs


@dataclass(frozen=True)
class References:
    """Values by structure and quantity; those of no structure hold for all."""

    common: Mapping[str, float] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    frames: tuple[Atoms, ...] = ()

    def of(self, name: str, atoms: Atoms) -> dict[str, float]:
        """What is known of one structure."""
        return {**_of_frames(self.frames, atoms), **self.common, **self.own.get(name, {})}


def read_references(path: Path | str | None) -> References:
    """From a file: TOML (``B0 = 88`` or a table ``[Si]`` for each structure), or labelled structures.

    Raises:
        ConfigError: it cannot be read, or holds something else than numbers.
        StructureError: structures that cannot be read.
    """
    if path is None:
        return References()
    path = Path(path)
    if path.suffix.lower() != ".toml":
        return References(frames=tuple(read_structures(path)))
    data = read_toml(path, "file of references")
    tables = {name: value for name, value in data.items() if isinstance(value, dict)}
    values = {name: value for name, value in data.items() if name not in tables}
    return References(_numbers(path, values), {name: _numbers(path, table) for name, table in tables.items()})


def _numbers(path: Path, values: Mapping[str, object]) -> dict[str, float]:
    found = {}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value == 0:
            raise ConfigError(f"{path}: {name} = {value!r}; give a number that is not zero, in the check's unit")
        found[name] = float(value)
    return found


def _of_frames(frames: tuple[Atoms, ...], atoms: Atoms) -> dict[str, float]:
    """Volume and bulk modulus by Birch's equation through the lowest frames of each volume."""
    wanted = atoms.get_chemical_formula(empirical=True)
    known = []
    for frame in frames:
        if frame.pbc.all() and frame.get_chemical_formula(empirical=True) == wanted:
            energy = read_labels(frame, LabelKeys()).energy
            if energy is not None:
                known.append((round(frame.get_volume() / len(frame), 4), energy / len(frame)))
    if not known:
        return {}
    middle = min(known, key=lambda pair: pair[1])[0]
    lowest: dict[float, float] = {}
    for volume, energy in known:
        if abs(volume / middle - 1.0) < _RANGE:
            lowest[volume] = min(energy, lowest.get(volume, math.inf))
    if len(lowest) < _VOLUMES:
        return {}
    volumes = np.array(sorted(lowest))
    volume, modulus, _ = birch(volumes, np.array([lowest[each] for each in volumes.tolist()]))
    return {} if np.isnan(modulus) else {"V0": volume, "B0": modulus}

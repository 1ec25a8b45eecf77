"""A summary of a data set: what is in it, and which frames to look at before fitting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.geometry import find_mic

from mekrr_scale.errors import StructureError
from mekrr_scale.structures import LabelKeys, Labels, check_structure, read_labels, structure_hash

_LARGE_FORCE = 30.0  # eV/angstrom
_NET_FORCE = 0.05  # eV/angstrom per atom
_STEP = 0.2  # angstrom; longer moves between frames say nothing about units


@dataclass
class Summary:
    """Counts and ranges; energies in eV, forces in eV/angstrom."""

    structures: int = 0
    atoms: Counter[str] = field(default_factory=Counter)
    sizes: list[int] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)  # per atom
    largest_forces: list[float] = field(default_factory=list)
    net_forces: list[float] = field(default_factory=list)
    periodic: Counter[str] = field(default_factory=Counter)
    with_stress: int = 0
    compositions: list[dict[int, int]] = field(default_factory=list)
    suspicious: list[tuple[int, str]] = field(default_factory=list)
    unit_slope: float | None = None  # of dE against -F.dr between successive frames; 1 if units agree

    def to_dict(self) -> dict[str, Any]:
        """Ranges as JSON holds them."""

        def spread(values: list[float] | list[int]) -> list[float] | None:
            return [float(min(values)), float(np.median(values)), float(max(values))] if values else None

        return {
            "structures": self.structures,
            "atoms": dict(self.atoms),
            "atoms per structure (min, median, max)": spread(self.sizes),
            "energy per atom, eV (min, median, max)": spread(self.energies),
            "largest force, eV/A (min, median, max)": spread(self.largest_forces),
            "net force, eV/A (min, median, max)": spread(self.net_forces),
            "periodic": dict(self.periodic),
            "with stress": self.with_stress,
            "slope of dE against -F.dr": self.unit_slope,
            "suspicious": [f"structure {i}: {reason}" for i, reason in self.suspicious],
        }


def inspect(structures: Iterable[Atoms], keys: LabelKeys | None = None) -> Summary:
    """Read a data set once and summarise it.

    Raises:
        StructureError: there is no structure at all.
    """
    keys = keys or LabelKeys()
    summary = Summary()
    seen: dict[int, int] = {}
    steps: list[tuple[float, float]] = []
    previous: tuple[Atoms, Labels] | None = None
    for index, atoms in enumerate(structures):
        summary.structures += 1
        summary.sizes.append(len(atoms))
        summary.atoms.update(chemical_symbols[z] for z in atoms.numbers)
        summary.periodic["".join("T" if p else "F" for p in atoms.pbc)] += 1
        try:
            labels = read_labels(atoms, keys)
            check_structure(atoms, labels)
        except StructureError as error:
            summary.suspicious.append((index, str(error)))
            previous = None
            continue
        digest = structure_hash(atoms, labels)
        if digest in seen:
            summary.suspicious.append((index, f"copy of structure {seen[digest]}"))
        seen.setdefault(digest, index)
        _collect(summary, index, atoms, labels)
        if previous is not None:
            steps += _step(previous, (atoms, labels))
        previous = (atoms, labels)
    if not summary.structures:
        raise StructureError("the file holds no structures")
    _mark_outliers(summary)
    if len(steps) >= 5:
        work, change = np.array(steps).T
        if np.ptp(work) > 0 and abs(np.corrcoef(work, change)[0, 1]) > 0.9:
            summary.unit_slope = float(np.polyfit(work, change, 1)[0])
            if not 0.7 < summary.unit_slope < 1.4:
                hint = f"energy changes are {summary.unit_slope:.3g} times the work of the forces: their units disagree"
                summary.suspicious.append((0, hint))
    return summary


def _collect(summary: Summary, index: int, atoms: Atoms, labels: Labels) -> None:
    assert labels.energy is not None
    summary.energies.append(labels.energy / len(atoms))
    summary.compositions.append(dict(Counter(atoms.numbers.tolist())))
    summary.with_stress += labels.stress is not None
    if labels.forces is None:
        return
    largest = float(np.abs(labels.forces).max())
    net = float(np.linalg.norm(labels.forces.sum(0)))
    summary.largest_forces.append(largest)
    summary.net_forces.append(net)
    if largest > _LARGE_FORCE:
        summary.suspicious.append((index, f"force component of {largest:.1f} eV/A"))
    if net > _NET_FORCE * len(atoms):
        summary.suspicious.append((index, f"net force of {net:.2f} eV/A over {len(atoms)} atoms"))


def _mark_outliers(summary: Summary) -> None:
    """Energies more than twelve robust deviations from what the composition explains."""
    if len(summary.energies) < 10:
        return
    species = sorted({z for composition in summary.compositions for z in composition})
    counts = np.array([[c.get(z, 0) for z in species] for c in summary.compositions], dtype=np.float64)
    size = counts.sum(1)
    fractions = counts / size[:, None]
    energies = np.array(summary.energies)
    reference, *_ = np.linalg.lstsq(fractions, energies, rcond=None)
    residual = energies - fractions @ reference
    deviation = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
    for i in np.flatnonzero(np.abs(residual - np.median(residual)) > 12 * max(deviation, 1e-3)):
        summary.suspicious.append((int(i), f"energy {residual[i]:+.3f} eV/atom from its composition's"))


def _step(before: tuple[Atoms, Labels], after: tuple[Atoms, Labels]) -> list[tuple[float, float]]:
    """(work of the mean forces, change of energy) between two close frames of one system."""
    (a, x), (b, y) = before, after
    if len(a) != len(b) or (a.numbers != b.numbers).any() or x.forces is None or y.forces is None:
        return []
    if not np.allclose(a.cell.array, b.cell.array, atol=1e-8) or x.energy is None or y.energy is None:
        return []
    move, length = find_mic(b.positions - a.positions, a.cell, a.pbc)
    if not 0 < float(length.max()) < _STEP:
        return []
    return [(-float((0.5 * (x.forces + y.forces) * move).sum()), y.energy - x.energy)]

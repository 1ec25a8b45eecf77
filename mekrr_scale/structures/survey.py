"""What labels a data set holds, looked at before any work: how many of a kind, where others may stand, which energy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import numpy as np
from ase import Atoms

from mekrr_scale.errors import StructureError, suggestion
from mekrr_scale.structures.columns import Kind, near_names
from mekrr_scale.structures.electrons import Electrons
from mekrr_scale.structures.labels import KINDS, LabelKeys, has_label, read_labels, results_of
from mekrr_scale.structures.unreadable import Unreadable
from mekrr_scale.structures.vasprun import CONVERGED

_SAME = 1e-6  # eV; energies that differ by less are one
_LOOKED = 200  # frames of a stream that are looked at before it is used


@dataclass
class EnergyNames:
    """Which of ASE's two energies the frames have: the free energy is what forces belong to."""

    only_energy: int = 0
    only_free: int = 0
    both: int = 0
    apart: float = 0.0  # eV/atom; the largest difference of the two in one frame

    def look(self, atoms: Atoms) -> None:
        """Count a frame."""
        energy, free = (_label(atoms, LabelKeys(energy=name), "energy") for name in ("energy", "free_energy"))
        self.both += energy is not None and free is not None
        self.only_energy += energy is not None and free is None
        self.only_free += energy is None and free is not None
        if energy is not None and free is not None:
            self.apart = max(self.apart, abs(energy - free) / max(len(atoms), 1))

    @property
    def chosen(self) -> str | None:
        """The name that all energies are taken from; None: either, they are the same."""
        if not self.only_energy or not self.both + self.only_free or (self.both and self.apart < _SAME):
            return None
        if not self.only_free:
            return "energy"
        return "energy" if self.only_energy >= self.only_free else "free_energy"

    def remark(self) -> str | None:
        """What a user should know of it."""
        if self.chosen is None:
            return None
        apart = f"; where both are known they differ by up to {1e3 * self.apart:.3g} meV/atom" if self.both else ""
        if not self.only_free:
            return (
                f"{self.only_energy} of {self.only_energy + self.both} frames have no free energy: 'energy' is taken "
                f"of all{apart}"
            )
        other = "free_energy" if self.chosen == "energy" else "energy"
        return (
            f"frames with 'energy' alone ({self.only_energy}) and with 'free_energy' alone ({self.only_free}) are "
            f"mixed, which are two definitions{apart}: {self.chosen!r} is taken; for the other give --energy-key "
            f"{other}"
        )


@dataclass
class Survey:
    """What was found in frames, with the keys that they are read with."""

    keys: LabelKeys
    group_key: str | None = None
    frames: int = 0
    unreadable: int = 0
    found: Counter[Kind] = field(default_factory=Counter)  # frames with a usable label
    unusable: Counter[Kind] = field(default_factory=Counter)  # frames where something else stands in its place
    near: dict[Kind, Counter[str]] = field(default_factory=lambda: {kind: Counter() for kind in KINDS})
    names: set[str] = field(default_factory=set)  # of everything that frames hold
    energies: EnergyNames = field(default_factory=EnergyNames)
    grouped: int = 0
    unconverged: int = 0  # frames whose electronic steps came to their end without convergence, where files tell
    electrons: Electrons = field(default_factory=Electrons)
    sizes: Counter[int] = field(default_factory=Counter)  # atoms of the frames with forces

    @classmethod
    def of(cls, structures: Iterable[Atoms], keys: LabelKeys, group_key: str | None = None) -> Survey:
        """A survey of all of them."""
        survey = cls(keys, group_key)
        for atoms in structures:
            survey.look(atoms)
        return survey

    def look(self, atoms: Atoms) -> None:
        """Count a frame."""
        self.frames += 1
        if isinstance(atoms, Unreadable):
            self.unreadable += 1
            return
        for kind in KINDS:
            self._look_for(atoms, kind)
        self.electrons.look(atoms)
        self.unconverged += not bool(atoms.info.get(CONVERGED, True))
        self.names |= {str(name) for name in (*atoms.info, *atoms.arrays, *results_of(atoms))}
        if self.keys.energy is None:
            self.energies.look(atoms)
        self.grouped += self.group_key is not None and self.group_key in atoms.info

    def _look_for(self, atoms: Atoms, kind: Kind) -> None:
        if _label(atoms, self.keys, kind) is not None:
            self.found[kind] += 1
            if kind == "forces":
                self.sizes[len(atoms)] += 1
        elif has_label(atoms, self.keys, kind):
            self.unusable[kind] += 1
        else:
            self.near[kind].update(near_names(atoms, results_of(atoms), kind))

    @property
    def settled(self) -> LabelKeys:
        """The keys, with one energy for all frames."""
        chosen = None if self.keys.energy is not None else self.energies.chosen
        return self.keys if chosen is None else replace(self.keys, energy=chosen)

    @property
    def energy_name(self) -> str | None:
        """Which of ASE's energies is taken, where that is known and makes a difference."""
        found = self.energies
        known = found.only_energy + found.only_free + found.both
        if self.keys.energy is not None:
            return self.keys.energy if self.keys.energy in ("energy", "free_energy") else None
        if not known or (found.both and found.apart < _SAME):
            return None
        return found.chosen or ("energy" if found.only_energy else "free_energy")

    def hint(self, kind: Kind) -> str:
        """Where a kind that is missing may stand; empty where nothing looks like it."""
        names = [name for name, _ in self.near[kind].most_common(3)]
        if not names:
            return ""
        return f"{' or '.join(repr(name) for name in names)} may be meant: pass --{kind}-key {names[0]}"

    def check(self) -> None:
        """Refuse keys that no frame has.

        Raises:
            StructureError: names the closest.
        """
        for kind in ("forces", "stress"):
            key = self.keys.of(kind)
            if key is not None and self.frames and not self.found[kind] + self.unusable[kind]:
                raise StructureError(f"no {kind} under the key {key!r} in any frame. {suggestion(key, self._named())}")
        if self.group_key is not None and self.frames and not self.grouped:
            raise StructureError(
                f"no info key {self.group_key!r} in any frame, to group trajectories by. "
                f"{suggestion(self.group_key, self._named())}"
            )

    def _named(self) -> list[str]:
        return sorted(self.names - {"numbers", "positions"}) or ["(the frames have no labels)"]

    def remarks(self, kinds: Sequence[Kind] = KINDS) -> list[str]:
        """What a user should know: kinds without labels that seem to stand elsewhere, mixed energies, lost groups."""
        found = [
            f"no {kind} found{f' under the key {key!r}' if (key := self.keys.of(kind)) else ''}; {self.hint(kind)}"
            for kind in kinds
            if not self.found[kind] and self.hint(kind)
        ]
        remark = self.energies.remark()
        if remark is not None and self.keys.energy is None:
            found.append(remark)
        if self.unconverged:
            found.append(
                f"{self.unconverged} of {self.frames} frames have electrons that did not converge (info {CONVERGED}); "
                "their labels are used: leave the frames out if that is not meant"
            )
        if self.group_key is not None and self.grouped < self.frames:
            found.append(
                f"{self.frames - self.grouped} of {self.frames} frames have no info key {self.group_key!r}: each "
                "stands alone in cross-validation"
            )
        return found


def _label(atoms: Atoms, keys: LabelKeys, kind: Kind) -> Any:
    """A label that can be used, or None."""
    try:
        value = getattr(read_labels(atoms, keys, (kind,)), kind)
    except StructureError:
        return None
    return value if value is not None and np.isfinite(value).all() else None


def surveyed(structures: Iterable[Atoms], keys: LabelKeys) -> tuple[Survey, Iterator[Atoms]]:
    """A survey of the first frames of a stream (or of all that a list has), and the stream from its beginning.

    Raises:
        StructureError: see ``Survey.check``.
    """
    stream = iter(structures)
    first = list(islice(stream, _LOOKED))
    survey = Survey.of(first, keys)
    survey.check()
    return survey, chain(first, stream)

"""n2p2's ``input.data``: the file says no units, so that the one who reads it has to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers

from mekrr_scale.errors import StructureError, suggestion
from mekrr_scale.structures.units import ENERGY_UNITS, LENGTH_UNITS
from mekrr_scale.structures.unreadable import Unreadable

_COMMENTS = ("#", "!", "comment")


@dataclass(frozen=True)
class N2p2Units:
    """Of energies and lengths; forces are in energy/length."""

    energy: float  # eV
    length: float  # angstrom

    @classmethod
    def of(cls, format: str) -> N2p2Units:
        """From the name of a format, such as ``n2p2:Hartree,bohr``.

        >>> N2p2Units.of("n2p2:eV,angstrom")
        N2p2Units(energy=1.0, length=1.0)

        Raises:
            StructureError: units that are missing or not known.
        """
        _, _, words = format.partition(":")
        names = [word.strip() for word in words.split(",")]
        if len(names) != 2:
            raise StructureError(
                "a file of n2p2 (input.data) says no units: name those of energies and lengths, e.g. "
                "--format n2p2:Hartree,bohr or --format n2p2:eV,angstrom (RuNNer's is in Hartree and bohr)"
            )
        for name, units in zip(names, (ENERGY_UNITS, LENGTH_UNITS), strict=True):
            if name not in units:
                raise StructureError(f"--format {format}: unknown unit {name!r}. {suggestion(name, units)}")
        return cls(ENERGY_UNITS[names[0]], LENGTH_UNITS[names[1]])


@dataclass
class _Frame:
    """Lines of a frame by their keywords."""

    line: int
    rows: dict[str, list[list[str]]] = field(default_factory=dict)

    def of(self, keyword: str) -> list[list[str]]:
        return self.rows.get(keyword, [])


def is_n2p2(head: str) -> bool:
    """Whether a text begins as the file does: the line ``begin``, before it comments and empty lines.

    >>> is_n2p2("# of a run\\nbegin\\nlattice 4 0 0\\n"), is_n2p2("LAMMPS data file\\n")
    (True, False)
    """
    lines = (line.strip().lower() for line in head.splitlines())
    return next((line for line in lines if line and not line.startswith(_COMMENTS)), "") == "begin"


def read_n2p2(lines: Iterable[str], units: N2p2Units) -> Iterator[Atoms]:
    """The frames, one at a time; ``Unreadable`` in the place of those that are not whole.

    Charges, the file's and the atoms', are kept as info and array ``charge`` and ``charges`` where one is not zero.
    """
    frame: _Frame | None = None
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith(("#", "!")) or (frame is None and words[0].lower() == "comment"):
            continue
        keyword = words[0].lower()
        if keyword == "begin":
            if frame is not None:
                yield Unreadable(f"line {frame.line}: the frame has no end")
            frame = _Frame(number)
        elif frame is None:
            yield Unreadable(f"line {number}: expected begin, found {line.strip()[:40]!r}")
        elif keyword == "end":
            yield _atoms(frame, units)
            frame = None
        else:
            frame.rows.setdefault(keyword, []).append(words[1:])
    if frame is not None:
        yield Unreadable(f"the file ends in the middle of a frame (line {frame.line})")


def _atoms(frame: _Frame, units: N2p2Units) -> Atoms:
    try:
        return _parsed(frame, units)
    except (ValueError, IndexError) as error:
        return Unreadable(f"the frame of line {frame.line} cannot be read ({error})")


def _parsed(frame: _Frame, units: N2p2Units) -> Atoms:
    rows, lattice = frame.of("atom"), frame.of("lattice")
    symbols = [row[3] for row in rows]
    unknown = [symbol for symbol in symbols if atomic_numbers.get(symbol, 0) < 1]
    if unknown or len(lattice) not in (0, 3):
        raise ValueError(
            f"{unknown[0]!r} is no element" if unknown else f"{len(lattice)} lattice vectors, not 3 or none"
        )
    values = np.array([row[:3] + row[4:9] for row in rows], dtype=np.float64).reshape(len(rows), -1)
    atoms = Atoms(symbols, positions=units.length * values[:, :3])
    if lattice:
        atoms.set_cell(units.length * np.array([row[:3] for row in lattice], dtype=np.float64))
        atoms.pbc = True
    comments = [" ".join(row) for row in frame.of("comment")]
    if comments:
        atoms.info["comment"] = "; ".join(comments)
    results: dict[str, object] = {}
    if frame.of("energy"):
        results["energy"] = units.energy * float(frame.of("energy")[0][0])
    if values.shape[1] == 8:
        results["forces"] = units.energy / units.length * values[:, 5:]
        if values[:, 3].any():
            atoms.arrays["charges"] = values[:, 3]
    if frame.of("charge") and float(frame.of("charge")[0][0]):
        atoms.info["charge"] = float(frame.of("charge")[0][0])
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms

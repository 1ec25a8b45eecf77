"""VASP's ML_AB and ML_ABN: what its machine-learned force fields learn from.

Energies are eV, forces eV/angstrom; the stress is kbar in VASP's sign, positive under compression.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import cast

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from ase.units import GPa
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.structures.unreadable import Unreadable

_RULE = re.compile(r"\s*(\*{5,}|={5,}|-{5,})\s*\Z")
_BEGIN = "configuration num"
_PARTS = ("xx yy zz", "xy yz zx")  # titles below dashes
_TITLES = {
    "name": "system name", "kinds": "atom types and atom numbers", "cell": "primitive lattice vectors",
    "positions": "atomic positions", "energy": "total energy", "forces": "forces (", "plain": "xx yy zz",
    "mixed": "xy yz zx",
}  # fmt: skip


def read_mlab(lines: Iterable[str]) -> Iterator[Atoms]:
    """The configurations, one at a time; ``Unreadable`` in the place of those that are not whole."""
    for number, body in _configurations(lines):
        try:
            yield _atoms(_sections(body))
        except (KeyError, IndexError, ValueError) as error:
            yield Unreadable(f"configuration {number} of the ML_AB file is not whole ({type(error).__name__}: {error})")


def _configurations(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """The number of each, and its lines; what stands before the first is left out."""
    number, body = "", list[str]()
    for line in chain(lines, [_BEGIN]):
        if line.strip().lower().startswith(_BEGIN):
            if number:
                yield number, body
            number, body = (line.split() or ["?"])[-1], []
        elif number:
            body.append(line)


def _sections(body: list[str]) -> dict[str, list[str]]:
    """What stands under each title. Stars or equal signs stand above a title, dashes above what it is of."""
    found: dict[str, list[str]] = {}
    title, above = None, ""
    for line in body:
        rule = _RULE.match(line)
        words = " ".join(line.lower().split())
        if rule is not None:
            above = rule[1][0]
        elif above in ("*", "=") or words in _PARTS:
            title = next((key for key, begin in _TITLES.items() if words.startswith(begin)), None)
        elif title is not None and words:
            found.setdefault(title, []).append(line)
    return found


def _atoms(sections: dict[str, list[str]]) -> Atoms:
    kinds = [line.split() for line in sections["kinds"]]
    symbols = [_element(kind) for kind, count in kinds for _ in range(int(count))]
    size = len(symbols)
    atoms = Atoms(
        symbols, positions=_numbers(sections["positions"], size), cell=_numbers(sections["cell"], 3), pbc=True
    )
    atoms.info["system"] = " ".join(sections.get("name", [""])[0].split())
    results: dict[str, object] = {
        "energy": float(sections["energy"][0].replace("D", "E")), "forces": _numbers(sections["forces"], size)
    }  # fmt: skip
    if "plain" in sections:
        (xx, yy, zz), (xy, yz, zx) = (_numbers(sections[key], 1)[0] for key in ("plain", "mixed"))
        results["stress"] = -0.1 * GPa * np.array([xx, yy, zz, yz, zx, xy])
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _element(kind: str) -> str:
    """Without what tells kinds of one element apart (``Fe_pv``, ``O1``)."""
    found = re.match(r"[A-Z][a-z]?", kind)
    if found is None or atomic_numbers.get(found[0], 0) < 1:
        raise ValueError(f"{kind!r} is no element")
    return found[0]


def _numbers(lines: list[str], count: int) -> Float64[ndarray, "count 3"]:
    found = np.array([[float(word.replace("D", "E")) for word in line.split()] for line in lines], dtype=np.float64)
    if found.shape != (count, 3):
        raise ValueError(f"{count} lines of 3 numbers were expected, found are {found.shape}")
    return cast(ndarray, found)

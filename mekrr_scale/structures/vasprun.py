"""VASP's vasprun.xml, as ASE reads it, and which of its steps have converged electrons."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import ase.io
from ase import Atoms

CONVERGED = "scf_converged"  # info key


def read_vasprun(path: Path) -> Iterator[Atoms]:
    """The ionic steps; ``scf_converged`` in a step's info is False where its electronic steps came to NELM."""
    converged = _converged(path)
    for index, atoms in enumerate(ase.io.iread(path, ":", format="vasp-xml", do_not_split_by_at_sign=True)):
        if index < len(converged):
            atoms.info[CONVERGED] = converged[index]
        yield atoms


def _converged(path: Path) -> list[bool]:
    """Of each ionic step; as far as the file goes."""
    found: list[bool] = []
    most, steps = 60, 0  # VASP's default of NELM
    try:
        for _, element in ET.iterparse(path, events=["end"]):
            if element.tag == "i" and element.get("name") == "NELM" and element.text:
                most = int(element.text)
            elif element.tag == "scstep":
                steps += 1
                element.clear()
            elif element.tag == "calculation":
                found.append(steps < most)
                steps = 0
                element.clear()
    except ET.ParseError:  # cut off, as that of a running job is; ASE reads the whole steps
        pass
    return found

"""Extended xyz frame by frame: one that cannot be read takes none of the others along.

ASE's own reading of a compressed file is quadratically slow, since it seeks backwards in the
stream; here the text is cut into frames first.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import ase.io
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.errors import StructureError
from mekrr_scale.structures.unreadable import Unreadable

_FRAMES_AT_ONCE = 32
_MOST_ATOMS = 10**9  # of one frame
_PROPERTIES = re.compile(r'(?i)\bProperties="?([^\s"]+)')
_COUNT = re.compile(r"\s*\d+\s*\Z")
_LONGEST_COUNT = 12  # characters; a line that holds one number alone begins a frame
_STRESS = re.compile(r"(?<![\w-])stress=")
_HIDDEN = "mekrr_scale_stress"  # a name that ASE does not parse itself
_FORTRAN = re.compile(r"(?<=[\d.])[dD](?=[-+]?\d)")


@dataclass(frozen=True)
class Block:
    """The text of a frame (a line with the number of atoms, a comment, the atoms), or what is wrong with it."""

    text: str
    line: int  # of the file, where it begins
    fault: str = ""


def blocks(stream: Iterable[str]) -> Iterator[Block]:
    """The frames of a file; after a fault the next line with a number of atoms begins a frame."""
    lines = _Lines(stream)
    for head in lines:
        if not head.strip():
            continue
        line = lines.number
        if not _COUNT.match(head):
            yield Block("", line, f"line {line}: expected a number of atoms, found {head.strip()[:40]!r}")
            lines.skip()
            continue
        size = int(head)
        if size > _MOST_ATOMS:
            yield Block("", line, f"line {line}: {head.strip()[:40]} is not a number of atoms of a frame")
            lines.skip()
            continue
        body = list(islice(lines, size + 1))
        short = next((k for k, text in enumerate(body) if k and len(text) < _LONGEST_COUNT and _COUNT.match(text)), 0)
        if short:
            lines.put_back(body[short:])
            yield Block("", line, f"line {line}: {size} atoms announced, {short - 1} found")
        elif len(body) < size + 1:
            yield Block("", line, f"the file ends in the middle of a frame (line {line}: {size} atoms announced)")
        else:
            text = "".join([head, *body[:-1], body[-1].rstrip("\n") + "\n"])
            yield Block(text, line, _missing_columns(body, line))


def _missing_columns(body: list[str], line: int) -> str:
    """What is wrong with a header that announces columns which are not there: they would cost memory without end."""
    found = _PROPERTIES.search(body[0])
    if found is None or len(body) < 2:
        return ""
    counts = found[1].split(":")[2::3]
    there = len(body[1].split())
    if not all(count.isdecimal() for count in counts) or sum(map(int, counts)) <= there:
        return ""
    return f"line {line + 1}: the header announces {sum(map(int, counts))} columns, {there} are there"


def read_xyz(stream: Iterable[str], path: Path, keep_unreadable: bool) -> Iterator[Atoms]:
    """The structures of a file.

    Args:
        keep_unreadable: give ``Unreadable`` in the place of frames that cannot be read.

    Raises:
        StructureError: a frame that cannot be read; it is named.
    """
    found = blocks(stream)
    index = 0
    while chunk := list(islice(found, _FRAMES_AT_ONCE)):
        for atoms in _parsed(chunk):
            if isinstance(atoms, Unreadable) and not keep_unreadable:
                raise StructureError(
                    f"{path}, structure {index}: {atoms.reason}. Correct the file, or name its format with --format"
                )
            index += 1
            yield atoms


def _parsed(chunk: list[Block]) -> list[Atoms]:
    if not any(block.fault for block in chunk):
        try:
            found = _read("".join(block.text for block in chunk))
            if len(found) == len(chunk):
                return found
        except Exception:  # ASE raises anything; the frames are read one by one then
            pass
    return [_one(block) for block in chunk]


def _one(block: Block) -> Atoms:
    if block.fault:
        return Unreadable(block.fault)
    try:
        return _read(block.text)[0]
    except Exception as error:
        try:
            return _repaired(block.text)
        except Exception:
            return Unreadable(f"line {block.line}: the frame cannot be read ({type(error).__name__}: {error})")


def _repaired(text: str) -> Atoms:
    """Numbers in Fortran's notation among the atoms; a stress that is no 3 x 3 matrix is left to ``read_labels``."""
    head, comment, atoms_lines = text.split("\n", 2)
    (atoms,) = _read(f"{head}\n{_STRESS.sub(f'{_HIDDEN}=', comment)}\n{_FORTRAN.sub('E', atoms_lines)}")
    stress = atoms.info.pop(_HIDDEN, None)
    if stress is not None:
        atoms.calc = atoms.calc or SinglePointCalculator(atoms)
        atoms.calc.results["stress"] = stress
    return atoms


def _read(text: str) -> list[Atoms]:
    return cast(list[Atoms], ase.io.read(io.StringIO(text), ":", format="extxyz"))


class _Lines:
    """Lines of a stream, counted; those taken too much are put back."""

    def __init__(self, stream: Iterable[str]) -> None:
        self.stream = iter(stream)
        self.number = 0
        self.back: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.back.pop() if self.back else next(self.stream)
        self.number += 1
        return line

    def put_back(self, lines: list[str]) -> None:
        self.back += lines[::-1]
        self.number -= len(lines)

    def skip(self) -> None:
        """To the next line that may begin a frame."""
        for line in self:
            if _COUNT.match(line):
                self.put_back([line])
                return

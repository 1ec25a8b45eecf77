"""Where the structures of an extraction come from: files, or memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import xxhash
from ase import Atoms

from mekrr_scale.errors import StructureError, unexpected
from mekrr_scale.files import file_hash, path_of, split_frames
from mekrr_scale.structures.electrons import CHARGE, SPIN, said
from mekrr_scale.structures.labels import geometry_hash
from mekrr_scale.structures.reading import count_structures, read_structures, require_file

T = TypeVar("T")
_EXPECTED = "a file or a structure (ase.Atoms), or a list of files or of structures,"
Frames: TypeAlias = Path | str | Atoms | Iterable[Atoms] | Sequence[Path | str]


def structures_from(given: Frames, format: str | None = None, keep_unreadable: bool = False) -> Iterable[Atoms]:
    """Structures of whatever a caller has: paths, one structure, or many (streamed where they are an iterator).

    Args:
        format: ASE's name of the files' format, where their names do not tell.
        keep_unreadable: see ``read_structures``.

    Raises:
        StructureError: a file that is not there or cannot be read; what is neither.
    """
    if isinstance(given, Atoms):
        return [given]
    if isinstance(given, str | Path):
        return read_structures(given, format, keep_unreadable)
    if isinstance(given, Sequence) and given and not isinstance(given[0], Atoms):
        return read_structures(Inputs.of(list(given), format).files, format, keep_unreadable)
    return _several(given)


def _several(given: Iterable[T]) -> Iterable[T]:
    if isinstance(given, Iterable):
        return given
    raise StructureError(unexpected(given, _EXPECTED))


@dataclass(frozen=True)
class Inputs:
    """Structures, of files or of a list; frames that cannot be read are ``Unreadable``."""

    files: Sequence[Path]
    atoms: Sequence[Atoms]
    format: str | None  # ASE's name, where a file's name does not tell

    @classmethod
    def of(cls, given: Frames, format: str | None) -> Inputs:
        """From paths or structures.

        Raises:
            StructureError: a file that is not there, both at once, or neither.
        """
        items = [given] if isinstance(given, str | Path | Atoms) else list(_several(given))
        atoms = [item for item in items if isinstance(item, Atoms)]
        files = [path_of(item, _EXPECTED, StructureError) for item in items if not isinstance(item, Atoms)]
        if bool(atoms) == bool(files):
            raise StructureError("give files or structures, one of the two")
        for file in files:
            require_file(file)
        return cls(files, atoms, format)

    def __iter__(self) -> Iterator[Atoms]:
        return iter(self.atoms) if self.atoms else read_structures(self.files, self.format, keep_unreadable=True)

    def named(self) -> Iterator[tuple[str, Atoms]]:
        """Each structure with the path of its file, or ``memory``."""
        if self.atoms:
            yield from (("memory", atoms) for atoms in self.atoms)
        for file in self.files:
            source = str(file.resolve())
            yield from ((source, atoms) for atoms in read_structures(file, self.format, keep_unreadable=True))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that is read: the files' bytes and chosen frames, or what structures in memory are."""
        digest = xxhash.xxh3_128()
        for atoms in self.atoms:
            digest.update(geometry_hash(atoms).to_bytes(8, "little"))
        for given in self.files:
            path, choice = split_frames(given)
            for file in _bytes_of(path):
                digest.update(file_hash(file, "xxh3_128").encode())
            digest.update(b"" if choice is None else repr(choice).encode())
        return digest.hexdigest()

    @cached_property
    def calculated(self) -> str:
        """``fingerprint``, where a calculator looks at more than the geometry of structures in memory.

        That is charge and spin, charges and moments of atoms to begin with, and a cell around what is not periodic.
        """
        found: list[str] = []
        for place, atoms in enumerate(self.atoms):
            seen = {name: atoms.arrays[name] for name in ("initial_charges", "initial_magmoms") if atoms.has(name)}
            seen |= {name: said(atoms, names) for name, names in (("charge", CHARGE), ("spin", SPIN))}
            seen["cell"] = atoms.cell.array[~atoms.pbc]
            given = {name: np.asarray(value).tolist() for name, value in seen.items() if np.any(value)}
            found += [f"{place} {given}"] if given else []
        return xxhash.xxh3_128_hexdigest(f"{self.fingerprint} {found}".encode()) if found else self.fingerprint

    @property
    def sources(self) -> tuple[str, ...]:
        """Paths of the files, or ``memory``."""
        return tuple(str(file.resolve()) for file in self.files) or ("memory",)

    @property
    def name(self) -> str:
        """For rejects."""
        return self.files[0].name if len(self.files) == 1 else "input"

    @cached_property
    def origin(self) -> str:
        """For shards: inputs of one name are told apart by their first bytes; paths differ between machines."""
        if not self.files:
            return "memory"
        digest = xxhash.xxh3_64()
        for file in self.files:
            for part in _bytes_of(split_frames(file)[0]):
                with part.open("rb") as stream:
                    digest.update(stream.read(65536))
        return f"{self.files[0].name}#{digest.hexdigest()}"

    def count(self) -> int | None:
        """Structures in all, where that can be told without reading them."""
        if self.atoms:
            return len(self.atoms)
        counts = [count_structures(file, self.format) for file in self.files]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None


def _bytes_of(path: Path) -> list[Path]:
    """A file, or the files of a folder, which some formats are."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]

"""ASE's databases: SQLite (``.db``) and LMDB (``.aselmdb``)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
from ase import Atoms

from mekrr_scale.errors import StructureError

_ARRAYS = "mekrr_scale_arrays"  # in a row's data: names of those of it that are arrays of the atoms
_COLUMNS = frozenset(("numbers", "positions", "momenta", "masses", "tags", "initial_magmoms", "initial_charges"))


@contextmanager
def database_of(path: Path) -> Iterator[Any]:
    """Of an empty file, or one of another program's, ASE would make its own in the file."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as plain:
        if plain.execute("SELECT 1 FROM sqlite_master WHERE name = 'systems'").fetchone() is None:
            raise StructureError(f"{path} is no database of ASE's: it has no table of systems")
    with ase.db.connect(path, type="db") as database:
        yield database


@contextmanager
def lmdb_database_of(path: Path) -> Iterator[Any]:
    """A database of ASE's in one file of LMDB, which is not written to.

    Raises:
        StructureError: what reads it is not installed, or it is no such file.
    """
    try:
        import ase_db_backends.aselmdb  # noqa: F401
        import lmdb
    except ImportError:
        raise StructureError(f"{path}: LMDB databases need a package more: pip install 'mekrr-scale[lmdb]'") from None
    if path.is_dir():
        raise StructureError(f"{path} is a folder; ASE's LMDB databases are single files (.aselmdb)")
    try:
        with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as plain, plain.begin() as transaction:
            ours = transaction.get(b"nextid") is not None
    except lmdb.Error as error:
        raise StructureError(f"{path} is no LMDB database: {error}") from error
    if not ours:
        raise StructureError(f"{path} is no database of ASE's, but of another program's LMDB; convert it there")
    with ase.db.connect(path, type="aselmdb", readonly=True) as database:
        yield database


def atoms_of_row(row: Any) -> Atoms:
    """A structure with what the package has put into its row (``data_of``)."""
    atoms = row.toatoms()
    atoms.info |= row.key_value_pairs
    data: Mapping[str, Any] = row.data if _ARRAYS in row.data else {}
    for key, value in data.items():
        if key in data[_ARRAYS]:
            atoms.arrays[key] = np.asarray(value)
        elif key != _ARRAYS:
            atoms.info.setdefault(key, value)
    return atoms


def data_of(atoms: Atoms) -> dict[str, Any]:
    """What a database has no columns for."""
    found = {key: value for key, value in atoms.info.items() if isinstance(value, str | int | float | np.ndarray)}
    arrays = {key: value for key, value in atoms.arrays.items() if key not in _COLUMNS}
    return found | arrays | {_ARRAYS: list(arrays)}

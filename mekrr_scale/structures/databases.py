"""ASE's databases: SQLite (``.db``), JSON (``.json``) and LMDB (``.aselmdb``)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.db.core import check, object_to_bytes
from ase.db.row import AtomsRow

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
def json_database_of(path: Path) -> Iterator[Any]:
    """A database of ASE's in a text."""
    with ase.db.connect(path, type="json", use_lock_file=False) as database:
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
    """A structure with what its row says of it: pairs of keys and values, and its data, in ``info``.

    Those who publish sets in databases mean it so (OMol25's charges and spins are data). Of others' data numbers, words
    and tables of them are taken, but for names of results, which would be taken for labels; what the package put
    there (``data_of``) comes back whole, arrays of the atoms too.
    """
    atoms = row.toatoms()
    atoms.info |= {key: vars(row)[key] for key in row.key_value_pairs}  # row[key] of charge, mass, ... is ASE's own
    data: Mapping[str, Any] = row.data
    for key, value in data.items():
        if key in data.get(_ARRAYS, ()):
            atoms.arrays[key] = np.array(value)
        elif key != _ARRAYS and (_ARRAYS in data or (key not in all_properties and _is_table(value))):
            atoms.info.setdefault(key, value)
    return atoms


def _is_table(value: Any) -> bool:
    """Whether every format of frames holds it: not where rows are unequally long."""
    try:
        return np.asarray(value).dtype.kind in "biufU"
    except ValueError:
        return False


def write_row(database: Any, atoms: Atoms) -> None:
    """Put a structure into a database, with all that it carries."""
    database.write(atoms, key_value_pairs=_pairs(atoms), data=data_of(atoms))


def data_of(atoms: Atoms) -> dict[str, Any]:
    """What a database has no columns for; values that it cannot hold are left out."""
    arrays = {key: _held(value) for key, value in atoms.arrays.items() if key not in _COLUMNS}
    found = {str(key): _held(value) for key, value in atoms.info.items()} | arrays
    return {key: value for key, value in found.items() if _can_be_held(value)} | {_ARRAYS: list(arrays)}


def _held(value: Any) -> Any:
    """A value in the types that a database knows: of numpy's, arrays of numbers."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value if value.dtype.kind in "biufc" else _held(value.tolist())
    if isinstance(value, list | tuple):
        return [_held(item) for item in value]
    return {str(key): _held(item) for key, item in value.items()} if isinstance(value, dict) else value


def _can_be_held(value: Any) -> bool:
    try:
        object_to_bytes(value)
    except (AssertionError, AttributeError, TypeError, ValueError):
        return False
    return True


def _pairs(atoms: Atoms) -> dict[str, Any]:
    """What a database finds structures by: numbers and words under names that mean nothing else there."""
    found = {}
    for key, value in atoms.info.items():
        if key in _COLUMNS or hasattr(AtomsRow, str(key)):  # charge, mass, ...: readers would be given ASE's own
            continue
        plain = value.item() if isinstance(value, np.generic) else value
        with suppress(TypeError, ValueError):
            check({key: plain})
            found[key] = plain
    return found

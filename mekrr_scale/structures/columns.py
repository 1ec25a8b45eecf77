"""Values of labels as files hold them: numbers in any notation, and names that nearly are those looked for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from ase import Atoms
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.errors import StructureError

Kind = Literal["energy", "forces", "stress"]

_FORTRAN = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+))(?:[dDqQ]([-+]?\d+)|([-+]\d+))")  # 1.5D+02, and 1.5-102
_PART: Mapping[Kind, tuple[str, ...]] = {
    "energy": ("energ", "etot", "e_tot", "toten", "enthalpy"),
    "forces": ("force", "frc"),
    "stress": ("stress", "virial", "pressure"),
}
_LETTERS: Mapping[Kind, tuple[str, ...]] = {"energy": ("e", "e0"), "forces": ("f",), "stress": ()}
PREDICTED = "predicted_"  # how names begin under which dynamics keep what the model says: no labels
_SIZES: Mapping[Kind, tuple[int, ...]] = {"energy": (1,), "forces": (), "stress": (6, 9)}


def numbers(value: Any, what: str) -> Float64[ndarray, "..."]:
    """A label as numbers: also text in Fortran's notation.

    Raises:
        StructureError: text that is no number, or truth values.
    """
    if np.asarray(value).dtype != np.bool_:
        try:
            return np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            pass
    words = str(value).split() if isinstance(value, str) else np.asarray(value).astype(str).ravel().tolist()
    found = [_number(word) for word in words]
    if not found or None in found:
        shown = str(value) if len(str(value)) < 40 else f"{str(value)[:37]}..."
        raise StructureError(f"{what} is {shown!r}, which is no number; correct the frame, or leave it out")
    array = np.array(found, dtype=np.float64)
    return array.reshape(np.shape(value)) if not isinstance(value, str) else array.reshape(-1)


def _number(word: str) -> float | None:
    fortran = _FORTRAN.fullmatch(word)
    try:
        return float(f"{fortran[1]}e{fortran[2] or fortran[3]}" if fortran else word)
    except ValueError:
        return None


def is_virial(key: str | None) -> bool:
    """Whether a column of this name holds a virial (eV), not a stress."""
    return key is not None and "virial" in key.lower() and "stress" not in key.lower()


def near_names(atoms: Atoms, results: Mapping[str, object], kind: Kind) -> list[str]:
    """Keys of a structure under which a label of a kind may stand, the likeliest first.

    >>> near_names(Atoms("H", info={"dft_energy": -1.0, "step": 3}), {}, "energy")
    ['dft_energy']

    A frame of the package's dynamics has none, whatever its names.

    >>> near_names(Atoms("H", info={"predicted_energy": -1.0, "total_energy": -0.9}), {}, "energy")
    []
    """
    if any(str(key).startswith(PREDICTED) for key in (*atoms.info, *atoms.arrays)):
        return []
    if kind == "forces":
        places = {**atoms.arrays, **results}
        fits = [str(key) for key, value in places.items() if key != "positions" and np.shape(value) == (len(atoms), 3)]
    else:
        fits = [str(key) for key, value in {**atoms.info, **results}.items() if _size(value) in _SIZES[kind]]
    return sorted((key for key in fits if _alike(key, kind)), key=lambda key: (-_closeness(key, kind), key))


def _size(value: Any) -> int:
    return len(value.split()) if isinstance(value, str) else int(np.size(value))


def _alike(key: str, kind: Kind) -> bool:
    lower = key.lower()
    return (
        any(part in lower for part in _PART[kind]) or lower in _LETTERS[kind] or _closeness(key, kind) > 0.8
    ) and lower != "momenta"


def _closeness(key: str, kind: Kind) -> float:
    return difflib.SequenceMatcher(None, key.lower(), kind).ratio()

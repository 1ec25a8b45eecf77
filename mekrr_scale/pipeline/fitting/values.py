"""What a person may write for the values of a plan: texts, lists, mappings by element or kind of rows. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pydantic import AfterValidator, BeforeValidator

from mekrr_scale.arrays import KINDS
from mekrr_scale.errors import ConfigError, require_known, suggestion
from mekrr_scale.plans import split


@dataclass(frozen=True)
class LengthScale:
    """A length scale, absolute or as a multiple of the median distance between atoms' features."""

    value: float
    relative: bool = True

    @classmethod
    def parse(cls, text: str | float | LengthScale) -> LengthScale:
        """From ``"4x"`` (four times the median) or a number.

        >>> LengthScale.parse("4x")
        LengthScale(value=4.0, relative=True)

        Raises:
            ConfigError: neither of the two, or not positive.
        """
        if isinstance(text, LengthScale):
            return text
        bare = str(text).strip()
        try:
            value = float(bare.removesuffix("x"))
        except ValueError:
            value = math.nan
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(
                f"length scale {text!r}: give a positive number, or a multiple of the median such as '4x'"
            )
        return cls(value, bare.endswith("x"))

    def __str__(self) -> str:
        if not self.relative:
            return repr(self.value)
        short = f"{self.value:g}"
        return f"{short if float(short) == self.value else repr(self.value)}x"


def chosen(what: str, options: Mapping[str, str]) -> BeforeValidator:
    """A name of a registry."""

    def read(value: Any) -> Any:
        if isinstance(value, str):
            require_known(f"there is no {what}", value, options)
        return value

    return BeforeValidator(read)


def alpha(value: Any) -> float:
    """A mixing between 0 and 1."""
    found = float(value)
    if not 0.0 <= found <= 1.0:
        raise ConfigError(f"alpha is {found}; it mixes between 0 (all species alike) and 1 (apart)")
    return found


def _symbol(key: Any) -> str:
    """An element's symbol, from it or its atomic number."""
    from ase.data import atomic_numbers, chemical_symbols

    if str(key) in atomic_numbers:
        return str(key)
    if str(key).isdigit() and 0 < int(key) < len(chemical_symbols):
        return str(chemical_symbols[int(key)])
    raise ConfigError(f"{key!r} is not an element; write its symbol, e.g. Cu")


def _pairs(value: Any) -> Any:
    """A mapping, also from ``name=1,other=2``."""
    if not isinstance(value, str):
        return value
    found = {}
    for piece in filter(None, (piece.strip() for piece in value.split(","))):
        name, _, text = piece.partition("=")
        try:
            found[name.strip()] = float(text)
        except ValueError:
            raise ConfigError(f"{piece!r}: write name=number, separated by commas") from None
    return found


def by_symbol(value: Any) -> Any:
    """A mapping by element, also from atomic numbers, or from ``H=1,O=2``."""
    value = _pairs(value)
    return {_symbol(key): item for key, item in value.items()} if isinstance(value, Mapping) else value


def kernel_parameters(value: Any) -> Any:
    """Numbers, of which a degree is a whole one; lengths are candidates of their own."""
    value = _pairs(value)
    if not isinstance(value, Mapping):
        return value
    if lengths := sorted({"length_scale", "length_scales"} & set(value)):
        raise ConfigError(f"{lengths[0]} is no further parameter; give length scales (--length-scale) instead")
    try:
        found: dict[str, int | float] = {name: float(item) for name, item in value.items()}
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"parameters {value!r}: write numbers by name, e.g. offset = 2.0") from None
    if "degree" in found:
        if not float(found["degree"]).is_integer():
            raise ConfigError(f"degree {found['degree']}: write a whole number, e.g. degree = 2")
        found["degree"] = int(found["degree"])
    return found


def mixing_rows(value: Any) -> Any:
    """``learn``, rows of a matrix by element, or a ``SpeciesMixing`` with a matrix."""
    if hasattr(value, "matrix") and hasattr(value, "species"):
        value = dict(zip(value.species, value.matrix, strict=True))
    if value is None or value == "learn":
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"mixing {value!r}: write learn, or rows of a matrix by element, e.g. {{H = [1.0, 0.2], ...}}"
        )
    rows = {_symbol(key): split(row, float) for key, row in value.items()}
    matrix = list(rows.values())
    if any(len(row) != len(rows) for row in matrix):
        raise ConfigError(f"the species mixing matrix must be {len(rows)} x {len(rows)} for species {list(rows)}")
    if any(not math.isclose(matrix[i][j], matrix[j][i]) for i, j in combinations(range(len(rows)), 2)):
        raise ConfigError("the species mixing matrix is not symmetric")
    return rows


def _kind_name(key: Any, names: Sequence[str]) -> str:
    """A kind as people write it: a ``RowKind``, ``force`` or ``forces``."""
    name = str(getattr(key, "name", key)).lower()
    return name if name in names else name.removesuffix("s")


def by_kind(default: Mapping[str, object], convert: Callable[[Any], object]) -> BeforeValidator:
    """Weights by kind of rows, filled with defaults; also from a list in their order."""
    return BeforeValidator(lambda value: _by_kind(value, default, convert))


def named_by_kind(value: Any) -> dict[str, object]:
    """What is given by kind of rows, or as a list or text in their order, by the kinds' names.

    Raises:
        ConfigError: neither, or more than there are kinds.
    """
    names = [info.name for info in KINDS.values()]
    if isinstance(value, str):
        value = [piece.strip() for piece in value.split(",")]
    if isinstance(value, Mapping):
        return {_kind_name(key, names): item for key, item in value.items()}
    if isinstance(value, Sequence) and len(value) <= len(names):
        return dict(zip(names, value, strict=False))
    raise ConfigError(f"{value!r}: give a number for each kind of rows, {', '.join(names)}")


def _by_kind(value: Any, default: Mapping[str, object], convert: Callable[[Any], object]) -> dict[str, object]:
    names = [info.name for info in KINDS.values()]
    given = named_by_kind(value)
    for key in given:
        if key not in names:
            raise ConfigError(f"there is no kind of rows {key!r}. {suggestion(key, names)}")
    found = {name: _converted(given.get(name, default[name]), default[name], convert) for name in names}
    for name, weights in found.items():
        for weight in weights if isinstance(weights, tuple) else (weights,):
            if not 0.0 <= weight < math.inf:
                raise ConfigError(f"weight {weight} of {name} rows: give a number from 0, which leaves them out")
    return found


_LABELLED = 3  # kinds that sigmas are given for: energy, force, virial


def factors_by_config(value: Any) -> Any:
    """Factors by configuration type, one for each kind: also from ``bulk=10,liquid:force=0.1``.

    A key before the type (``config_type:bulk=10``) may be written; which one it is, extraction has settled.

    >>> {name: found[:3] for name, found in factors_by_config("config_type:bulk=10,liquid:force=0.1").items()}
    {'bulk': (10.0, 10.0, 10.0), 'liquid': (1.0, 0.1, 1.0)}
    """
    names = [info.name for info in KINDS.values()]
    if isinstance(value, str):
        value = _typed_pairs(value, names)
    if not isinstance(value, Mapping):
        raise ConfigError(f"weights {value!r}: write them by configuration type, e.g. bulk=10")
    return {str(name): tuple(_by_kind(_all_kinds(item, names), dict.fromkeys(names, 1.0), number).values())
            for name, item in value.items()}  # fmt: skip


def _all_kinds(item: Any, names: Sequence[str]) -> Any:
    return dict.fromkeys(names, item) if isinstance(item, int | float) else item


def _typed_pairs(text: str, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """``type=number`` or ``type:kind=number``, separated by commas."""
    found: dict[str, dict[str, float]] = {}
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        left, _, given = piece.rpartition("=")
        parts = [part.strip() for part in left.split(":")]
        kinds = [_kind_name(parts.pop(), names)] if len(parts) > 1 and _kind_name(parts[-1], names) in names else names
        try:
            found.setdefault(parts[-1], {}).update(dict.fromkeys(kinds, float(given)))
        except ValueError:
            raise ConfigError(
                f"{piece!r}: write type=number or type:kind=number, e.g. bulk=10, liquid:force=0.1"
            ) from None
        if not parts[-1] or len(parts) > 2:
            raise ConfigError(f"{piece!r}: write type=number or type:kind=number, e.g. bulk=10, liquid:force=0.1")
    return found


def sigmas_by_config(value: Any) -> Any:
    """Expected errors by configuration type: energy (eV/atom), force (eV/angstrom), virial (eV/atom).

    >>> sigmas_by_config("default=0.001:0.1:0.05,liquid=0.003:0.3")
    {'default': (0.001, 0.1, 0.05), 'liquid': (0.003, 0.3, 0.05)}
    """
    if isinstance(value, str):
        pairs = (piece.partition("=") for piece in value.split(",") if piece.strip())
        value = {name.strip(): text.split(":") for name, _, text in pairs}
    if not isinstance(value, Mapping):
        raise ConfigError(f"sigmas {value!r}: write them by configuration type, e.g. default=0.001:0.1:0.05")
    listed = {str(name): split(item, float) for name, item in value.items()}
    for name, given in listed.items():
        if not 1 <= len(given) <= _LABELLED or not all(0 < sigma < math.inf for sigma in given):
            raise ConfigError(
                f"sigma of {name}: {given}; write energy:force:virial, each above zero, e.g. 0.001:0.1:0.05"
            )
    if listed and len(listed.get("default", ())) != _LABELLED:
        raise ConfigError("sigmas are relative to those of 'default', which needs all three: default=0.001:0.1:0.05")
    return {name: (*given, *listed["default"][len(given) :]) for name, given in listed.items()}


def comparison(value: Any) -> Any:
    """``balanced``, ``summed`` (the default weights of the sum), or weights by kind."""
    if value == "balanced":
        return value
    if isinstance(value, str) and value.strip().isalpha() and value != "summed":
        raise ConfigError(f"criterion {value!r}: write balanced, summed, or weights by kind such as 1,1e-4,0")
    return _by_kind(DEFAULT_CRITERION if value == "summed" else value, DEFAULT_CRITERION, number)


def _converted(value: Any, default: object, convert: Callable[[Any], object]) -> object:
    """Of one kind; where nothing is the default (what stores hold decides), nothing may be given too."""
    nothing = default == () and isinstance(value, Sequence) and not value and not isinstance(value, str)
    return default if nothing else convert(value)


def numbers(value: Any) -> tuple[float, ...]:
    """Candidates for a weight."""
    found = split(value, float)
    if not found:
        raise ConfigError("a kind of rows has no weight; give at least one")
    return found


DEFAULT_WEIGHTS = {info.name: info.weights for info in KINDS.values()}
DEFAULT_CRITERION = {info.name: info.criterion for info in KINDS.values()}


def number(value: Any) -> float:
    """One number."""
    (found,) = split([value], float)
    return found


def nonempty(name: str) -> AfterValidator:
    """Refuse a list without candidates."""

    def read(value: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if value is not None and not value:
            raise ConfigError(f"{name} is empty; give at least one")
        return value

    return AfterValidator(read)

"""Keywords and keys of version 0.1.0, for one release: flat fields of ``FitPlan``, and the keys of its TOML files."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_Table = dict[str, Any]  # a TOML file, or keywords
_Opened = Callable[[str, object], _Table]  # the section that one value stands for, by the section's name

# flat field of FitPlan -> (section, field) of the nested one
_FIELDS: dict[str, tuple[str, str]] = {
    "kernel_parameters": ("kernel", "parameters"),
    "length_scales": ("kernel", "length_scales"),
    "alphas": ("kernel", "alphas"),
    "mixing": ("kernel", "mixing"),
    "learn_mixing": ("kernel", "mixing"),
    "reduce": ("kernel", "reduce"),
    "standardize": ("kernel", "standardize"),
    "baselines": ("baseline", "kinds"),
    "isolated": ("baseline", "isolated"),
    "n_landmarks": ("landmarks", "count"),
    "warm": ("landmarks", "model"),
    "balance": ("landmarks", "balance"),
    "ridges": ("solver", "ridges"),
    "falkon": ("solver", ""),
    "folds": ("validation", "folds"),
    "energy_weights": ("rows", "weights.energy"),
    "force_weights": ("rows", "weights.force"),
    "stress_weights": ("rows", "weights.stress"),
    "store_weights": ("rows", "store_weights"),
    "use_derivatives": ("rows", "derivatives"),
    "cut": ("rows", "cut"),
    "whitening": ("rows", "whitening"),
    "select": ("validation", "criterion"),
    "uncertainty": ("validation", "uncertainty"),
    "device": ("execution", "device"),
    "memory_bytes": ("execution", "memory"),
    "scratch": ("execution", "scratch"),
}

# key of a TOML file -> dotted key today
_KEYS = {
    "validate": "validation.folds",
    "store_weight": "rows.store_weights",
    "uncertainty": "validation.uncertainty",
    "kernel.length_scale": "kernel.length_scales",
    "kernel.alpha": "kernel.alphas",
    "baseline.kind": "baseline.kinds",
    "solver.ridge": "solver.ridges",
    "solver.energy_weight": "rows.weights.energy",
    "solver.force_weight": "rows.weights.force",
    "solver.stress_weight": "rows.weights.stress",
    "solver.select": "validation.criterion",
    "solver.derivatives": "rows.derivatives",
    "solver.cut": "rows.cut",
    "solver.whitening": "rows.whitening",
    "solver.device": "execution.device",
    "solver.memory": "execution.memory",
    "solver.scratch": "execution.scratch",
}


def flat_keywords(opened: _Opened) -> Callable[[type[T]], type[T]]:
    """Makes a nested plan take the flat keywords of version 0.1.0, too, also from ``dataclasses.replace``.

    Args:
        opened: the section that one value stands for, by the section's name.
    """
    return functools.partial(_with_flat, opened)


def _with_flat(opened: _Opened, cls: type[T]) -> type[T]:
    nested = cls.__init__

    def __init__(self: Any, *args: Any, **given: Any) -> None:  # noqa: N807  it becomes the class's
        old = {name: given.pop(name) for name in _FIELDS if name in given}
        if old:
            new = sorted({".".join(filter(None, _FIELDS[name])) for name in old})
            warnings.warn(
                f"FitPlan({', '.join(f'{name}=...' for name in old)}) is deprecated: use its parts {', '.join(new)}, "
                "e.g. FitPlan(landmarks={'count': 800}, kernel={'alphas': (0.5, 1)})",
                DeprecationWarning,
                stacklevel=2,
            )
            given |= _nested(given, old, opened)
        nested(self, *args, **given)

    cls.__init__ = functools.wraps(nested)(__init__)  # type: ignore[method-assign]
    return cls


def _nested(given: Mapping[str, object], old: _Table, opened: _Opened) -> _Table:
    """Sections with old fields put into them."""
    if old.pop("learn_mixing", False):
        old["mixing"] = "learn"
    sections = {name: _as_dict(name, given.get(name), opened) for name in {_FIELDS[name][0] for name in old}}
    options = old.pop("falkon", {})
    for name, value in old.items():
        section, field = _FIELDS[name]
        inner, _, kind = field.partition(".")
        own = sections[section]
        own[inner] = {**_as_dict(inner, own.get(inner), opened), kind: value} if kind else value
    if options and sections["solver"].get("name") == "falkon":  # others passed them over
        sections["solver"] |= options
    return sections


def _as_dict(section: str, value: Any, opened: _Opened) -> _Table:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    value = value() if isinstance(value, type) else value
    if not hasattr(value, "__dataclass_fields__"):
        return opened(section, value)
    found = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {"name": value.name, **found} if section == "solver" else found


def moved_keys(data: Mapping[str, object], path: Path, opened: _Opened, solver: object = None) -> _Table:
    """A TOML file's data under the keys of today.

    Args:
        opened: the section that one value stands for, by the section's name.
        solver: the flag's, which goes before the file's.
    """
    found: _Table = {}
    moved = []
    given = _flattened(data)
    solver = solver or dict(given).get("solver.name")
    for key, value in given:
        new = _KEYS.get(key)
        if key.startswith("solver.falkon."):
            new = key.replace("solver.falkon.", "solver.")
            if solver != "falkon":
                continue  # 0.1.0 passed them over
        if new is not None:
            moved.append(f"{key} is now {new}")
        *names, last = (new or key).split(".")
        place = found
        for name in names:
            place[name] = _as_dict(name, place.get(name), opened)
            place = place[name]
        held = place.get(last)
        begun = held if isinstance(held, dict) and (not names or last == "weights") else None  # by old keys
        place[last] = value if begun is None else {**_as_dict(last, value, opened), **begun}
    if moved:
        warnings.warn(f"{path}: {'; '.join(moved)}", DeprecationWarning, stacklevel=2)
    return found


def _flattened(data: Mapping[str, object]) -> list[tuple[str, object]]:
    """Dotted keys; tables of free names (isolated, mixing, parameters, weights) stay whole."""
    found: list[tuple[str, object]] = []
    for key, value in data.items():
        if not isinstance(value, Mapping):
            found.append((key, value))
            continue
        for name, item in value.items():
            if key == "solver" and name == "falkon" and isinstance(item, Mapping):
                found += [(f"solver.falkon.{option}", setting) for option, setting in item.items()]
            else:
                found.append((f"{key}.{name}", item))
    return found

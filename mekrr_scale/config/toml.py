"""TOML files and flags to the plan of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from mekrr_scale import solvers
from mekrr_scale.arrays import KINDS
from mekrr_scale.deprecated import moved_keys
from mekrr_scale.errors import ConfigError, suggestion
from mekrr_scale.files import read_toml
from mekrr_scale.pipeline import FitPlan, section_of
from mekrr_scale.plans import fields_of, sections, to_dict

_Table = dict[str, Any]  # of a file
_OWN = ("store", "output")  # keys of the file that are not the plan's


@dataclass(frozen=True)
class FitConfig:
    """A whole fit: from where, what, to where."""

    store: tuple[str, ...]
    plan: FitPlan
    output: str = "model.mekrr"


def load_config(path: Path | None, flags: Mapping[str, object] | None = None) -> FitConfig:
    """A configuration from a TOML file, flags on top; relative paths in it count from the file.

    Args:
        flags: dotted keys, e.g. ``{"kernel.alphas": "0.5,1"}``; None values are passed over.

    Raises:
        ConfigError: no such file, broken TOML, an unknown key (the closest is named) or a bad value.
    """
    flags = flags or {}
    data = {} if path is None else _read(path, flags.get("solver.name"))
    for key, value in flags.items():
        if value is not None:
            _put(data, key, value)
    place = "" if path is None else f"{path}: "
    _check_keys(data, place)
    if not data.get("store"):
        raise ConfigError(f"{place}'store' is missing; name it in the file or on the command line")
    own = {name: data.pop(name) for name in _OWN if name in data}
    try:
        plan = FitPlan(**data)
    except ConfigError as error:
        raise ConfigError(f"{place}{_by_key(str(error))}") from error
    return FitConfig(tuple(map(str, _listed(own["store"]))), plan, str(own.get("output", FitConfig.output)))


def config_text(config: FitConfig, about: str = "") -> str:
    """A whole fit as TOML, which ``load_config`` reads; what is as by default is written, too.

    Args:
        about: a comment at the top.
    """
    document = {"store": list(config.store), "output": config.output, **_without_nothing(to_dict(config.plan))}
    if config.plan.execution.scratch is None:
        document["execution"]["scratch"] = "none"
    return "".join(f"# {line}\n" for line in about.splitlines()) + tomli_w.dumps(document)


def _without_nothing(table: Mapping[str, object]) -> _Table:
    """TOML has no word for nothing: what is left out takes its default, which it is but for the scratch folder."""
    return {
        key: _without_nothing(value) if isinstance(value, Mapping) else value
        for key, value in table.items()
        if value is not None
    }


def _read(path: Path, solver: object) -> _Table:
    data = moved_keys(read_toml(path), path, section_of, solver)
    if "store" in data:
        data["store"] = [_beside(path, "store", item) for item in _listed(data["store"])]
    if isinstance(data.get("landmarks"), dict) and "model" in data["landmarks"]:
        data["landmarks"]["model"] = _beside(path, "landmarks.model", data["landmarks"]["model"])
    execution = data.get("execution")
    if isinstance(execution, dict) and str(execution.get("scratch", "none")).lower() != "none":
        execution["scratch"] = _beside(path, "execution.scratch", execution["scratch"])
    if "output" in data:
        data["output"] = _beside(path, "output", data["output"])
    return data


def _beside(path: Path, key: str, value: object) -> str:
    """A path of the file, which counts from the file.

    Raises:
        ConfigError: it is no text.
    """
    if not isinstance(value, str) or not value or "\0" in value:
        raise ConfigError(f"{path}: {key} is {value!r}; write a path in quotes")
    return str(path.parent / value)


def _by_key(text: str) -> str:
    """A message that names keys in place of classes."""
    keys = {inner.__name__: f"{name}." for name, _, inner in sections(FitPlan) if inner is not None}
    keys |= {**dict.fromkeys(solvers.SOLVERS.values(), "solver."), "FitPlan": ""}
    made, dot, rest = text.partition(".")
    return f"{keys[made]}{rest}" if dot and made in keys else text


def _put(data: _Table, key: str, value: object) -> None:
    """Set a dotted key; a section that is one value so far (``solver = "falkon"``) becomes a table."""
    *names, last = key.split(".")
    place = data
    for name in names:
        found = place.setdefault(name, {})
        if not isinstance(found, dict):
            found = place[name] = section_of(name, found)
        place = found
    place[last] = value


def _kinds() -> list[str]:
    return [info.name for info in KINDS.values()]


def _check_keys(data: Mapping[str, object], place: str) -> None:
    """Refuse keys that no plan has.

    Raises:
        ConfigError: names the closest.
    """
    known = {name: inner for name, _, inner in sections(FitPlan)}
    for key, value in data.items():
        if key not in known and key not in _OWN:
            raise ConfigError(f"{place}unknown key {key!r}. {suggestion(key, [*known, *_OWN])}")
        if not isinstance(value, Mapping):
            continue
        inner = known.get(key)
        names = _solver_keys(value, place) if key == "solver" else set() if inner is None else set(fields_of(inner))
        for name, item in value.items():
            if name not in names:
                raise ConfigError(f"{place}unknown key {f'{key}.{name}'!r}. {suggestion(name, names)}")
            if (key, name) in (("rows", "weights"), ("validation", "criterion")) and isinstance(item, Mapping):
                kinds = _kinds()
                wrong = next((kind for kind in item if kind not in kinds), None)
                if wrong is not None:
                    raise ConfigError(f"{place}unknown key {f'{key}.{name}.{wrong}'!r}. {suggestion(wrong, kinds)}")


def _solver_keys(section: Mapping[str, object], place: str) -> set[str]:
    name = section.get("name", "direct")
    if not isinstance(name, str) or name not in solvers.SOLVERS:
        raise ConfigError(f"{place}there is no solver {name!r}. {suggestion(str(name), solvers.SOLVERS)}")
    return {"name", *fields_of(getattr(solvers, solvers.SOLVERS[name]))}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]

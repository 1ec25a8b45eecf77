"""A TOML file to the plan of a loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.errors import ConfigError, suggestion
from mekrr_scale.files import path_of, read_toml
from mekrr_scale.pipeline import ExtractPlan, FitPlan
from mekrr_scale.plans import fields_of, sections
from mekrr_scale.structures import LabelKeys
from mekrr_scale.workflows.plan import ExplorePlan, LearnPlan

_SECTIONS: Mapping[str, type] = {"explore": ExplorePlan, "features": ExtractPlan, "fit": FitPlan}
_PLAIN: Mapping[str, type] = {"keys": LabelKeys, "backbone": BackboneSpec}  # sections that are no plans


def load_learn_plan(path: Path | str) -> LearnPlan:
    """The plan of a TOML file; relative paths in it count from the file.

    Raises:
        ConfigError: no such file, broken TOML, an unknown key (the closest is named) or a bad value.
    """
    path = path_of(path, "a LearnPlan or the path of its file", ConfigError)
    data = read_toml(path)
    _check(data, LearnPlan, "", path)
    _place(data, path)
    try:
        return LearnPlan(**data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {_by_key(str(error))}") from error


def _check(data: Mapping[str, Any], cls: type, before: str, path: Path) -> None:
    """Refuse keys that no plan has.

    Raises:
        ConfigError: names the closest.
    """
    inner = {name: made for name, _, made in sections(cls) if made is not None}
    if cls is LearnPlan:
        inner |= _SECTIONS
    known = list(fields_of(cls))
    for key, value in data.items():
        if key not in known:
            raise ConfigError(f"{path}: unknown key {before + key!r}. {suggestion(key, known)}")
        if key in _PLAIN and isinstance(value, Mapping):
            names = list(_PLAIN[key].__dataclass_fields__)  # type: ignore[attr-defined]
            wrong = next((name for name in value if name not in names), None)
            if wrong is not None:
                raise ConfigError(f"{path}: unknown key {f'{before}{key}.{wrong}'!r}. {suggestion(wrong, names)}")
        elif key in inner and isinstance(value, Mapping):
            _check(value, inner[key], f"{before}{key}.", path)


def _place(data: dict[str, Any], path: Path) -> None:
    """Paths count from the file."""

    def placed(table: dict[str, Any], key: str) -> None:
        if isinstance(table.get(key), str):
            table[key] = str(path.parent / table[key])

    if isinstance(data.get("frames"), list):
        data["frames"] = [str(path.parent / one) if isinstance(one, str) else one for one in data["frames"]]
    for table, key in ((data, "frames"), (data, "test"), (data.get("explore"), "structures")):
        if isinstance(table, dict):
            placed(table, key)
    features, fit = (data[key] if isinstance(data.get(key), dict) else {} for key in ("features", "fit"))
    if _is_there(features.get("prior"), path):  # or the name of a backbone
        placed(features, "prior")
    if not str(features.get("compress")).isdigit():  # or a number of coordinates
        placed(features, "compress")
    checkpoint, model = (features.get("backbone"), "checkpoint"), (fit.get("landmarks"), "model")
    for section, key in (checkpoint, model, (fit.get("execution"), "scratch")):
        if isinstance(section, dict) and str(section.get(key)).lower() != "none":  # a word for no scratch
            placed(section, key)


def _is_there(name: object, path: Path) -> bool:
    return isinstance(name, str) and (path.parent / name).is_file()


def _by_key(text: str) -> str:
    """A message that names keys in place of classes."""
    keys = {cls.__name__: f"{name}." for name, cls in _SECTIONS.items()} | {"LearnPlan": ""}
    keys |= {made.__name__: f"fit.{name}." for name, _, made in sections(FitPlan) if made is not None}
    for name in keys:
        for mark in (f"{name}.", f"{name}: "):
            if text.startswith(mark):
                return keys[name] + text.removeprefix(mark)
    return text

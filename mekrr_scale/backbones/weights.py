"""Weights files of known sizes and plain tensors.

Two layouts are read, neither by running code: the package's own, and that of the Open Catalyst Project
(``state_dict``, ``config`` with ``model`` and ``model_attributes``, optional ``normalizers``; keys
prefixed with ``module.`` any number of times).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict, cast

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

from mekrr_scale.backbones.spec import Architecture
from mekrr_scale.backbones.trust import read_plain
from mekrr_scale.errors import BackboneError, ConfigError, suggestion
from mekrr_scale.files import Document, replacing, warn_unsealed
from mekrr_scale.outputs import BACKBONE, check_output

_OWN = "mekrr-scale "
_LOST = object()
HELD = Path("the model's own weights")  # what messages call weights that a model's file holds
Sizes: TypeAlias = Mapping[str, int | float]  # of a network, by their names
_MOST = 100_000  # of any size of a network
OCP_MAX_NEIGHBORS = 50  # the cap with which the Open Catalyst models were trained


class SavedScaling(TypedDict):
    """What a file says of ``Scaling``."""

    length: float
    energy: float
    references: Mapping[int, float]
    species: Sequence[int]


class Origin(TypedDict):
    """What a checkpoint of the Open Catalyst Project says besides sizes and weights."""

    kind: Literal["own", "ocp"]
    mean: float  # of the energy's normaliser, eV per structure
    std: float


class OwnFile(TypedDict):
    """A checkpoint of the package's own layout: a file, or what a model's file holds of its backbone."""

    format: str
    config: Architecture
    state_dict: Mapping[str, Tensor]
    scaling: NotRequired[SavedScaling]
    training: NotRequired[Document]
    origin: NotRequired[Origin]
    seal: NotRequired[str]


Source: TypeAlias = str | Path | OwnFile  # of weights


@dataclass(frozen=True)
class WeightsFile:
    """Sizes and weights of a network."""

    path: Path
    kind: Literal["own", "ocp"]
    sizes: Sizes
    weights: Mapping[str, Tensor]
    mean: float  # of the energy's normaliser, eV per structure
    std: float

    @classmethod
    def read(cls, path: Path, model: str, names: Sequence[str], optional: Sizes) -> WeightsFile:
        """Read a checkpoint of a model without running code.

        Args:
            model: its name, as ``save`` and the Open Catalyst Project write it.
            names: sizes that the configuration must have.
            optional: sizes that it may have, with what they are otherwise.

        Raises:
            BackboneError: no such file, not a checkpoint of this model, or sizes missing.
        """
        if not path.is_file():
            raise BackboneError(f"there is no checkpoint {path}; download it first (README, section backbones)")
        try:
            data = read_plain(path)
        except Exception as error:
            raise BackboneError(f"{path} is not a checkpoint that can be read without running code: {error}") from error
        return cls._of(_checked(data, path), path, model, names, optional)

    @classmethod
    def _of(cls, data: Any, path: Path, model: str, names: Sequence[str], optional: Sizes) -> WeightsFile:
        """From what was read.

        Raises:
            BackboneError: not a checkpoint of this model, or sizes missing.
        """
        if not isinstance(data, dict) or "state_dict" not in data or "config" not in data:
            keys = sorted(map(str, data))[:8] if isinstance(data, dict) else type(data).__name__
            raise BackboneError(f"{path} holds {keys}; a checkpoint of {model} has 'config' and 'state_dict'")
        own = _is_own(data)
        found = str(data["format"]).split()[1] if own else _ocp_name(data["config"])
        if model.replace("++", "") not in found.lower().replace("plusplus", "").replace("++", ""):
            raise BackboneError(f"{path} is a checkpoint of model {found!r}, not of {model}")
        attributes = cast(Sizes, data["config"]) if own else _ocp_attributes(data["config"])
        missing = [name for name in names if name not in attributes]
        if missing:
            raise BackboneError(f"the configuration in {path} lacks {', '.join(missing)}")
        sizes = {name: attributes[name] for name in names}
        sizes |= {name: attributes.get(name, default) for name, default in optional.items()}
        _check_sizes(sizes, str(path))
        target = (data.get("normalizers") or {}).get("target") or {}
        weights = {_bare(name): tensor for name, tensor in data["state_dict"].items()}
        told: Any = data.get("origin") or {"kind": "own" if own else "ocp", **target}
        return cls(path, told["kind"], sizes, weights, float(told.get("mean", 0.0)), float(told.get("std", 1.0)))

    @property
    def origin(self) -> Origin:
        """What its sizes and weights do not say."""
        return {"kind": self.kind, "mean": self.mean, "std": self.std}

    @classmethod
    def of(cls, source: Source | WeightsFile, model: str, names: Sequence[str], optional: Sizes) -> WeightsFile:
        """A checkpoint, read if it is a path."""
        if isinstance(source, WeightsFile):
            return source
        if isinstance(source, str | Path):
            return cls.read(Path(source), model, names, optional)
        return cls._of(source, HELD, model, names, optional)

    @classmethod
    def new(
        cls,
        model: str,
        build: Callable[[Sizes], nn.Module],
        defaults: Sizes,
        changes: Sizes,
    ) -> WeightsFile:
        """A network with random weights, as if it had been read.

        Raises:
            BackboneError: a size that the model does not have, or one that cannot be.
        """
        for name in changes:
            if name not in defaults:
                raise BackboneError(f"{model} has no size {name!r}. {suggestion(name, defaults)}")
        sizes = {name: type(default)(changes.get(name, default)) for name, default in defaults.items()}
        low = [f"{name}={value}" for name, value in sizes.items() if not value > 0]
        if low:
            raise BackboneError(f"sizes of {model} must be positive, not {', '.join(low)}")
        _check_sizes(sizes, model)
        return cls(Path(f"a new {model}"), "own", sizes, build(sizes).state_dict(), 0.0, 1.0)

    def neighbour_cap(self, asked: int | None) -> int | None:
        """Most neighbours of a centre: as asked (0 for no cap), else what the network was trained with."""
        cap = OCP_MAX_NEIGHBORS if asked is None and self.kind == "ocp" else asked
        return cap if cap and cap > 0 else None

    def fill(self, network: nn.Module, ignored: Sequence[str] = (), aliases: Mapping[str, str] | None = None) -> None:
        """Copy the weights by name.

        Args:
            ignored: names of weights that are of no use here.
            aliases: names under which a parameter may be instead.

        Raises:
            BackboneError: weights missing, too many, or of another shape.
        """
        wanted = network.state_dict()
        names = aliases or {}
        places = {name: (name, names.get(name, name)) for name in wanted}
        given = {name: self.weights[key] for name, keys in places.items() for key in keys if key in self.weights}
        absent = sorted(set(wanted) - set(given))
        surplus = sorted(set(self.weights) - set(wanted) - set(ignored))
        if absent or surplus:
            raise BackboneError(f"{self.path} does not fit its own sizes: missing {absent[:4]}, unknown {surplus[:4]}")
        wrong = [n for n, t in given.items() if t.shape != wanted[n].shape]
        if wrong:
            found, expected = tuple(given[wrong[0]].shape), tuple(wanted[wrong[0]].shape)
            raise BackboneError(f"{self.path}: {wrong[0]} has shape {found}, expected {expected}")
        network.load_state_dict(given)


def read_own(source: Source) -> OwnFile | None:
    """What a file of the package's own layout holds; None for any other file.

    Raises:
        BackboneError: it is damaged.
    """
    if not isinstance(source, str | Path):
        return source
    path = Path(source)
    if not path.is_file():
        return None
    try:
        data = read_plain(path)
    except Exception:  # of another layout, which may need code to be read
        return None
    return cast(OwnFile, _checked(data, path)) if _is_own(data) else None


def require_own(source: Source, model: str) -> OwnFile:
    """The same, of a given model.

    Raises:
        BackboneError: no such file, or a checkpoint of something else.
    """
    path = Path(source) if isinstance(source, str | Path) else HELD
    if path is not HELD and not path.is_file():
        raise BackboneError(f"there is no checkpoint {path}; train one with `mekrr-scale finetune`")
    data = read_own(source)
    if data is None:
        raise BackboneError(f"{path} is not a checkpoint that `mekrr-scale pretrain` or `finetune` wrote")
    found = data["format"].split()[1]
    if found != model:
        raise BackboneError(f"{path} is a checkpoint of backbone {found}, not of {model}; pass --backbone {found}")
    return data


def save(
    path: str | Path,
    model: str,
    network: nn.Module,
    config: Architecture,
    more: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a checkpoint of the package's own layout, atomically.

    Args:
        overwrite: a file that is there and no such checkpoint may be replaced.

    Raises:
        BackboneError: there is such a file, the name is one of another kind of file, or it cannot be written.
    """
    try:
        path = check_output(path, BACKBONE, overwrite)
    except ConfigError as error:
        raise BackboneError(f"cannot write the checkpoint: {error}") from error
    data = {**own_file(model, network, config), **(more or {})}
    data["seal"] = _seal(data)
    try:
        with replacing(path) as temporary:
            torch.save(data, temporary)
    except (OSError, RuntimeError) as error:
        raise BackboneError(f"cannot write the checkpoint {path}: {error}; choose a folder you may write to") from error


def own_file(model: str, network: nn.Module, config: Architecture) -> OwnFile:
    """What a checkpoint of the package's own layout holds of a network."""
    weights = {
        name: tensor.detach().cpu().clone()
        for name, tensor in network.state_dict().items()
        if "._tensor_constant" not in name
    }
    return {"format": f"{_OWN}{model} 1", "config": dict(config), "state_dict": weights}


def _is_own(data: Any) -> bool:
    """Whether what was read is of the package's own layout."""
    return isinstance(data, dict) and str(data.get("format", "")).startswith(_OWN)


def _checked(data: Any, path: Path) -> Any:
    """What was read, if it is what was written.

    Raises:
        BackboneError: a file of the package's own layout that is damaged.
    """
    if not _is_own(data):
        return data
    if "seal" not in data:
        warn_unsealed(path)
        return data
    try:
        whole = data["seal"] == _seal(data)
    except (TypeError, ValueError, AttributeError, KeyError, RuntimeError):  # nothing that was ever sealed
        whole = False
    if not whole:
        raise BackboneError(f"{path} is damaged (its checksum does not fit); copy it again, or train it again")
    return data


def _seal(data: Mapping[str, Any]) -> str:
    """Checksum over all that a file of the package's own layout holds.

    Raises:
        TypeError: something else than tensors and plain values; other errors where there are no tensors at all.
    """
    digest = xxhash.xxh3_128()
    plain = {str(key): value for key, value in data.items() if key not in ("state_dict", "seal")}
    digest.update(json.dumps(json.loads(json.dumps(plain)), sort_keys=True).encode())
    for name, tensor in sorted(data["state_dict"].items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def plain(value: Any) -> Any:
    """A configuration as plain values, which are read without running code; what has no such form is left out."""
    if isinstance(value, Mapping):
        named = {key: plain(item) for key, item in value.items() if isinstance(key, str | int)}
        return {key: item for key, item in named.items() if item is not _LOST}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return value.tolist()
    return value if value is None or isinstance(value, str | int | float | bool) else _LOST


def _check_sizes(sizes: Mapping[str, object], place: str) -> None:
    """Refuse sizes that no network has: building it would not end.

    Raises:
        BackboneError: names them.
    """
    wrong = [f"{name}={size}" for name, size in sizes.items() if not isinstance(size, int | float) or not size <= _MOST]
    if wrong:
        raise BackboneError(f"{place}: {', '.join(wrong)} is no size of a network (at most {_MOST})")


def _ocp_name(config: Document) -> str:
    model = config.get("model", "")
    return str(model.get("name", "")) if isinstance(model, Mapping) else str(model)


def _ocp_attributes(config: Document) -> Sizes:
    attributes = config.get("model_attributes", config.get("model"))
    return cast(Sizes, attributes if isinstance(attributes, Mapping) else {})


def _bare(name: str) -> str:
    """A parameter's name without the prefixes of parallel wrappers."""
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name

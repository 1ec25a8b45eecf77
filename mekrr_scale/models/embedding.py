"""What a model's file brings along so that it predicts in any folder: weights of networks, and what it corrects.

Weights that come in an installed wheel are not copied: the backbone's identity holds their name, version and hash. A
file that is not self-contained names checkpoints by their place beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from mekrr_scale.backbones import Backbone, OwnFile, weights_of
from mekrr_scale.models.choices import Document

_PAIRS = "pairs"  # of a mapping whose keys are numbers, which JSON would make text of


@dataclass(frozen=True)
class Weights:
    """A network's architecture and weights, without code."""

    document: Document  # all but tensors
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, backbone: Backbone, licence: str = "") -> Weights:
        """Those of a backbone.

        Args:
            licence: of the weights, in words, kept and shown.
        """
        found = cast("dict[str, Any]", weights_of(backbone))
        tensors = {name: tensor.contiguous() for name, tensor in found.pop("state_dict").items()}
        return cls({**_packed(found), "licence": licence}, tensors)

    @property
    def file(self) -> OwnFile:
        """As ``load_backbone`` takes it."""
        plain = _unpacked({key: value for key, value in self.document.items() if key != "licence"})
        return cast(OwnFile, {**plain, "state_dict": dict(self.tensors)})

    @property
    def licence(self) -> str:
        """What was said of it; empty: nothing."""
        return str(self.document.get("licence", ""))


def beside(document: Document, folder: Path) -> dict[str, Any]:
    """A specification, or a prior, as a file in a folder names it: paths from there."""

    def relative(path: str) -> str:
        try:
            return Path(os.path.relpath(Path(path).resolve(), folder.resolve())).as_posix()
        except ValueError:  # another drive
            return path

    return _places(document, relative)


def from_beside(document: Document, folders: Sequence[Path]) -> dict[str, Any]:
    """The inverse of ``beside``, by the first folder in which there is such a path."""

    def found(path: str) -> str:
        places = [os.path.normpath(folder.resolve() / path) for folder in folders]
        return next((place for place in places if os.path.exists(place)), places[0])

    return _places(document, found)


def _places(document: Document, change: Callable[[str], str]) -> dict[str, Any]:
    """With every path changed that a specification of a backbone or of a prior holds."""
    found: dict[str, Any] = dict(document)
    if found.get("checkpoint"):
        found["checkpoint"] = change(str(found["checkpoint"]))
    where = found.get("where")
    if isinstance(where, Mapping):
        place, network = where.get("path"), where.get("backbone")
        found["where"] = {
            "path": change(str(place)) if place else place,
            "backbone": _places(network, change) if isinstance(network, Mapping) else network,
        }
    return found


def _packed(value: Any) -> Any:
    """Plain values as JSON holds them, keys that are numbers included."""
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: _packed(item) for key, item in value.items()}
        return {_PAIRS: [[key, _packed(item)] for key, item in value.items()]}
    return [_packed(item) for item in value] if isinstance(value, list | tuple) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {_PAIRS}:
            return {key: _unpacked(item) for key, item in value[_PAIRS]}
        return {key: _unpacked(item) for key, item in value.items()}
    return [_unpacked(item) for item in value] if isinstance(value, list) else value

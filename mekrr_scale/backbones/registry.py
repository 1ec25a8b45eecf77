"""Backbones by name: which there are, what they take, and how to load them. What needs torch is imported then."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mekrr_scale import backbones
from mekrr_scale.backbones.spec import BackboneSpec, Given
from mekrr_scale.backbones.trust import trusting_code
from mekrr_scale.errors import BackboneError, require_known, suggestion, unexpected
from mekrr_scale.files import file_hash


def load_backbone(
    spec: BackboneSpec | str, trust_code: bool = False, weights: backbones.OwnFile | None = None, **options: Any
) -> backbones.Backbone:
    """Load a backbone by specification, or by name and options.

    ``load_backbone("chgnet:conv4")`` and ``load_backbone("chgnet", layer="conv4")`` are the same, and so are
    ``load_backbone("sevennet:gate1:norms")`` and ``load_backbone("sevennet", layer="gate1", invariants="norms")``.
    Torch's random state stays what it was, and its default dtype plays no part.

    Args:
        trust_code: the checkpoint is from where you trust; formats that hold code are read by running it.
        weights: what a model's file holds of the backbone, instead of a checkpoint.

    Raises:
        BackboneError: unknown name, an option that the adapter does not take, a missing package
            or checkpoint, a checkpoint with code that is not trusted.
    """
    from mekrr_scale.backbones.rescaled import rescaled
    from mekrr_scale.backbones.surroundings import building

    if isinstance(spec, str):
        unknown = sorted(set(options) - set(BackboneSpec.__dataclass_fields__))
        if unknown:
            names = set(BackboneSpec.__dataclass_fields__) - {"name", "sha256"}
            raise BackboneError(f"backbones take no option {unknown[0]!r}. {suggestion(unknown[0], names)}")
        spec = replace(BackboneSpec.parse(spec), **options)
    if not isinstance(spec, BackboneSpec):
        raise BackboneError(unexpected(spec, "a backbone's name or a BackboneSpec"))
    adapter, given = _asked(spec)
    source = spec.checkpoint if weights is None else weights
    taken = given if weights is None else {**given, "checkpoint": weights}
    missing = sorted(adapter.required - set(taken))
    if missing:
        raise BackboneError(f"backbone {spec.name} needs {', '.join('--' + name for name in missing)}")
    _require_same_file(spec)
    with trusting_code(trust_code), building():
        found = rescaled(adapter.load(taken), source)
    coded = {"sha256": file_hash(Path(str(spec.checkpoint)), "sha256")} if found.coded else {}
    found.spec = {"name": spec.name, **given, **coded}
    return found


def _asked(spec: BackboneSpec) -> tuple[_Adapter, Given]:
    """The adapter, and what is given of its options.

    Raises:
        BackboneError: unknown name, or an option that the adapter does not take.
    """
    require_known("there is no backbone", spec.name, _ADAPTERS, BackboneError)
    adapter = _ADAPTERS[spec.name]
    given = {
        key: getattr(spec, key)
        for key in ("layer", "version", "checkpoint", "max_neighbors", "invariants")
        if getattr(spec, key) is not None
    }
    refused = sorted(set(given) - adapter.options)
    if refused:
        raise BackboneError(
            f"backbone {spec.name} takes no option {', '.join(refused)}; it takes {', '.join(sorted(adapter.options))}"
        )
    return adapter, given


def _require_same_file(spec: BackboneSpec) -> None:
    """Before code out of a checkpoint that a store or a model names is run, it has to be the one they were made with.

    Raises:
        BackboneError: it is another file.
    """
    if spec.sha256 is None or spec.checkpoint is None or not Path(spec.checkpoint).is_file():
        return
    if file_hash(Path(spec.checkpoint), "sha256") != spec.sha256:
        raise BackboneError(
            f"{spec.checkpoint} is another file than the one that the features were made with; put that one back, or "
            "extract the features again"
        )


def new_backbone(
    spec: BackboneSpec, sizes: Mapping[str, float] | None = None, trust_code: bool = False
) -> backbones.Backbone:
    """A backbone whose architecture is to be trained from scratch.

    A schnet or dimenet++ without a checkpoint has random weights (torch's global generator); the
    others come with those that tell their architecture.

    Args:
        sizes: of a schnet or dimenet++, where they differ from the defaults.
        trust_code: see ``load_backbone``.

    Raises:
        BackboneError: see ``load_backbone``; or sizes for a backbone that has those of its weights.
    """
    _asked(spec)
    maker = {"schnet": _new_schnet, "dimenet++": _new_dimenet}.get(spec.name)
    if maker is not None and spec.checkpoint is None:
        return maker(sizes or {})
    if sizes:
        raise BackboneError(
            f"backbone {spec.name} has the sizes of its weights; sizes are for a new schnet or dimenet++"
        )
    return load_backbone(spec, trust_code)


def available_backbones() -> list[tuple[str, bool, str]]:
    """Name, whether it can be used here, and what it offers or lacks."""
    rows = []
    for name, adapter in _ADAPTERS.items():
        absent = [package for package in adapter.packages if importlib.util.find_spec(package) is None]
        note = f"missing: pip install 'mekrr-scale[{name}]'" if absent else adapter.about
        rows.append((name, not absent, note))
    return rows


def packages_of(name: str) -> tuple[str, ...]:
    """What a backbone imports, whether it is installed or not.

    Raises:
        BackboneError: unknown name.
    """
    require_known("there is no backbone", name, _ADAPTERS, BackboneError)
    return _ADAPTERS[name].packages


def _chgnet(given: Given) -> backbones.Backbone:
    from mekrr_scale.backbones.chgnet import Chgnet

    return Chgnet(**given)


def _sevennet(given: Given) -> backbones.Backbone:
    from mekrr_scale.backbones.sevennet import Sevennet

    return Sevennet(**given)


def _schnet(given: Given) -> backbones.Backbone:
    from mekrr_scale.backbones.schnet import Schnet

    cap = given.get("max_neighbors")
    layer = {"layer": str(given["layer"])} if "layer" in given else {}
    return Schnet(given["checkpoint"], max_neighbors=None if cap is None else int(cap), **layer)


def _dimenet(given: Given) -> backbones.Backbone:
    from mekrr_scale.backbones.dimenet import Dimenet

    cap = given.get("max_neighbors")
    layer = {"layer": str(given["layer"])} if "layer" in given else {}
    return Dimenet(given["checkpoint"], max_neighbors=None if cap is None else int(cap), **layer)


def _new_schnet(sizes: Mapping[str, float]) -> backbones.Backbone:
    from mekrr_scale.backbones.schnet import new_schnet

    return new_schnet(sizes)


def _new_dimenet(sizes: Mapping[str, float]) -> backbones.Backbone:
    from mekrr_scale.backbones.dimenet import new_dimenet

    return new_dimenet(sizes)


def _mace(given: Given) -> backbones.Backbone:
    from mekrr_scale.backbones.mace import Mace

    return Mace(**given)


def _metatomic(given: Given) -> backbones.Backbone:
    from mekrr_scale.backbones.metatomic import Metatomic

    return Metatomic(**given)


@dataclass(frozen=True)
class _Adapter:
    load: Callable[[Given], backbones.Backbone]
    options: frozenset[str]
    required: frozenset[str]
    packages: tuple[str, ...]
    about: str


_ADAPTERS = {
    "chgnet": _Adapter(
        _chgnet,
        frozenset({"layer", "version", "checkpoint"}),
        frozenset(),
        ("chgnet",),
        "pretrained, weights in its wheel; layers conv1 to conv4, bond1 to bond3, angle1 to angle3, or several: "
        "conv2+conv3; versions 0.3.0, 0.2.0, r2scan",
    ),
    "sevennet": _Adapter(
        _sevennet,
        frozenset({"layer", "version", "checkpoint", "invariants"}),
        frozenset(),
        ("sevenn",),
        "pretrained, weights in its wheel; layers gate1 to gate5, or several: gate1+gate2; invariants scalars, norms, "
        "products",
    ),
    "schnet": _Adapter(
        _schnet,
        frozenset({"layer", "checkpoint", "max_neighbors"}),
        frozenset({"checkpoint"}),
        ("torch_geometric",),
        "from a checkpoint (own or Open Catalyst layout); layers interaction1, interaction2, ...",
    ),
    "dimenet++": _Adapter(
        _dimenet,
        frozenset({"layer", "checkpoint", "max_neighbors"}),
        frozenset({"checkpoint"}),
        ("torch_geometric", "sympy"),
        "from a checkpoint (own or Open Catalyst layout); layers interaction1, interaction2, ...",
    ),
    "mace": _Adapter(
        _mace,
        frozenset({"layer", "version", "checkpoint", "invariants"}),
        frozenset({"checkpoint"}),
        ("mace",),
        "from any MACE model file; layers interaction1, ..., or several: interaction1+interaction2; invariants "
        "scalars, norms, products",
    ),
    "metatomic": _Adapter(
        _metatomic,
        frozenset({"layer", "version", "checkpoint"}),
        frozenset({"checkpoint"}),
        ("metatomic",),
        "from any exported model of metatomic that gives features of atoms (PET, ...); layers feature, feature/VARIANT",
    ),
}

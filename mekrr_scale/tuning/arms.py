"""Candidates of the race: networks with layers and invariants, and what their features cost here."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast, get_args

import torch
from ase import Atoms

from mekrr_scale.backbones import (
    Backbone,
    BackboneSpec,
    Directions,
    InvariantKind,
    available_backbones,
    evaluating,
    load_backbone,
    tangents,
)
from mekrr_scale.errors import BackboneError
from mekrr_scale.files import Document
from mekrr_scale.tuning.plan import TunePlan

# directions that a probe pushes through a network: up to two dozen take as long as one, and then time is in their
# proportion (docs/benchmarks.md, One command)
_PROBED = (8, 64)

# what is worth trying of each network that carries weights, the most promising first (docs/benchmarks.md, Invariants
# and layers, and the study): products hold scalars and norms and are better for molecules, scalars for alloys
_WORTH: Mapping[str, Sequence[Mapping[str, str]]] = {
    "sevennet": (
        {"version": "7net-l3i5", "layer": "gate1+gate2", "invariants": "products"},
        {"version": "7net-l3i5", "layer": "gate1+gate2", "invariants": "scalars"},
        {"version": "7net-0", "layer": "gate1+gate2", "invariants": "products"},
        {"version": "7net-0", "layer": "gate1+gate2", "invariants": "scalars"},
    ),
    "chgnet": ({"layer": "conv1+conv2+conv3"},),
    "mace": ({"invariants": "products"}, {}),
}


@dataclass(frozen=True)
class Arm:
    """One way to make features."""

    spec: BackboneSpec

    @property
    def name(self) -> str:
        """For people."""
        spec = self.spec
        file = None if spec.checkpoint is None else Path(spec.checkpoint).name
        given = (spec.name, spec.version, file, spec.layer, spec.invariants)
        return " ".join(str(part) for part in given if part is not None)

    @property
    def slug(self) -> str:
        """For files."""
        return re.sub(r"[^A-Za-z0-9.+-]+", "-", self.name)[-80:].strip("-")

    @property
    def invariants(self) -> InvariantKind:
        return cast(InvariantKind, self.spec.invariants or "scalars")

    @property
    def richer(self) -> tuple[Arm, ...]:
        """Ways whose features hold these: other invariants of the same layers."""
        kinds = get_args(InvariantKind)
        more = kinds[kinds.index(self.invariants) + 1 :]
        return tuple(Arm(replace(self.spec, invariants=kind)) for kind in more)

    def document(self) -> Document:
        return {key: value for key, value in asdict(self.spec).items() if value is not None}


def families(arms: Sequence[Arm]) -> list[list[Arm]]:
    """Those of the same layers together, the richest first: features of the others are among its own."""
    found: dict[BackboneSpec, list[Arm]] = {}
    for arm in arms:
        found.setdefault(replace(arm.spec, invariants=None), []).append(arm)
    return [sorted(family, key=lambda arm: len(arm.richer)) for family in found.values()]


def arms_of(plan: TunePlan) -> list[Arm]:
    """Candidates, the most promising first.

    Raises:
        BackboneError: no network with weights is installed, or a given one is unknown.
    """
    given = plan.backbones
    usable = {name for name, able, _ in available_backbones() if able}
    if given is None:
        given = tuple(BackboneSpec(name) for name in ("sevennet", "chgnet") if name in usable)
        if not given:
            raise BackboneError(
                "no network with weights is installed: pip install 'mekrr-scale[sevennet]' (or [chgnet]), or name one "
                "with a checkpoint (--backbone)"
            )
    found = list(dict.fromkeys(arm for spec in given for arm in _spelled(spec)))
    slugs = [arm.slug for arm in found]
    if len(set(slugs)) < len(slugs):
        raise BackboneError("two backbones have names that are alike; give each checkpoint a name of its own")
    return found


def _spelled(spec: BackboneSpec) -> Iterator[Arm]:
    """What a specification leaves open is filled with what is worth trying."""
    named = {key: value for key in ("version", "layer", "invariants") if (value := getattr(spec, key)) is not None}
    options = [
        {key: value for key, value in option.items() if key != "version" or spec.checkpoint is None}
        for option in _WORTH.get(spec.name, ({},))
    ]
    version = named.get("version")
    fitting = [option for option in options if version is None or option.get("version", version) == version]
    for option in fitting or [{}]:
        yield Arm(replace(spec, **{**option, **named}))


@dataclass(frozen=True)
class Cost:
    """Seconds of features, and of one direction, an atom; and of what all directions of a frame share."""

    features: float
    direction: float
    shared: float = 0.0

    def frames(self, atoms: int, directions: float) -> float:
        """Of frames with so many atoms altogether."""
        return atoms * (self.features + (self.shared + self.direction * directions if directions else 0.0))


def measured(arm: Arm, atoms: Atoms, device: str, with_tangents: bool, workers: int) -> Document:
    """What features of a frame take on this machine; a network that cannot read it has the reason instead.

    A frame of another size costs about as much an atom.

    Args:
        workers: processes that will share the work, with one thread each if they are several.

    Raises:
        BackboneError: it cannot be loaded.
    """
    backbone = load_backbone(arm.spec)
    try:
        backbone.to(device, torch.float32)
        with _threads(None if workers == 1 else 1):
            _passed(backbone, atoms)  # what is made once is made
            features = _passed(backbone, atoms) / (len(atoms) * workers)
            direction = shared = 0.0
            if with_tangents:
                _pushed(backbone, atoms, _PROBED[0])
                few, many = (_pushed(backbone, atoms, count) / (len(atoms) * workers) for count in _PROBED)
                direction = max((many - few) / (_PROBED[1] - _PROBED[0]), 0.01 * few)
                shared = max(few - _PROBED[0] * direction, 0.0)
    except BackboneError as error:
        return {"failed": str(error)}
    return asdict(Cost(features, direction, shared))


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Within, torch has as many."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _passed(backbone: Backbone, atoms: Atoms) -> float:
    """Seconds in which features of a frame are made, with the network's own energy: of its last layers, too."""
    begin = time.perf_counter()
    graph = backbone.graph(atoms)
    with evaluating(False):
        backbone.forward(graph, graph.positions, energies=backbone.has_energy)
    return time.perf_counter() - begin


def _pushed(backbone: Backbone, atoms: Atoms, count: int) -> float:
    """Seconds in which so many directions of a frame are pushed through a network."""
    graph = backbone.graph(atoms)
    moves = torch.zeros(count, len(atoms), 3, device=graph.positions.device, dtype=graph.positions.dtype)
    moves[torch.arange(count), torch.arange(count) % len(atoms), torch.arange(count) % 3] = 1.0
    begin = time.perf_counter()
    tangents(backbone, graph, Directions.of_displacements(moves), energies=backbone.has_energy)
    return time.perf_counter() - begin

"""A backbone that sees scaled geometries and whose energies have a scale and references of their own.

What training adds to a network, and what carries a potential of one crystal over to another whose
bonds are longer (Roecken and Zavadlav, arXiv 2502.13522):

    E(x) = sum_a [s e_a(g x) + r(z_a)],   h_a(x) = h_a(g x),

with g the length scale; forces and tangents follow by the chain rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from mekrr_scale.backbones.base import Backbone
from mekrr_scale.backbones.derivatives import LinearMap
from mekrr_scale.backbones.invariants import Invariants
from mekrr_scale.backbones.outer import Outer, OuterMap
from mekrr_scale.backbones.output import BackboneOutput
from mekrr_scale.backbones.weights import OwnFile, SavedScaling, Source, own_file, read_own, save
from mekrr_scale.errors import BackboneError
from mekrr_scale.files import Document
from mekrr_scale.structures import Graph


@dataclass(frozen=True)
class Scaling:
    """What stands between a structure and a network, and between the network and energies.

    Raises:
        BackboneError: a length scale that is not positive.
    """

    length: float = 1.0  # geometries are multiplied by it
    energy: float = 1.0  # the network's energies are
    references: Mapping[int, float] = field(default_factory=dict)  # eV, by atomic number; others have none
    species: tuple[int, ...] = ()  # the only ones with trained weights; empty: all of the network's

    def __post_init__(self) -> None:
        if not self.length > 0:
            raise BackboneError(f"length scale {self.length}: give a positive number, such as 0.949")


@final
class Rescaled(Outer):
    """A backbone behind a ``Scaling``."""

    def __init__(self, inner: Backbone, scaling: Scaling) -> None:
        super().__init__(inner)
        self.scaling = scaling
        self.cutoff = inner.cutoff / scaling.length
        self.species = inner.species & frozenset(scaling.species) if scaling.species else inner.species
        named = asdict(scaling) | {"references": sorted(scaling.references.items())}
        self.options = (*inner.options, *((f"scaling_{key}", str(value)) for key, value in named.items()))
        self._references = torch.zeros(120, dtype=torch.float64)
        for z, energy in scaling.references.items():
            self._references[z] = energy

    def invariants(self) -> Sequence[Invariants]:
        return self.inner.invariants()

    def on_edges(self, graph: Graph, vectors: Float[Tensor, "edges 3"], energies: bool = True) -> BackboneOutput:
        found = self.inner.on_edges(self._seen(graph), vectors * self.scaling.length, energies)
        if found.energies is None:
            return found
        # in float64: references of thousands of eV leave float32 few digits for what matters
        references = self._references.to(self.device)[graph.numbers]
        return BackboneOutput(found.features, self.scaling.energy * found.energies.double() + references)

    def linearize(self, graph: Graph) -> LinearMap | None:
        """The inner network's, where it has one."""
        linear = self.inner_map(self._seen(graph))
        return None if linear is None else _Stretched(linear, self.scaling.length)

    def _seen(self, graph: Graph) -> Graph:
        """As the inner network sees it."""
        length = self.scaling.length
        vectors = None if graph.vectors is None else graph.vectors * length
        return replace(graph, positions=graph.positions * length, cell=graph.cell * length, vectors=vectors)


@dataclass(frozen=True)
class _Stretched(OuterMap):
    """A linearization at positions that are multiplied by a length."""

    length: float

    def push(
        self, moves: Float[Tensor, "directions atoms 3"], strains: Float[Tensor, "directions structures 3 3"]
    ) -> Float[Tensor, "directions atoms dim"]:
        return self.inner.push(self.length * moves, strains)


def unscaled(backbone: Backbone) -> tuple[Backbone, Scaling]:
    """A backbone without its scaling, and that."""
    return (backbone.inner, backbone.scaling) if isinstance(backbone, Rescaled) else (backbone, Scaling())


def save_backbone(
    backbone: Backbone, path: str | Path, training: Document | None = None, overwrite: bool = False
) -> None:
    """Write a backbone with its scaling as a checkpoint that ``load_backbone`` reads, without code in it.

    Args:
        training: how it was made, in plain values.
        overwrite: a file that is there and no such checkpoint may be replaced.

    Raises:
        BackboneError: the file cannot or must not be written.
    """
    inner, scaling = unscaled(backbone)
    more = {"scaling": _saved(scaling), "training": dict(training or {})}
    save(path, inner.name, inner.module, inner.config(), more, overwrite)


def weights_of(backbone: Backbone) -> OwnFile:
    """All that a backbone is but for the choice of its layer, without code: what models hold of it."""
    inner, scaling = unscaled(backbone)
    found = own_file(inner.name, inner.module, inner.config())
    if scaling != Scaling():
        found["scaling"] = _saved(scaling)
    if inner.origin is not None:
        found["origin"] = inner.origin
    return found


def _saved(scaling: Scaling) -> SavedScaling:
    return {
        "length": scaling.length,
        "energy": scaling.energy,
        "references": dict(scaling.references),
        "species": list(scaling.species),
    }


def rescaled(backbone: Backbone, checkpoint: Source | None) -> Backbone:
    """A backbone that was read from a checkpoint, behind the scaling that the checkpoint tells."""
    found = None if checkpoint is None else read_own(checkpoint)
    if found is None or "scaling" not in found:
        return backbone
    saved = found["scaling"]
    scaling = Scaling(saved["length"], saved["energy"], dict(saved["references"]), tuple(saved["species"]))
    return backbone if scaling == Scaling() else Rescaled(backbone, scaling)

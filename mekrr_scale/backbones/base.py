"""What every backbone offers: differentiable per-atom features of a graph, and its identity."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import final, get_args
from weakref import WeakKeyDictionary

import torch
from ase import Atoms
from jaxtyping import Float
from torch import Tensor, nn

from mekrr_scale.arrays import usable_device
from mekrr_scale.backbones.derivatives import Directions, tangents
from mekrr_scale.backbones.invariants import Invariants, columns_of
from mekrr_scale.backbones.output import BackboneOutput
from mekrr_scale.backbones.spec import Architecture, InvariantKind
from mekrr_scale.backbones.surroundings import building, evaluating
from mekrr_scale.backbones.weights import Origin
from mekrr_scale.errors import BackboneError, unexpected
from mekrr_scale.files import Document
from mekrr_scale.structures import Graph, build_graph, edge_vectors

_FREE: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()  # what training may change of each network


@dataclass(frozen=True)
class BackboneIdentity:
    """What must agree for features to be comparable."""

    name: str  # the adapter, e.g. "chgnet"
    version: str  # of the weights, e.g. "0.3.0", or the kind of the checkpoint
    weight_hash: str  # sha256 over names, shapes and values of all parameters and buffers
    layer: str  # the block whose output the features are
    options: tuple[tuple[str, str], ...] = ()  # what else changes features, e.g. a neighbour cap

    def to_dict(self) -> dict[str, object]:
        return asdict(self) | {"options": [list(pair) for pair in self.options]}


class Backbone(ABC):
    """A frozen network that gives each atom a feature vector.

    An adapter implements ``on_edges``, differentiable in the edges' vectors, and describes itself; everything else is
    derived from that here.
    """

    name: str
    version: str
    layer: str
    cutoff: float  # angstrom
    dim: int
    species: frozenset[int]  # atomic numbers that it knows
    module: nn.Module
    options: tuple[tuple[str, str], ...] = ()
    spec: Mapping[str, str | int] = MappingProxyType({})  # how `load_backbone` makes it again; empty: nothing tells
    origin: Origin | None = None  # what a checkpoint of another project says besides sizes and weights
    in_chunks: bool = False  # whether ``on_edges`` heeds ``graph.at_once``, by sums of ``chunks``
    takes: frozenset[str] = frozenset()  # what it sees of a structure besides its geometry: "charge", "spin"
    coded: bool = False  # whether code out of its checkpoint was run, on the user's word
    scripted: bool = False  # compiled code: it cannot be built anew, nor trained, and has no forward mode
    # slopes by edges run along paths between atoms: summed to atoms and strains they are right, alone they are not
    by_paths: bool = False

    @final
    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.version}: {self.dim} features of {self.layer}, cutoff {self.cutoff:g} A"

    @abstractmethod
    def blocks(self) -> dict[str, Sequence[nn.Module]]:
        """Named blocks in the order in which an input passes through them."""

    @abstractmethod
    def on_edges(self, graph: Graph, vectors: Float[Tensor, "edges 3"], energies: bool = True) -> BackboneOutput:
        """Features (and energies) of a graph whose edges are the given vectors (angstrom).

        Positions, cell and shifts of the graph count for nothing but its connectivity. Without ``energies`` the layers
        behind the features are not run, nor needed.
        """

    @abstractmethod
    def hops(self, energies: bool) -> int:
        """How many edges lie at most between an atom and what its features (or its energy) depend on."""

    def invariants(self) -> Sequence[Invariants]:
        """What its features are of equivariant channels, layer by layer; none where it has no choice of these."""
        return ()

    @final
    def columns(self, kind: InvariantKind) -> list[int]:
        """Which of its features it would have with these invariants of its channels, or fewer.

        Raises:
            BackboneError: it does not have them.
        """
        kinds, layers = get_args(InvariantKind), self.invariants()
        own = dict(self.options).get("invariants", kinds[0])
        if not layers or kinds.index(kind) > kinds.index(own):
            raise BackboneError(f"the features of {self!r} do not hold {kind} of equivariant channels")
        return columns_of(layers, kind)

    @property
    def extensive(self) -> bool:
        """Whether an atom's energy depends on its surroundings alone, and not on the number of atoms."""
        return True

    def forward(
        self,
        graph: Graph,
        positions: Float[Tensor, "atoms 3"],
        strain: Float[Tensor, "structures 3 3"] | None = None,
        energies: bool = True,
    ) -> BackboneOutput:
        """``on_edges`` at the given positions (angstrom) and strain."""
        return self.on_edges(graph, edge_vectors(graph, positions, strain), energies)

    @abstractmethod
    def prepare(self, graph: Graph) -> Graph:
        """Add to a neighbour list what depends on connectivity alone (caps, angles, ...)."""

    @property
    @abstractmethod
    def has_energy(self) -> bool:
        """Whether ``forward`` also gives the energy of a pretrained potential."""

    @abstractmethod
    def config(self) -> Architecture:
        """What the architecture can be built from again: plain values, for a checkpoint."""

    @abstractmethod
    def fresh(self) -> nn.Module:
        """A network of the same architecture with new random weights, from torch's global generator."""

    @abstractmethod
    def species_rows(self, z: int) -> Sequence[Tensor]:
        """Views of the weights that belong to one element alone, in the same order for every element."""

    @property
    @final
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @property
    @final
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @final
    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Backbone:
        """Move the weights; returns itself.

        Raises:
            ConfigError: a device that torch cannot use here.
        """
        device = None if device is None else usable_device(device)
        with evaluating():
            self.module.to(device=device, dtype=dtype)
        return self

    @final
    def parameters(self) -> dict[str, dict[str, nn.Parameter]]:
        """The parameters of every block that training may change, by name.

        Those that the architecture keeps fixed (denominators, masks, ...) are left out.
        """
        free = _FREE.get(self.module)
        if free is None:
            with building():
                free = frozenset(name for name, weight in self.fresh().named_parameters() if weight.requires_grad)
            _FREE[self.module] = free
        names = {id(weight): name for name, weight in self.module.named_parameters()}
        found: dict[str, dict[str, nn.Parameter]] = {}
        for block, modules in self.blocks().items():
            named = {names[id(weight)]: weight for module in modules for weight in module.parameters()}
            found[block] = {name: weight for name, weight in named.items() if name in free}
        return found

    @final
    def identity(self) -> BackboneIdentity:
        return BackboneIdentity(self.name, self.version, weight_hash(self.module), self.layer, self.options)

    @final
    def check_species(self, numbers: Sequence[int]) -> None:
        """Refuse elements that the backbone was not made for.

        Raises:
            BackboneError: names them.
        """
        from ase.data import chemical_symbols

        unknown = sorted({int(z) for z in numbers} - self.species)
        if unknown:
            named = ", ".join(f"{z} ({chemical_symbols[z]})" if z < len(chemical_symbols) else str(z) for z in unknown)
            raise BackboneError(
                f"backbone {self.name} {self.version} does not know species {named}; leave these "
                "structures out or use another backbone (`mekrr-scale backbones` lists them)"
            )

    @final
    def graph(self, atoms: Atoms | Sequence[Atoms]) -> Graph:
        """Neighbour lists as this backbone needs them, on its device and in its precision."""
        with evaluating(False):
            graph = build_graph(atoms, self.cutoff)
            self.check_species(graph.numbers.unique().tolist())
            return self.prepare(graph).to(self.device, self.dtype)

    @final
    def reach(self, energies: bool = False) -> float:
        """How far from an atom its features (or its energy) depend on others, at most (angstrom)."""
        return self.hops(energies) * self.cutoff

    @final
    def features(self, atoms: Atoms | Sequence[Atoms]) -> Float[Tensor, "atoms dim"]:
        """Features of structures, without gradients."""
        graph = self.graph(atoms)
        with evaluating(False):
            return self.forward(graph, graph.positions, energies=False).features

    @final
    def tangents(
        self, graph: Graph, directions: Float[Tensor, "directions atoms 3"], chunk: int | None = None
    ) -> Float[Tensor, "directions atoms dim"]:
        """Derivatives of the features of one structure along displacements of its atoms (1/angstrom).

        ``mekrr_scale.backbones.tangents`` does strains and energies too.
        """
        return tangents(self, graph, Directions.of_displacements(directions), chunk=chunk).features


def require_backbone(given: object) -> Backbone:
    """What was given, if it is a backbone.

    Raises:
        BackboneError: it is something else, such as the name of one.
    """
    if isinstance(given, Backbone):
        return given
    raise BackboneError(unexpected(given, "a backbone, as load_backbone makes it,", "backbone"))


def identity_of(backbone: Backbone) -> Document:
    """A backbone's identity as JSON holds it."""
    return dict(json.loads(json.dumps(backbone.identity().to_dict())))


def spec_of(backbone: Backbone) -> Document:
    """How to load a backbone again, from any folder."""
    spec = dict(backbone.spec)
    if "checkpoint" in spec:
        spec["checkpoint"] = str(Path(str(spec["checkpoint"])).resolve())
    return spec


def weight_hash(module: nn.Module) -> str:
    """sha256 over names, shapes and values of parameters and buffers, as float64 if floating.

    Float32 weights keep their hash when the module is moved to float64, and where numbers below float32's smallest
    normal one are taken for zero (``flushing``).
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if "._tensor_constant" in name:  # of compiled code (e3nn), in copies of a network alone
            continue
        values = tensor.detach().cpu()
        if values.is_floating_point():
            values = values.double()
            values = values * (values.abs() >= torch.finfo(torch.float32).tiny)  # zeros keep their signs
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()

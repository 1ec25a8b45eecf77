"""CHGNet (Deng et al., Nat. Mach. Intell. 5, 1031 (2023)) as a feature extractor.

The weights come with the ``chgnet`` wheel. The graph is built by vesin and the message passing
is written out here on the wheel's layers: that makes it differentiable forwards and backwards
in positions and strain, in any precision, for isolated atoms too, and several times faster than
the wheel's own graph construction.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast, final, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mekrr_scale.backbones.base import Backbone
from mekrr_scale.backbones.chunks import RowFunction, Rows, of_rows, rows_of, sum_rows
from mekrr_scale.backbones.linearized_chgnet import Embedded, LinearizedChgnet, Links, Parts, linearized_chgnet
from mekrr_scale.backbones.output import BackboneOutput
from mekrr_scale.backbones.spec import Architecture, layers_of
from mekrr_scale.backbones.weights import Source, plain, require_own
from mekrr_scale.errors import BackboneError, suggestion
from mekrr_scale.files import Document
from mekrr_scale.structures import Graph, edge_vectors

ChgnetVersion = Literal["0.3.0", "0.2.0", "r2scan"]
# what sums over bonds and angles are divided by: they then vary as much as features of atoms do
BONDS, ANGLES = 10.0, 35.0


@final
class Chgnet(Backbone):
    """CHGNet's atom features after some of its convolutions, and its bond and angle features at each atom.

    Args:
        layer: one, or several joined by +, whose features are put side by side. ``conv1`` ... ``conv4`` are those
            of atoms; ``conv3`` is before the last convolution (what the wheel calls ``atom_fea``), ``conv4`` after
            it, normalised as the readout gets it. ``bond1`` ... ``bond3`` and ``angle1`` ... ``angle3`` are those
            that the next convolution gets, summed over the bonds and angles of an atom with weights that vanish
            smoothly at the cutoffs.
        version: pretrained weights in the wheel: ``0.3.0``, ``0.2.0`` or ``r2scan``.
        checkpoint: a file of ``mekrr-scale pretrain`` or ``finetune`` instead.

    Raises:
        BackboneError: the wheel is not installed, or layer or version do not exist.
    """

    name = "chgnet"
    in_chunks = True
    per_bond, per_angle = BONDS, ANGLES

    def __init__(self, layer: str = "conv3", version: str | None = None, checkpoint: Source | None = None) -> None:
        if version is not None and checkpoint is not None:
            raise BackboneError("backbone chgnet takes a version or a checkpoint, not both")
        if version is not None and version not in get_args(ChgnetVersion):
            hint = suggestion(version, get_args(ChgnetVersion))
            raise BackboneError(f"chgnet has no weights of version {version!r}. {hint}")
        self.version = version or ("0.3.0" if checkpoint is None else "own")
        self.module = _load(self.version) if checkpoint is None else _read(checkpoint)
        depth = len(self._layers("atom_conv_layers"))
        inner = [f"{kind}{i + 1}" for i in range(depth - 1) for kind in ("conv", "bond", "angle")]
        self._chosen = layers_of(layer, [*inner, f"conv{depth}"], "chgnet")
        self.layer = "+".join(self._chosen)
        self.cutoff = float(cast(Any, self.module).graph_converter.atom_graph_cutoff)
        self.bond_cutoff = float(cast(Any, self.module).graph_converter.bond_graph_cutoff)
        net = cast(Any, self.module)
        widths = {"conv": net.atom_fea_dim, "bond": net.bond_fea_dim, "angle": net.angle_embedding.out_features}
        self.dim = sum(int(widths[part.rstrip("0123456789")]) for part in self._chosen)
        self.species = frozenset(range(1, 95))

    @property
    def has_energy(self) -> bool:
        return True

    def config(self) -> Architecture:
        return {"model_args": plain(cast(Any, self.module).model_args)}

    def fresh(self) -> nn.Module:
        return _fresh(self.config())

    def species_rows(self, z: int) -> Sequence[Tensor]:
        net = cast(Any, self.module)
        return [net.atom_embedding.embedding.weight[z - 1], net.composition_model.fc.weight[:, z - 1]]

    def blocks(self) -> dict[str, Sequence[nn.Module]]:
        net = cast(Any, self.module)
        named: dict[str, Sequence[nn.Module]] = {
            "embedding": [
                net.atom_embedding, net.bond_basis_expansion, net.bond_embedding, net.bond_weights_ag,
                net.bond_weights_bg, net.angle_basis_expansion, net.angle_embedding,
            ]
        }  # fmt: skip
        updates = zip(net.bond_conv_layers, net.angle_layers, strict=True)
        convolutions = [[net.atom_conv_layers[i], *update] for i, update in enumerate(updates)]
        for i, modules in enumerate([*convolutions, [net.atom_conv_layers[-1]]]):
            named[f"conv{i + 1}"] = modules
        named["readout"] = [module for module in (net.readout_norm, net.mlp) if module is not None]
        return named

    def hops(self, energies: bool) -> int:
        if energies:
            return len(self._layers("atom_conv_layers"))
        return max(int(part[-1]) + (not part.startswith("conv")) for part in self._chosen)

    def prepare(self, graph: Graph) -> Graph:
        return graph

    def on_edges(self, graph: Graph, vectors: Float[Tensor, "edges 3"], energies: bool = True) -> BackboneOutput:
        net = cast(Any, self.module)
        links = _links(graph, self.bond_cutoff)
        centre, neighbour = graph.edge_index
        lengths = vectors.norm(dim=1)
        bond_lengths = lengths[links.bond_edge]
        basis = net.bond_basis_expansion
        radial = of_rows(graph, partial(_radial, basis.rbf_expansion_ag), (bond_lengths, None))
        atom_gate = rows_of(graph, net.bond_weights_ag(radial), links.edge_bond)
        bond_gate = net.bond_weights_bg(_radial(basis.rbf_expansion_bg, bond_lengths))
        bond_gate = of_rows(graph, torch.mul, (bond_gate, links.angle_bond), (bond_gate, links.angle_other))
        units = vectors / lengths[:, None]
        ends: list[Rows] = [(units, links.angle_edge), (units, links.angle_other_edge)]
        angle = of_rows(graph, self._embedded_angle, *ends)
        atom = net.atom_embedding(graph.numbers - 1)
        bond = net.bond_embedding(radial)
        found: dict[str, Tensor] = {}
        updates = self._updates(energies)
        sums = _Sums(graph, links, basis, bond_lengths, len(atom))
        for depth, conv in enumerate(net.atom_conv_layers):
            if not energies and self._chosen[-1] in found:
                break
            around: list[Rows] = [(atom, centre), (bond, links.edge_bond), (atom, neighbour), atom_gate]
            atom = atom + conv.mlp_out(sum_rows(graph, centre, len(atom), _gated(conv.twoBody_atom), *around))
            last = depth == len(net.atom_conv_layers) - 1
            if last and net.readout_norm is not None:
                atom = net.readout_norm(atom)
            found[f"conv{depth + 1}"] = atom
            if not energies and self._chosen[-1] in found:
                break
            if not last:
                update, turn = net.bond_conv_layers[depth], net.angle_layers[depth]
                gated = _gated(update.twoBody_bond)
                inputs = [*_angle_input(bond, angle, atom, links), (bond_gate, None)]
                bond = bond + update.mlp_out(sum_rows(graph, links.angle_bond, len(bond), gated, *inputs))
                if depth + 1 < updates or f"angle{depth + 1}" in self._chosen:  # nothing else asks for the angles
                    angle = angle + of_rows(graph, _joined(turn.twoBody_bond), *_angle_input(bond, angle, atom, links))
                found |= sums.of(self._chosen, depth + 1, bond, angle)
        chosen = [found[part] for part in self._chosen]  # of one layer itself: bits of gradients
        features = chosen[0] if len(chosen) == 1 else torch.cat(chosen, 1)
        return BackboneOutput(features, self._site_energies(graph, atom) if energies else None)

    def _embedded_angle(self, unit: Float[Tensor, "angles 3"], other: Float[Tensor, "angles 3"]) -> Tensor:
        """Of the directions of two bonds; the wheel's point the other way, which leaves angles unchanged."""
        net = cast(Any, self.module)
        cosine = (unit * other).sum(1) * (1 - 1e-6)
        return cast(Tensor, net.angle_embedding(_fourier(net.angle_basis_expansion.fourier_expansion, cosine.acos())))

    def _updates(self, energies: bool) -> int:
        """How many times bonds are updated."""
        kind, last = self._chosen[-1].rstrip("0123456789"), int(self._chosen[-1][-1])
        whole = len(self._layers("atom_conv_layers")) - 1
        return whole if energies else min(whole, last - (kind == "conv"))

    def linearize(self, graph: Graph) -> LinearizedChgnet | None:
        """The features' derivatives as a linear map; None where features of bonds or angles are asked for."""
        if not all(part.startswith("conv") for part in self._chosen):
            return None
        net, links = cast(Any, self.module), _links(graph, self.bond_cutoff)
        vectors = edge_vectors(graph, graph.positions)
        lengths = vectors.norm(dim=1)
        basis, fourier = net.bond_basis_expansion, net.angle_basis_expansion.fourier_expansion

        def of_length(length: Tensor) -> Tensor:
            radial = _radial(basis.rbf_expansion_ag, length)
            bonded = net.bond_weights_bg(_radial(basis.rbf_expansion_bg, length))
            return torch.cat([net.bond_embedding(radial), net.bond_weights_ag(radial), bonded], 1)

        def of_cosine(cosine: Tensor) -> Tensor:
            return cast(Tensor, net.angle_embedding(_fourier(fourier, (cosine * (1 - 1e-6)).acos())))

        units = vectors / lengths[:, None]
        cosine = (units[links.angle_edge] * units[links.angle_other_edge]).sum(1)
        parts = Parts(
            net.atom_embedding(graph.numbers - 1),
            Embedded.at(of_length, [net.bond_fea_dim, net.atom_fea_dim, net.bond_fea_dim], lengths[links.bond_edge]),
            Embedded.at(of_cosine, [net.angle_embedding.out_features], cosine),
        )
        chosen = [int(part.removeprefix("conv")) - 1 for part in self._chosen]
        return linearized_chgnet(net, graph, links, vectors, parts, chosen)

    def _site_energies(self, graph: Graph, atom: Float[Tensor, "atoms dim"]) -> Float[Tensor, " atoms"]:
        net = cast(Any, self.module)
        energies: Tensor = net.mlp(atom)[:, 0] + net.composition_model.fc.weight[0][graph.numbers - 1]
        return energies

    def _layers(self, name: str) -> nn.ModuleList:
        return cast(nn.ModuleList, getattr(self.module, name))


@dataclass(frozen=True)
class _Sums:
    """What the bonds and angles of each atom sum to, each with a weight that vanishes smoothly at its cutoff."""

    graph: Graph
    links: Links
    basis: Any
    bond_lengths: Float[Tensor, " bonds"]
    n_atoms: int

    def of(self, chosen: Sequence[str], depth: int, bond: Tensor, angle: Tensor) -> dict[str, Tensor]:
        """Those of a depth that are chosen."""
        found, links = {}, self.links
        if f"bond{depth}" in chosen:
            weight = _envelope(self.basis.rbf_expansion_ag, self.bond_lengths[:, None])
            weighted: list[Rows] = [(bond * weight, links.edge_bond)]
            found[f"bond{depth}"] = self._sum(self.graph.edge_index[0], _same, weighted) / BONDS
        if f"angle{depth}" in chosen:
            weight = _envelope(self.basis.rbf_expansion_bg, self.bond_lengths[:, None])
            pairs: list[Rows] = [(angle, None), (weight, links.angle_bond), (weight, links.angle_other)]
            found[f"angle{depth}"] = self._sum(links.angle_centre, _weighted, pairs) / ANGLES
        return found

    def _sum(self, index: Int[Tensor, " rows"], function: RowFunction, inputs: Sequence[Rows]) -> Tensor:
        return sum_rows(self.graph, index, self.n_atoms, function, *inputs)


def _same(values: Tensor) -> Tensor:
    return values


def _weighted(angle: Tensor, weight: Tensor, other: Tensor) -> Tensor:
    return angle * (weight * other)


def _gated(layer: nn.Module) -> RowFunction:
    """A layer of several inputs side by side, times the last one."""

    def gated(*inputs: Tensor) -> Tensor:
        message: Tensor = layer(torch.cat(inputs[:-1], 1))
        return message * inputs[-1]

    return gated


def _joined(layer: nn.Module) -> RowFunction:
    """A layer of several inputs side by side."""

    def joined(*inputs: Tensor) -> Tensor:
        return cast(Tensor, layer(torch.cat(inputs, 1)))

    return joined


def _links(graph: Graph, bond_cutoff: float) -> Links:
    centre = graph.edge_index[0]
    edge_bond, bond_edge = _bonds(graph)
    # angles: ordered pairs of different short edges that leave the same atom
    short = (edge_vectors(graph, graph.positions).norm(dim=1) < bond_cutoff).nonzero()[:, 0]
    short = short[torch.argsort(centre[short], stable=True)]
    degree = torch.bincount(centre[short], minlength=len(graph.numbers))
    start = torch.cumsum(degree, 0) - degree
    partners = degree[centre[short]]
    first = torch.repeat_interleave(torch.arange(len(short), device=short.device), partners)
    offset = torch.arange(len(first), device=short.device) - torch.repeat_interleave(
        torch.cumsum(partners, 0) - partners, partners
    )
    second = start[centre[short][first]] + offset
    different = first != second
    edge, other = short[first[different]], short[second[different]]
    return Links(edge_bond, bond_edge, centre[edge], edge, other, edge_bond[edge], edge_bond[other])


def _bonds(graph: Graph) -> tuple[Int[Tensor, " edges"], Int[Tensor, " bonds"]]:
    """The bond of each edge, and the first edge of each bond."""
    centre, neighbour = graph.edge_index
    if len(centre) == 0:
        return centre, centre
    shift = graph.shifts.round().long()
    span = int(shift.abs().max()) + 1
    base = 2 * span + 1
    flat = ((shift[:, 0] + span) * base + shift[:, 1] + span) * base + shift[:, 2] + span
    mirrored = base**3 - 1 - flat  # the code of the opposite shift
    backward = (centre > neighbour) | ((centre == neighbour) & (flat < mirrored))
    low, high = torch.minimum(centre, neighbour), torch.maximum(centre, neighbour)
    code = torch.where(backward, mirrored, flat)
    key = (low * len(graph.numbers) + high) * base**3 + code
    _, edge_bond = torch.unique(key, return_inverse=True)
    bond_edge = torch.full((int(edge_bond.max()) + 1,), len(key), device=key.device)
    edges = torch.arange(len(key), device=key.device)
    return edge_bond, bond_edge.scatter_reduce(0, edge_bond, edges, "amin")


def _angle_input(bond: Tensor, angle: Tensor, atom: Tensor, links: Links) -> list[Rows]:
    return [(bond, links.angle_bond), (bond, links.angle_other), (angle, None), (atom, links.angle_centre)]


def _radial(basis: Any, lengths: Float[Tensor, " bonds"]) -> Float[Tensor, "bonds radial"]:
    """Bessel functions times a polynomial cutoff (Gasteiger et al., arXiv 2011.14115, eq. 3-4)."""
    scaled = lengths[:, None] * basis.inv_cutoff
    smooth = _polynomial(basis, scaled)
    value: Tensor = basis.norm_const * torch.sin(basis.frequencies * scaled) / lengths[:, None]
    return torch.where(scaled < 1, smooth * value, torch.zeros_like(value))


def _envelope(basis: Any, lengths: Float[Tensor, "bonds 1"]) -> Float[Tensor, "bonds 1"]:
    """The polynomial cutoff alone, zero beyond it."""
    scaled = lengths * basis.inv_cutoff
    smooth = _polynomial(basis, scaled)
    return torch.where(scaled < 1, smooth, torch.zeros_like(smooth))


def _polynomial(basis: Any, scaled: Float[Tensor, "bonds 1"]) -> Float[Tensor, "bonds 1"]:
    form = basis.smooth_cutoff
    found: Tensor = 1 + form.a * scaled**form.p + form.b * scaled ** (form.p + 1) + form.c * scaled ** (form.p + 2)
    return found


def _fourier(basis: Any, angle: Float[Tensor, " angles"]) -> Float[Tensor, "angles angular"]:
    """Fourier series of an angle (Deng et al. 2023, methods)."""
    phase = angle[:, None] * basis.frequencies
    constant = torch.full_like(angle[:, None], math.sqrt(0.5))
    return torch.cat([constant, phase.sin(), phase.cos()], 1) / math.sqrt(math.pi)


def _load(version: str) -> nn.Module:
    wheel = _wheel()
    with contextlib.redirect_stdout(io.StringIO()):  # the wheel announces itself on standard output
        net = wheel.load(model_name=version, use_device="cpu", verbose=False)
    net.eval().requires_grad_(False)
    return cast(nn.Module, net)


def _read(checkpoint: Source) -> nn.Module:
    data = require_own(checkpoint, "chgnet")
    net = _fresh(data["config"])
    net.load_state_dict(data["state_dict"])
    return net.eval().requires_grad_(False)


def _fresh(config: Architecture) -> nn.Module:
    with contextlib.redirect_stdout(io.StringIO()):
        return cast(nn.Module, _wheel()(**cast(Document, config["model_args"])))


def _wheel() -> Any:
    try:
        from chgnet.model.model import CHGNet
    except ImportError as error:
        raise BackboneError("backbone chgnet needs the package chgnet: pip install 'mekrr-scale[chgnet]'") from error
    return CHGNet

"""DimeNet++ (Gasteiger et al., arXiv 2011.14115) from torch_geometric, for periodic structures.

torch_geometric's list of triplets k -> j -> i leaves out every k with the index of i; in a
crystal that may be another image of i, which counts. Its angles go through atan2, whose derivative
is undefined for atoms in a line, as in most crystals; here the angular functions are Legendre
polynomials of the cosine, the same values without that defect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, cast, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mekrr_scale.backbones.base import Backbone
from mekrr_scale.backbones.output import BackboneOutput
from mekrr_scale.backbones.weights import Sizes, Source, WeightsFile, save
from mekrr_scale.errors import BackboneError, suggestion
from mekrr_scale.structures import Graph, nearest_edges

_SIZES = ("hidden_channels", "num_blocks", "out_emb_channels", "num_spherical", "num_radial", "cutoff")
# what torch_geometric and the Open Catalyst Project take where a configuration says nothing
_OPTIONAL = {
    "int_emb_size": 64, "basis_emb_size": 8, "envelope_exponent": 5, "num_before_skip": 1, "num_after_skip": 2,
    "num_output_layers": 3,
}  # fmt: skip

DEFAULT_SIZES: Sizes = {
    "hidden_channels": 64, "num_blocks": 2, "out_emb_channels": 64, "num_spherical": 4, "num_radial": 6, "cutoff": 5.0,
    **_OPTIONAL, "int_emb_size": 32,
}  # fmt: skip


@final
class Dimenet(Backbone):
    """DimeNet++'s atom features: what its output block makes of an interaction's messages.

    Args:
        checkpoint: file of ``mekrr-scale pretrain`` or ``save_dimenet``, or an Open Catalyst checkpoint.
        layer: ``interaction1`` ...; the features are the hidden state of the output block
            behind that interaction.
        max_neighbors: cap on the neighbours of a centre (the nearest stay). Default: 50 for an
            Open Catalyst checkpoint, which was trained so, none for the package's own.

    Raises:
        BackboneError: no such file, not a DimeNet++ checkpoint, or no such layer.
    """

    name = "dimenet++"

    def __init__(
        self, checkpoint: Source | WeightsFile, layer: str = "interaction2", max_neighbors: int | None = None
    ) -> None:
        source = WeightsFile.of(checkpoint, "dimenet++", _SIZES, _OPTIONAL)
        self.module = _network(source)
        layers = [f"interaction{i + 1}" for i in range(int(source.sizes["num_blocks"]))]
        if layer not in layers:
            raise BackboneError(f"{source.path} has no layer {layer!r}. {suggestion(layer, layers)}")
        self.layer = layer
        self.version = source.kind
        self.cutoff = float(source.sizes["cutoff"])
        self.dim = int(source.sizes["out_emb_channels"])
        self.species = frozenset(range(1, 95))
        self.max_neighbors = source.neighbour_cap(max_neighbors)
        self.options = (("checkpoint", source.kind), ("max_neighbors", str(self.max_neighbors)))
        self._depth = layers.index(layer) + 1
        self._mean, self._std = source.mean, source.std
        self.origin = source.origin

    @property
    def has_energy(self) -> bool:
        return True

    def config(self) -> Sizes:
        return _sizes(self.module)

    def fresh(self) -> nn.Module:
        return _fresh(self.config())

    def species_rows(self, z: int) -> Sequence[Tensor]:
        return [cast(Any, self.module).emb.emb.weight[z]]

    def blocks(self) -> dict[str, Sequence[nn.Module]]:
        net = cast(Any, self.module)
        named: dict[str, Sequence[nn.Module]] = {"embedding": [net.rbf, net.emb, net.output_blocks[0]]}
        pairs = list(zip(net.interaction_blocks, net.output_blocks[1:], strict=True))
        for i, (interaction, output) in enumerate(pairs):
            named[f"interaction{i + 1}"] = [interaction, *_hidden(output)]
        return named | {"readout": [output.lin for _, output in pairs]}

    @property
    def extensive(self) -> bool:
        return float(self._mean) == 0.0

    def hops(self, energies: bool) -> int:
        return 1 + (len(cast(Any, self.module).interaction_blocks) if energies else self._depth)

    def prepare(self, graph: Graph) -> Graph:
        return nearest_edges(graph, self.max_neighbors) if self.max_neighbors else graph

    def on_edges(self, graph: Graph, vectors: Float[Tensor, "edges 3"], energies: bool = True) -> BackboneOutput:
        net = cast(Any, self.module)
        centre, neighbour = graph.edge_index
        inner, outer = triplets(graph)
        lengths = vectors.norm(dim=1)
        radial = net.rbf(lengths)
        cosine = (vectors[inner] * vectors[outer]).sum(1) / (lengths[inner] * lengths[outer])
        angular = _spherical(net.sbf, lengths, cosine, outer)
        message = net.emb(graph.numbers, radial, centre, neighbour)
        site = _output(net.output_blocks[0], message, radial, centre, len(graph.numbers))[1]
        features = site
        for depth, block in enumerate(net.interaction_blocks):
            message = block(message, radial, angular, outer, inner)
            hidden, part = _output(net.output_blocks[depth + 1], message, radial, centre, len(graph.numbers))
            site = site + part
            if depth + 1 == self._depth:
                features = hidden
                if not energies:
                    return BackboneOutput(features, None)
        offset = self._mean / graph.n_atoms[graph.owner]  # the normaliser's mean is per structure
        return BackboneOutput(features, site[:, 0] * self._std + offset.to(site.dtype))


def triplets(graph: Graph) -> tuple[Int[Tensor, " triplets"], Int[Tensor, " triplets"]]:
    """Pairs of edges i - j and j - k; k may be any atom but i itself, other images of i included."""
    centre, neighbour = graph.edge_index
    order = torch.argsort(centre, stable=True)
    degree = torch.bincount(centre, minlength=len(graph.numbers))
    start = torch.cumsum(degree, 0) - degree
    partners = degree[neighbour]
    inner = torch.repeat_interleave(torch.arange(len(centre), device=centre.device), partners)
    first = torch.repeat_interleave(torch.cumsum(partners, 0) - partners, partners)
    outer = order[start[neighbour][inner] + torch.arange(len(inner), device=centre.device) - first]
    back = (neighbour[outer] == centre[inner]) & (graph.shifts[inner] + graph.shifts[outer] == 0).all(1)
    return inner[~back], outer[~back]


def save_dimenet(network: nn.Module, path: str | Path) -> None:
    """Write a ``torch_geometric.nn.models.DimeNetPlusPlus`` as a checkpoint that ``Dimenet`` reads."""
    save(path, "dimenet++", network, _sizes(network))


def new_dimenet(sizes: Sizes, layer: str = "interaction2") -> Dimenet:
    """A DimeNet++ with random weights, from torch's global generator.

    Args:
        sizes: those that differ from ``DEFAULT_SIZES``; lengths in angstrom.

    Raises:
        BackboneError: an unknown size.
    """
    return Dimenet(WeightsFile.new("dimenet++", _fresh, DEFAULT_SIZES, sizes), layer)


def _sizes(network: nn.Module) -> Sizes:
    net = cast(Any, network)
    block, output = net.interaction_blocks[0], net.output_blocks[0]
    return {
        "hidden_channels": block.lin_ji.out_features,
        "num_blocks": len(net.interaction_blocks),
        "out_emb_channels": output.lin_up.out_features,
        "num_spherical": net.sbf.num_spherical,
        "num_radial": net.sbf.num_radial,
        "cutoff": float(net.cutoff),
        "int_emb_size": block.lin_down.out_features,
        "basis_emb_size": block.lin_rbf1.out_features,
        "envelope_exponent": net.rbf.envelope.p - 1,
        "num_before_skip": len(block.layers_before_skip),
        "num_after_skip": len(block.layers_after_skip),
        "num_output_layers": len(output.lins),
    }


def _fresh(sizes: Sizes) -> nn.Module:
    """A network with random weights: a copy, since sympy takes seconds to write the basis of a new one."""
    network: Any = deepcopy(_template(tuple(sorted(sizes.items()))))
    network.reset_parameters()
    return cast(nn.Module, network)


@lru_cache(maxsize=4)
def _template(sizes: tuple[tuple[str, object], ...]) -> nn.Module:
    from torch_geometric.nn.models import DimeNetPlusPlus

    with torch.random.fork_rng(devices=[]):
        network: Any = DimeNetPlusPlus(out_channels=1, **dict(sizes))
    basis = network.sbf
    size = basis.num_spherical, basis.num_radial
    basis.bessel_funcs = [_Bessel(*size, place, function) for place, function in enumerate(basis.bessel_funcs)]
    basis.sph_funcs = []  # see above
    return cast(nn.Module, network)


@final
class _Bessel:
    """A radial function of the basis, which sympy wrote: a pickle holds what it was written from."""

    def __init__(self, num_spherical: int, num_radial: int, place: int, written: Callable[[Tensor], Tensor]) -> None:
        self._made_from = num_spherical, num_radial, place
        self._written = written

    def __call__(self, x: Float[Tensor, " edges"]) -> Float[Tensor, " edges"]:
        return self._written(x)

    def __deepcopy__(self, memo: object) -> _Bessel:
        return self  # nothing changes it

    def __reduce__(self) -> tuple[Callable[[int, int, int], _Bessel], tuple[int, int, int]]:
        return _bessel, self._made_from


def _bessel(num_spherical: int, num_radial: int, place: int) -> _Bessel:
    return _Bessel(num_spherical, num_radial, place, _bessels(num_spherical, num_radial)[place])


@lru_cache(maxsize=1)
def _bessels(num_spherical: int, num_radial: int) -> Sequence[Callable[[Tensor], Tensor]]:
    from torch_geometric.nn.models.dimenet import SphericalBasisLayer

    return cast(Sequence[Callable[[Tensor], Tensor]], SphericalBasisLayer(num_spherical, num_radial).bessel_funcs)


def _network(checkpoint: WeightsFile) -> nn.Module:
    network = _fresh(checkpoint.sizes)
    checkpoint.fill(network, ("atomic_mass",))
    return network.eval().requires_grad_(False)


def _spherical(
    basis: Any, lengths: Float[Tensor, " edges"], cosine: Float[Tensor, " triplets"], outer: Int[Tensor, " triplets"]
) -> Float[Tensor, "triplets basis"]:
    """Spherical Bessel functions of |jk| times Y_l0 of the angle (arXiv 2003.03123, eq. 6)."""
    scaled = lengths / basis.cutoff
    bessel = torch.stack([function(scaled) for function in basis.bessel_funcs], 1)
    bessel = (basis.envelope(scaled)[:, None] * bessel)[outer]
    legendre = [torch.ones_like(cosine), cosine]
    for degree in range(1, basis.num_spherical - 1):
        ahead = (2 * degree + 1) * cosine * legendre[degree] - degree * legendre[degree - 1]
        legendre.append(ahead / (degree + 1))
    norms = [math.sqrt((2 * degree + 1) / (4 * math.pi)) for degree in range(basis.num_spherical)]
    angular = torch.stack([norm * p for norm, p in zip(norms, legendre, strict=False)], 1)
    product: Tensor = bessel.unflatten(1, (basis.num_spherical, basis.num_radial)) * angular[:, :, None]
    return product.flatten(1)


def _hidden(output: Any) -> list[nn.Module]:
    return [output.lin_rbf, output.lin_up, output.lins]


def _output(
    block: Any, message: Tensor, radial: Tensor, centre: Tensor, n_atoms: int
) -> tuple[Float[Tensor, "atoms hidden"], Float[Tensor, "atoms 1"]]:
    """The block's hidden state and what it gives out."""
    weighted = block.lin_rbf(radial) * message
    state = block.lin_up(weighted.new_zeros(n_atoms, weighted.shape[1]).index_add(0, centre, weighted))
    for layer in block.lins:
        state = block.act(layer(state))
    return state, block.lin(state)

"""Energies of some atoms of a structure, of which nothing is known but what surrounds them.

One rank of a simulation has atoms of its own, and copies of others' around them, from as far away as the backbone
reaches. The energies of its own atoms are those of the whole structure. Their derivatives by the edges' vectors,

    F_j = - sum_{e: i -> j} g_e + sum_{e: j -> k} g_e,    W = - sum_e r_e g_e',    g_e = dE_own / dr_e,

are summed to forces on all atoms, copies included, and to a virial; over all ranks, with copies counted to the atoms
that they are copies of, these are the forces and the virial of the whole structure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch
from mekrr_scale.backbones import BackboneOutput, evaluating
from mekrr_scale.errors import ModelError
from mekrr_scale.models.posterior import Variances
from mekrr_scale.models.potential import Potential
from mekrr_scale.structures import Graph, edge_vectors


@dataclass(frozen=True)
class PieceResult:
    """What the energies of the own atoms are, and give; the own atoms are the first ones."""

    energies: Float64[Tensor, " own"]  # eV
    forces: Float64[Tensor, "atoms 3"]  # eV/angstrom
    virials: Float64[Tensor, "atoms 3 3"]  # eV; of the edges that begin at each atom
    features: Float64[Tensor, "own dim"]

    @property
    def finite(self) -> bool:
        """Whether all of it are numbers."""
        return bool(self.energies.isfinite().all() and self.forces.isfinite().all())


@dataclass(frozen=True)
class Images:
    """Where all atoms are own ones, or images of them: a periodic structure on one rank."""

    of: Int64[Tensor, " atoms"]  # the own atom that each is, or is an image of
    cell: Float64[Tensor, "3 3"]  # angstrom; rows are lattice vectors


def check_pieces(potential: Potential) -> None:
    """Refuse models whose energies are no sums over atoms that know their surroundings alone.

    Raises:
        ModelError: says why.
    """
    if potential.model.kernel.reduce == "mean":
        raise ModelError("the model's kernel compares means of whole structures (reduce mean); fit it with reduce sum")
    if potential.dispersion is not None:
        raise ModelError(
            "D3 dispersion takes a structure as a whole; leave it to the engine, e.g. LAMMPS' dispersion/d3"
        )
    if potential.corrects:
        raise ModelError("the model corrects another potential, which does not take a structure in pieces")
    if potential.adds_own and not potential.backbone.extensive:
        raise ModelError(
            f"the model adds the energies of {potential.backbone.name}, which hold means of whole structures; fit it "
            "with baseline composition"
        )


def surroundings(graph: Graph, own: int, hops: int) -> tuple[Graph, Int64[Tensor, " kept"]]:
    """The part of a graph that the first ``own`` atoms see within some hops, and the atoms that it has."""
    centre, neighbour = graph.edge_index
    near = torch.zeros(len(graph.numbers), dtype=torch.bool, device=centre.device)
    near[:own] = True
    for _ in range(hops - 1):
        near[neighbour[near[centre]]] = True
    part = graph.with_edges((near[centre] | near[neighbour]).nonzero()[:, 0])
    used = torch.zeros_like(near)
    used[:own] = True
    used[part.edge_index.flatten()] = True
    return part.with_atoms(used), used.nonzero()[:, 0]


def folded(graph: Graph, own: int, images: Images) -> Graph:
    """The periodic graph of the own atoms, by the edges that begin at them."""
    part = graph.with_edges((graph.edge_index[0] < own).nonzero()[:, 0])
    centre, neighbour = part.edge_index
    found = images.of[neighbour]
    moved = graph.positions[neighbour] - graph.positions[found]
    return replace(
        part,
        numbers=part.numbers[:own],
        positions=part.positions[:own],
        owner=part.owner[:own],
        cell=images.cell[None],
        edge_index=torch.stack([centre, found]),
        shifts=torch.linalg.solve(images.cell.T, moved.T).T.round(),
    )


def evaluate_piece(potential: Potential, graph: Graph, own: int, images: Images | None = None) -> PieceResult:
    """Energies of the first ``own`` atoms, and what they give.

    Args:
        graph: without periods; all that is within the backbone's reach of the own atoms. It may lie on any device;
            results lie in the host's memory.
        images: if there are no other atoms; then all that is within the cutoff will do.

    Raises:
        ModelError: a species that the model was not fitted on.
    """
    backbone = potential.backbone
    if images is None:
        part, kept = surroundings(graph, own, max(backbone.hops(potential.adds_own), 1))
    else:
        part, kept = folded(graph, own, images), torch.arange(own)
    backbone.check_species(part.numbers.unique().tolist())
    potential.model.check_species(part.numbers.unique().tolist())
    with evaluating():
        part = backbone.prepare(part).to(backbone.device, backbone.dtype)
        part = potential.within_memory(part, potential.adds_own)
        vectors = edge_vectors(part, part.positions).detach().requires_grad_(True)
        whole = potential.on_edges(part, vectors, potential.adds_own)
        output = BackboneOutput(whole.features[:own], None if whole.energies is None else whole.energies[:own])
        numbers = part.numbers[:own].cpu()
        values, gradient = potential.head.atoms(output.features.detach(), numbers, torch.zeros_like(numbers), 1, True)
        assert gradient is not None
        (slopes,) = potential.slopes(output, gradient, [vectors])
    energies = values.cpu() + potential.references[numbers]
    if potential.adds_own and output.energies is not None:
        energies = energies + output.energies.detach().cpu().double()
    slope, vector = slopes.double(), vectors.detach().double()
    centre, neighbour = kept.to(slope.device)[part.edge_index]
    forces = slope.new_zeros(len(graph.numbers), 3)
    forces.index_add_(0, centre, slope).index_add_(0, neighbour, -slope)
    outer = torch.einsum("ek,el->ekl", vector, slope)
    virials = slope.new_zeros(len(graph.numbers), 3, 3)
    virials.index_add_(0, centre, -(outer + outer.mT) / 2)
    return PieceResult(energies, forces.cpu(), virials.cpu(), output.features.detach().cpu().double())


def energy_uncertainty(
    variances: Variances, features: Float64[Tensor, "atoms dim"], numbers: Int64[Tensor, " atoms"]
) -> float:
    """Of the energy of a structure whose features are known (eV, 68 %)."""
    batch = FeatureBatch.unlabelled(features, numbers, torch.tensor([len(numbers)]))
    return variances.posterior.energy.within_68 * float(variances.structures(batch).sqrt()[0])

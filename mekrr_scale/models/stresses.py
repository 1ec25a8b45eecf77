"""Stress taken apart into atoms' shares."""

from __future__ import annotations

from dataclasses import replace

from ase import Atoms
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.backbones import evaluating
from mekrr_scale.errors import ModelError
from mekrr_scale.models.potential import Potential


def atomic_stresses(potential: Potential, atoms: Atoms) -> Float64[Tensor, "atoms 3 3"]:
    """Each atom's share of the stress (eV/angstrom^3); they add up to it.

    An atom's share is the derivative of the energy by a strain of the edges that begin at it, over the whole volume:
    there is no unique one, and this is the split that ASE's pair potentials make.

    Raises:
        ModelError: the model corrects another potential, whose share is not known; or there is no cell.
    """
    if potential.dispersion is not None:
        raise ModelError("D3 dispersion is added, whose stress has no shares of atoms")
    if potential.corrects:
        raise ModelError("the model corrects another potential, whose stress has no shares of atoms")
    if atoms.cell.rank < 3 or not atoms.pbc.any():
        raise ModelError("there is no stress without a periodic cell")
    backbone = potential.backbone
    graph = backbone.graph([atoms])
    potential.model.check_species(graph.numbers.unique().tolist())
    count = len(atoms)
    apart = replace(graph, cell=graph.cell.expand(count, 3, 3), edge_owner=graph.edge_index[0], volume=None)
    apart = potential.within_memory(apart, potential.adds_own)
    with evaluating():
        strain = graph.positions.new_zeros(count, 3, 3).requires_grad_(True)
        output = backbone.forward(apart, graph.positions.detach().clone(), strain, energies=potential.adds_own)
        _, gradient = potential.head.atoms(output.features.detach(), graph.numbers.cpu(), graph.owner.cpu(), 1, True)
        assert gradient is not None
        (virial,) = potential.slopes(output, gradient, [strain])
    found = virial.cpu().double()
    return (found + found.transpose(1, 2)) / (2 * float(atoms.get_volume()))

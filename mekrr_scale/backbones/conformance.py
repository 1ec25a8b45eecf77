"""Checks that every backbone has to pass; an adapter of your own earns its tests by one call."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import torch
from ase import Atoms
from ase.symbols import symbols2numbers
from jaxtyping import Int
from torch import Tensor

from mekrr_scale.backbones.base import Backbone
from mekrr_scale.backbones.derivatives import Directions, tangents, tangents_of_each
from mekrr_scale.errors import BackboneError, MekrrError
from mekrr_scale.structures import Graph, edge_vectors


def check_backbone(backbone: Backbone, elements: tuple[str, str] = ("Si", "O")) -> None:
    """Run the conformance suite in float64; the backbone is left in float64.

    Covers: invariance (rotation, translation, permutation, periodic images), locality, a batch equals its
    members one by one, gradients and tangents (both modes) against finite differences, a piece of a
    structure with the atoms around it (as one rank of a simulation sees it), chunks of edges where it works
    in chunks, an isolated atom, a one-atom cell smaller than the cutoff, unknown species, blocks and
    identity, new weights of the same architecture, copied species. Of a network that is compiled code
    (``scripted``) the last two and forward mode are left out, of one whose slopes run along paths (``by_paths``)
    the bound on how far away they are.

    Raises:
        BackboneError: names the check that failed and by how much.
    """
    identity = backbone.identity()
    backbone.to(dtype=torch.float64)
    _require(backbone.identity() == identity, "float64", "the identity changes with the precision")
    structure = _random_structure(elements)
    reference = backbone.features(structure)
    _require(reference.dtype == torch.float64, "float64", f"features are {reference.dtype}")
    _require(tuple(reference.shape) == (len(structure), backbone.dim), "shape", f"{tuple(reference.shape)}")
    _check_invariance(backbone, structure, reference)
    _check_locality(backbone, structure)
    _check_special_structures(backbone, structure, reference, elements[0])
    _check_derivatives(backbone, structure)
    _check_halo(backbone, structure)
    _check_chunks(backbone, structure)
    _check_description(backbone)
    if not backbone.scripted:
        _check_architecture(backbone, structure, elements)


def _check_invariance(backbone: Backbone, structure: Atoms, reference: Tensor) -> None:
    rotated = structure.copy()
    rotated.rotate(37.0, (1, 2, 3), rotate_cell=True)
    _same("rotation", backbone.features(rotated), reference)
    moved = structure.copy()
    moved.translate((0.7, -1.3, 2.1))
    _same("translation", backbone.features(moved), reference)
    moved.wrap()
    _same("wrapping into the cell", backbone.features(moved), reference)
    order = np.random.default_rng(1).permutation(len(structure))
    _same("permutation", backbone.features(structure[order]), reference[torch.from_numpy(order)])
    doubled = structure.repeat((2, 1, 1))
    _same("periodic images", backbone.features(doubled), reference.repeat(2, 1))


def _check_locality(backbone: Backbone, structure: Atoms) -> None:
    """What lies far away in the same structure changes nothing."""
    near = structure.copy()
    near.pbc = False
    far = near[:3]
    far.translate((40 * backbone.cutoff, 0.0, 0.0))
    _same("locality", backbone.features(near + far), torch.cat([backbone.features(near), backbone.features(far)]))


def _check_special_structures(backbone: Backbone, structure: Atoms, reference: Tensor, element: str) -> None:
    alone = Atoms(element, positions=[(0.0, 0.0, 0.0)])
    small = Atoms(element, cell=np.eye(3) * 0.45 * backbone.cutoff, pbc=True)
    lone = backbone.features(alone)
    _require(bool(torch.isfinite(lone).all()), "isolated atom", "features are not finite")
    tiled = backbone.features(small.repeat(2))
    _same("one-atom cell smaller than the cutoff", backbone.features(small).repeat(8, 1), tiled)
    batch = backbone.features([structure, alone, small])
    _same("batch equals one by one", batch, torch.cat([reference, lone, backbone.features(small)]))
    try:
        backbone.features(Atoms([118], positions=[(0.0, 0.0, 0.0)]))
    except MekrrError:
        return
    raise BackboneError("check 'unknown species' failed: element 118 was accepted")


def _check_derivatives(backbone: Backbone, structure: Atoms) -> None:
    graph = backbone.graph(structure)
    generator = torch.Generator().manual_seed(2)
    moves = torch.randn(3, len(structure), 3, generator=generator, dtype=torch.float64)
    skew = torch.randn(3, 3, 3, generator=generator, dtype=torch.float64)
    directions = Directions.of_displacements(moves).joined(
        Directions.of_strains((skew + skew.transpose(1, 2)) / 4, len(structure))
    )
    expected = torch.stack([_difference(backbone, graph, directions, k) for k in range(len(directions))])
    forward = tangents(backbone, graph, directions, mode="auto" if backbone.scripted else "forward", chunk=4)
    _close("forward-mode tangents against finite differences", forward.features, expected, 1e-6)
    reverse = tangents(backbone, graph, directions, mode="reverse")
    _close("reverse-mode tangents against forward mode", reverse.features, forward.features, 1e-9)
    _check_together(backbone, structure, directions, forward.features)
    if forward.energy is not None and reverse.energy is not None:
        _close("energy tangents of both modes", reverse.energy, forward.energy, 1e-9)
    positions = graph.positions.clone().requires_grad_(True)
    features = backbone.forward(graph, positions).features
    seed = torch.randn(features.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((features * seed).sum(), positions)
    pulled = torch.einsum("kad,ad->k", expected[:3], seed)
    _close("gradients against finite differences", (moves * gradient).sum((1, 2)), pulled, 1e-6)


def _check_together(backbone: Backbone, structure: Atoms, directions: Directions, expected: Tensor) -> None:
    """Tangents as an extraction takes them: by the backbone's own way, of several structures in one pass."""
    other = structure[:3]
    few = Directions(directions.displacements[:2, :3], directions.strains[3:5])
    both = tangents_of_each(backbone, backbone.graph([structure, other]), [directions, few])
    _close("tangents of one structure of several", both[0].features, expected, 1e-9)
    alone = tangents(backbone, backbone.graph(other), few, mode="reverse" if backbone.scripted else "forward", chunk=1)
    _close("tangents of a structure with fewer directions", both[1].features, alone.features, 1e-9)
    if alone.energy is not None and both[1].energy is not None:
        _close("energy tangents of one structure of several", both[1].energy, alone.energy, 1e-9)


def _check_halo(backbone: Backbone, structure: Atoms) -> None:
    """Atoms with all others within the reach give the same features, and the same forces and strain slopes by edges.

    Gradients of what the piece's own atoms give, by its edges' vectors, are summed to atoms; what falls on an image
    belongs to the atom that it is an image of.
    """
    wire = structure.copy()
    wire.pbc = (True, False, False)
    energies = backbone.has_energy and backbone.extensive
    piece, image_of = _piece(wire, backbone.reach(energies))
    n = len(wire)
    whole, part = backbone.graph(wire), backbone.graph(piece)
    positions = whole.positions.clone().requires_grad_(True)
    strain = positions.new_zeros(1, 3, 3).requires_grad_(True)
    vectors = edge_vectors(part, part.positions).requires_grad_(True)
    expected = backbone.forward(whole, positions, strain, energies)
    found = backbone.on_edges(part, vectors, energies)
    _same("features within the reach", found.features[:n].detach(), expected.features.detach())
    seed = torch.randn(n, backbone.dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    own, all_of = (found.features[:n] * seed).sum(), (expected.features * seed).sum()
    if energies and found.energies is not None and expected.energies is not None:
        _same("energies within the reach", found.energies[:n].detach(), expected.energies.detach())
        own, all_of = own + found.energies[:n].sum(), all_of + expected.energies.sum()
    (slopes,) = torch.autograd.grad(own, vectors)
    moved, strained = torch.autograd.grad(all_of, [positions, strain])
    centre, neighbour = image_of[part.edge_index]
    summed = torch.zeros_like(moved).index_add(0, neighbour, slopes).index_add(0, centre, -slopes)
    _close("gradients of edges, summed to atoms", summed, moved, 1e-7)
    virial = torch.einsum("ek,el->kl", vectors.detach(), slopes)
    _close("gradients of edges, summed to strains", virial, strained[0], 1e-7)
    for asked in {False, energies} if not backbone.by_paths else ():
        _check_hops(backbone, part, asked)


def _check_chunks(backbone: Backbone, structure: Atoms) -> None:
    """In chunks of some edges all is as it is at once, derivatives by positions and strain too."""
    if not backbone.in_chunks:
        return
    graph = backbone.graph(structure)
    whole = _with_slopes(backbone, graph)
    for at_once in (7, graph.edge_index.shape[1] + 1):
        parts = _with_slopes(backbone, replace(graph, at_once=at_once))
        for name, found, expected in zip(("values", "forces", "strain slopes"), parts, whole, strict=True):
            _close(f"{name} in chunks of {at_once} edges", found, expected, 1e-9)
    alone = replace(backbone.graph(Atoms(structure.numbers[:1], positions=[(0.0, 0.0, 0.0)])), at_once=7)
    plain = backbone.forward(replace(alone, at_once=None), alone.positions).features
    _same("an isolated atom in chunks", backbone.forward(alone, alone.positions).features, plain)


def _with_slopes(backbone: Backbone, graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
    """All that is given of a graph, and derivatives of a sum of it by positions and strain."""
    positions = graph.positions.clone().requires_grad_(True)
    strain = positions.new_zeros(graph.n_structures, 3, 3).requires_grad_(True)
    found = backbone.forward(graph, positions, strain, backbone.has_energy)
    values = torch.cat([found.features, *([] if found.energies is None else [found.energies[:, None]])], 1)
    seed = torch.randn(values.shape, generator=torch.Generator().manual_seed(4), dtype=values.dtype)
    by_positions, by_strain = torch.autograd.grad(values, [positions, strain], seed)
    return values.detach(), by_positions, by_strain


def _check_hops(backbone: Backbone, graph: Graph, energies: bool) -> None:
    """Nothing depends on edges that more edges lead to than ``hops`` says: there gradients are zero, not small."""
    vectors = edge_vectors(graph, graph.positions).requires_grad_(True)
    found = backbone.on_edges(graph, vectors, energies)
    asked = found.features[0].sum() if not energies or found.energies is None else found.energies[0]
    (slopes,) = torch.autograd.grad(asked, vectors)
    centre, neighbour = graph.edge_index
    away = torch.full((len(graph.numbers),), torch.inf)
    away[0] = 0
    for hop in range(backbone.hops(energies)):
        reached = neighbour[away[centre] == hop]
        away[reached] = away[reached].clamp_max(hop + 1)
    beyond = away[centre] >= backbone.hops(energies)
    beyond &= away[neighbour] >= backbone.hops(energies)
    far = int((slopes.abs().amax(1)[beyond] > 0).sum())
    _require(far == 0, "hops", f"{far} edges count that are more than {backbone.hops(energies)} edges away")


def _piece(wire: Atoms, reach: float) -> tuple[Atoms, Int[Tensor, " atoms"]]:
    """A cell of a structure that is periodic along its first vector with all images that are near, without a period."""
    copies = math.ceil(reach / wire.cell.lengths()[0]) + 1
    piece, image_of = wire.copy(), list(range(len(wire)))
    for shift in (k for k in range(-copies, copies + 1) if k):
        images = wire.copy()
        images.translate(shift * wire.cell[0])
        near = np.linalg.norm(images.positions[:, None] - wire.positions[None], axis=2).min(1) < reach
        piece += images[near]
        image_of += np.flatnonzero(near).tolist()
    piece.pbc = False
    return piece, torch.tensor(image_of)


def _difference(backbone: Backbone, graph: Graph, directions: Directions, k: int, step: float = 2e-5) -> Tensor:
    """Fourth-order central difference of the features along one direction."""

    def at(t: float) -> Tensor:
        with torch.no_grad():
            moved = graph.positions + t * directions.displacements[k]
            return backbone.forward(graph, moved, t * directions.strains[k][None]).features

    return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)


def _check_description(backbone: Backbone) -> None:
    blocks = backbone.blocks()
    named = {id(p) for modules in blocks.values() for m in modules for p in m.parameters()}
    _require(bool(named), "blocks", "no block has parameters")
    _require(list(blocks)[-1] == "readout", "blocks", "the last block is not called 'readout'")
    counted = sum(len({id(p) for m in modules for p in m.parameters()}) for modules in blocks.values())
    _require(counted == len(named), "blocks", "a parameter belongs to two blocks")
    _require(backbone.identity() == backbone.identity(), "identity", "it changes from call to call")


def _check_architecture(backbone: Backbone, structure: Atoms, elements: tuple[str, str]) -> None:
    """On a copy: ``species_rows`` holds all that tells two elements apart, ``fresh`` the same parameters."""
    copied = copy.deepcopy(backbone)
    source, target = (int(z) for z in symbols2numbers(elements))
    with torch.no_grad():
        for given, taken in zip(copied.species_rows(source), copied.species_rows(target), strict=True):
            taken.copy_(given)
    alike = structure.copy()
    alike.numbers[:] = source
    _same("copied species", copied.features(structure), backbone.features(alike))
    fresh, own = dict(backbone.fresh().named_parameters()), dict(backbone.module.named_parameters())
    shapes = {name: weight.shape for name, weight in own.items()}
    _require({n: w.shape for n, w in fresh.items()} == shapes, "fresh", "other parameters")
    learning = backbone.parameters()
    _require(list(learning) == list(backbone.blocks()), "parameters", "other blocks than those of blocks()")
    changed = [n for named in learning.values() for n, w in named.items() if not torch.equal(fresh[n].to(w), w)]
    _require(bool(changed), "fresh", "the same weights")


def _random_structure(elements: tuple[str, str]) -> Atoms:
    generator = np.random.default_rng(0)
    grid = Atoms(
        [elements[i % 2] for i in range(8)],
        scaled_positions=np.stack(np.meshgrid([0, 0.5], [0, 0.5], [0, 0.5]), -1).reshape(-1, 3),
        cell=[[4.6, 0.0, 0.0], [0.4, 4.9, 0.0], [0.2, 0.5, 5.1]],
        pbc=True,
    )
    grid.positions += generator.normal(scale=0.25, size=grid.positions.shape)
    return grid


def _require(holds: bool, check: str, found: str) -> None:
    if not holds:
        raise BackboneError(f"check '{check}' failed: {found}")


def _same(check: str, value: Tensor, expected: Tensor) -> None:
    _close(check, value, expected, 1e-8)


def _close(check: str, value: Tensor, expected: Tensor, tolerance: float) -> None:
    _require(value.shape == expected.shape, check, f"shape {tuple(value.shape)} instead of {tuple(expected.shape)}")
    error = float((value - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    _require(error <= tolerance, check, f"relative difference {error:.1e}, allowed {tolerance:.0e}")

"""Positions and cells that have given edges: what a network needs that reads these, as a function of edge vectors.

A forest reaches all atoms along edges, o_a lattice vectors away from where they stand. Along an edge from a to b with
shift s

    place_b = place_a + v,    o_b = o_a + s,    r_b = place_b - o_b C.

An edge outside of the forest closes a loop: v - (place_b - place_a) = (s + o_a - o_b) C. Three independent loops (fewer
where fewer directions are closed) give the cell C; what no loop tells of it stays what it is.

Derivatives run along the forest. Where it matters only how atoms stand to one another, their sums over atoms and over
strains are the derivatives by positions and cell, whichever forest was taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy import ndarray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components
from torch import Tensor

from mekrr_scale.structures import Graph


@dataclass(frozen=True)
class Geometry:
    """Where atoms stand, differentiable in the vectors of the edges."""

    positions: Float64[Tensor, "atoms 3"]  # angstrom
    cell: Float64[Tensor, "structures 3 3"]  # angstrom


def unfolded(graph: Graph, vectors: Float[Tensor, "edges 3"]) -> Geometry:
    """The geometry of a graph whose edges have these vectors (angstrom), which some geometry of it has."""
    vectors = vectors.double()
    edges, shifts = graph.edge_index.cpu().numpy(), graph.shifts.cpu().numpy().round().astype(np.int64)
    n_atoms = len(graph.numbers)
    parent, by, depth = _forest(edges, n_atoms)
    places, offsets = graph.positions.detach().double(), np.zeros((n_atoms, 3), dtype=np.int64)
    for level in range(1, int(depth.max(initial=0)) + 1):
        reached = np.flatnonzero(depth == level)
        offsets[reached] = offsets[parent[reached]] + shifts[by[reached]]
        at, of, along = (
            torch.from_numpy(index).to(vectors.device) for index in (reached, parent[reached], by[reached])
        )
        places = places.index_copy(0, at, places[of] + vectors[along])
    loops = shifts + offsets[edges[0]] - offsets[edges[1]]
    owner = graph.edge_owner.cpu().numpy()
    cells = []
    for structure, cell in enumerate(graph.cell.detach().double()):
        own = np.flatnonzero((owner == structure) & loops.any(1))
        cells.append(_cell(cell, graph, vectors, places, own[_independent(loops[own])], loops))
    cell = torch.stack(cells)
    moved = torch.from_numpy(offsets).to(cell)
    return Geometry(places - torch.einsum("ak,akl->al", moved, cell[graph.owner]), cell)


def _cell(
    cell: Float64[Tensor, "3 3"],
    graph: Graph,
    vectors: Float64[Tensor, "edges 3"],
    places: Float64[Tensor, "atoms 3"],
    closing: Int64[ndarray, " loops"],
    loops: Int64[ndarray, "edges 3"],
) -> Float64[Tensor, "3 3"]:
    """With what loops tell of it."""
    if not len(closing):
        return cell
    at = torch.from_numpy(closing).to(vectors.device)
    centre, neighbour = graph.edge_index[:, at]
    around = torch.from_numpy(loops[closing]).to(cell)
    told = vectors[at] - (places[neighbour] - places[centre])
    found: Tensor = cell + torch.linalg.pinv(around) @ (told - around @ cell)
    return found


def _forest(
    edges: Int64[ndarray, "2 edges"], n_atoms: int
) -> tuple[Int64[ndarray, " atoms"], Int64[ndarray, " atoms"], Int64[ndarray, " atoms"]]:
    """Of each atom the one before it, the edge from there, and how many edges lead to it; roots have none."""
    _, first = np.unique(edges[0] * n_atoms + edges[1], return_index=True)
    centre, neighbour = edges[:, first]
    linked = csr_matrix((first + 1, (centre, neighbour)), shape=(n_atoms, n_atoms))
    _, component = connected_components(linked, directed=False)
    _, roots = np.unique(component, return_index=True)
    # one more atom, from which all roots are reached
    begin, end = np.append(centre, np.full(len(roots), n_atoms)), np.append(neighbour, roots)
    whole = csr_matrix((np.ones(len(begin)), (begin, end)), shape=(n_atoms + 1, n_atoms + 1))
    order, before = breadth_first_order(whole, n_atoms)
    parent, by, depth = (np.zeros(n_atoms, dtype=np.int64) for _ in range(3))
    for atom in order[1:]:
        if before[atom] < n_atoms:
            parent[atom], depth[atom] = before[atom], depth[before[atom]] + 1
    inner = np.flatnonzero(depth)
    if len(inner):
        by[inner] = np.asarray(linked[parent[inner], inner]).ravel() - 1
    return parent, by, depth


def _independent(rows: Int64[ndarray, "rows 3"]) -> Int64[ndarray, " chosen"]:
    """Shortest rows that are independent of one another, at most three."""
    if not len(rows):
        return np.zeros(0, dtype=np.int64)
    distinct, first = np.unique(rows, axis=0, return_index=True)
    chosen: list[int] = []
    for row in np.argsort((distinct**2).sum(1), kind="stable"):
        if len(chosen) < 3 and np.linalg.matrix_rank(distinct[[*chosen, row]]) > len(chosen):
            chosen.append(int(row))
    return np.asarray(first[chosen], dtype=np.int64)

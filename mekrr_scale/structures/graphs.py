"""ASE structures to tensors with a periodic neighbour list (vesin).

Convention, used everywhere: an edge goes from a centre ``i = edge_index[0]`` to a neighbour
``j = edge_index[1]``; its vector is ``r_j + shift @ cell - r_i``. Every pair is there twice,
once from each end. Under a strain ``eps`` positions and cells become ``r (1 + eps)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import vesin
from ase import Atoms
from jaxtyping import Float, Int
from torch import Tensor

from mekrr_scale.errors import StructureError
from mekrr_scale.structures.limits import check_crowding


@dataclass(frozen=True)
class Graph:
    """One structure or several, as one disconnected graph."""

    numbers: Int[Tensor, " atoms"]  # atomic numbers
    positions: Float[Tensor, "atoms 3"]  # angstrom
    cell: Float[Tensor, "structures 3 3"]  # angstrom; rows are lattice vectors
    edge_index: Int[Tensor, "2 edges"]  # centre, neighbour
    shifts: Float[Tensor, "edges 3"]  # lattice vectors added to the neighbour
    owner: Int[Tensor, " atoms"]  # the structure of each atom
    edge_owner: Int[Tensor, " edges"]  # the structure of each edge

    @property
    def n_structures(self) -> int:
        return int(self.cell.shape[0])

    @property
    def n_atoms(self) -> Int[Tensor, " structures"]:
        return torch.bincount(self.owner, minlength=self.n_structures)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Graph:
        """The same graph on another device, floats in another precision."""
        return Graph(
            numbers=self.numbers.to(device),
            positions=self.positions.to(device, dtype),
            cell=self.cell.to(device, dtype),
            edge_index=self.edge_index.to(device),
            shifts=self.shifts.to(device, dtype),
            owner=self.owner.to(device),
            edge_owner=self.edge_owner.to(device),
        )

    def with_edges(self, keep: Int[Tensor, " kept"]) -> Graph:
        """The graph with the edges of the given indices only."""
        return replace(
            self,
            edge_index=self.edge_index[:, keep],
            shifts=self.shifts[keep],
            edge_owner=self.edge_owner[keep],
        )


def build_graph(atoms: Atoms | Sequence[Atoms], cutoff: float) -> Graph:
    """Neighbour lists of structures within a cutoff (angstrom), in float64.

    Any mixture of periodic directions is allowed; an atom may neighbour its own images, so
    cells smaller than the cutoff are exact.

    Raises:
        StructureError: no atoms, positions that are not finite, or a periodic direction whose
            lattice vector is missing.
    """
    structures = [atoms] if isinstance(atoms, Atoms) else list(atoms)
    finder = vesin.NeighborList(cutoff=cutoff, full_list=True)
    edges, shifts, owners, edge_owners = [], [], [], []
    first = 0
    for index, structure in enumerate(structures):
        check_geometry(structure)
        check_crowding(structure, cutoff)
        i, j, shift = finder.compute(
            points=structure.positions, box=_box(structure), periodic=structure.pbc, quantities="ijS"
        )
        edges.append(np.stack([i, j]).astype(np.int64) + first)
        shifts.append(shift.astype(np.float64).reshape(-1, 3))
        owners.append(np.full(len(structure), index))
        edge_owners.append(np.full(len(i), index))
        first += len(structure)
    return Graph(
        numbers=torch.from_numpy(np.concatenate([a.numbers for a in structures]).astype(np.int64)),
        positions=torch.from_numpy(np.concatenate([a.positions for a in structures])),
        cell=torch.from_numpy(np.stack([_box(a) for a in structures])),
        edge_index=torch.from_numpy(np.concatenate(edges, axis=1)),
        shifts=torch.from_numpy(np.concatenate(shifts)),
        owner=torch.from_numpy(np.concatenate(owners)),
        edge_owner=torch.from_numpy(np.concatenate(edge_owners)),
    )


class SkinList:
    """Neighbour lists of one structure that moves: made again only when an atom may have come into reach.

    A list up to cutoff + skin serves until an atom has moved by half the skin; edges beyond the
    cutoff are left out each time, so that the graph is always the exact one.

    Args:
        cutoff: in angstrom.
        skin: in angstrom; 0 makes every list anew.
    """

    def __init__(self, cutoff: float, skin: float = 0.5) -> None:
        self.cutoff, self.skin = cutoff, skin
        self.builds = 0
        self._made: tuple[Atoms, Graph] | None = None

    def graph(self, atoms: Atoms) -> Graph:
        """The graph at the present positions.

        Raises:
            StructureError: see ``build_graph``.
        """
        if self._made is None or self._stale(self._made[0], atoms):
            self._made = atoms.copy(), build_graph(atoms, self.cutoff + self.skin)
            self.builds += 1
        wide = replace(self._made[1], positions=torch.from_numpy(atoms.positions.astype(np.float64)))
        near = edge_vectors(wide, wide.positions).square().sum(1) < self.cutoff**2
        return wide.with_edges(near.nonzero()[:, 0])

    def forget(self) -> None:
        """Make the next list anew: the order of the edges, and with it rounding, then follows from positions alone."""
        self._made = None

    def _stale(self, before: Atoms, now: Atoms) -> bool:
        if self.skin <= 0 or len(before) != len(now) or not np.isfinite(now.positions).all():
            return True
        same = (before.numbers == now.numbers).all() and (before.pbc == now.pbc).all()
        if not same or not np.array_equal(before.cell.array, now.cell.array):
            return True
        moved = np.square(now.positions - before.positions).sum(1).max(initial=0.0)
        return bool(moved > (self.skin / 2) ** 2)


def check_geometry(atoms: Atoms) -> None:
    """Refuse a geometry that no neighbour list can be made of.

    Raises:
        StructureError: says what is wrong with it.
    """
    if len(atoms) == 0:
        raise StructureError("a structure has no atoms; leave it out of the input")
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise StructureError("positions or cell are not finite numbers; correct the structure")
    if atoms.pbc.any():
        lengths = np.linalg.norm(_box(atoms), axis=1)
        if abs(np.linalg.det(_box(atoms))) < 1e-6 * max(float(np.prod(lengths)), 1e-12):
            raise StructureError(
                f"the structure is periodic (pbc={atoms.pbc.tolist()}) but its cell has no volume; "
                "set the cell, or pbc=False for a molecule"
            )


def edge_vectors(
    graph: Graph,
    positions: Float[Tensor, "atoms 3"],
    strain: Float[Tensor, "structures 3 3"] | None = None,
) -> Float[Tensor, "edges 3"]:
    """Vectors from centre to neighbour (angstrom), differentiable in positions and strain."""
    centre, neighbour = graph.edge_index
    offsets = torch.einsum("ek,ekl->el", graph.shifts, graph.cell[graph.edge_owner])
    vectors = positions[neighbour] - positions[centre] + offsets
    if strain is not None:
        vectors = vectors + torch.einsum("ek,ekl->el", vectors, strain[graph.edge_owner])
    return vectors


def nearest_edges(graph: Graph, most: int) -> Graph:
    """Keep at most the given number of nearest neighbours of each centre.

    OC20's SchNet was trained with such a cap (50), which changes its features. Of neighbours
    at equal distances those that come first in the list stay.
    """
    lengths = edge_vectors(graph, graph.positions).norm(dim=1)
    order = torch.from_numpy(np.lexsort((lengths.numpy().round(8), graph.edge_index[0].numpy())))
    counts = torch.bincount(graph.edge_index[0], minlength=len(graph.numbers))
    starts = torch.cumsum(counts, 0) - counts
    place = torch.arange(len(order)) - torch.repeat_interleave(starts, counts)
    return graph.with_edges(order[place < most].sort().values)


def _box(atoms: Atoms) -> np.ndarray:
    """The cell with unit vectors put in for missing directions that are not periodic."""
    return np.asarray(atoms.cell.complete().array if atoms.cell.rank < 3 else atoms.cell.array, dtype=np.float64)

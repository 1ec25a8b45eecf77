"""ASE structures to tensors with a periodic neighbour list.

Convention, used everywhere: an edge goes from a centre ``i = edge_index[0]`` to a neighbour
``j = edge_index[1]``; its vector is ``r_j + shift @ cell - r_i``. Every pair is there twice,
once from each end. Under a strain ``eps`` positions and cells become ``r (1 + eps)``.

Edge vectors of structures that reach far are differences of positions in float64, which are cast to
the network's precision then: where a structure stands, and in which images its atoms are, changes
nothing. Near the origin float32 holds positions to 2e-6 angstrom, and differences are taken in the
network's precision, as version 0.1.0 took them: the numbers of its files stay the same to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from mekrr_scale.errors import ConfigError, StructureError
from mekrr_scale.structures.neighbours import box_of, neighbours, volume_of

_FAR = 50.0  # angstrom from the origin
_COINCIDENT = 1e-3  # angstrom; atoms that are closer are one atom written twice
_TIED = 1e-6  # angstrom; neighbours whose distances differ by less are at the same distance


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
    vectors: Float[Tensor, "edges 3"] | None = None  # angstrom, at ``positions``; None: their differences are taken
    volume: Float64[Tensor, " structures"] | None = None  # angstrom^3; NaN where a lattice vector is missing
    at_once: int | None = None  # edges, or pairs of them, that a network works on at once; None: all

    @property
    def n_structures(self) -> int:
        return int(self.cell.shape[0])

    @property
    def n_atoms(self) -> Int[Tensor, " structures"]:
        return torch.bincount(self.owner, minlength=self.n_structures)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Graph:
        """The same graph on another device, floats in another precision."""
        moved = Graph(
            numbers=self.numbers.to(device),
            positions=self.positions.to(device, dtype),
            cell=self.cell.to(device, dtype),
            edge_index=self.edge_index.to(device),
            shifts=self.shifts.to(device, dtype),
            owner=self.owner.to(device),
            edge_owner=self.edge_owner.to(device),
            volume=None if self.volume is None else self.volume.to(device),
            at_once=self.at_once,
        )
        far = self._far_edges()
        if self.vectors is None or not bool(far.any()):
            return moved
        near = edge_vectors(moved, moved.positions)
        return replace(moved, vectors=torch.where(far[:, None].to(device), self.vectors.to(device, dtype), near))

    def _far_edges(self) -> Bool[Tensor, " edges"]:
        """Whether each edge belongs to a structure with atoms far from the origin."""
        far = torch.zeros(self.n_structures, dtype=torch.bool, device=self.owner.device)
        far[self.owner[self.positions.abs().amax(1) > _FAR]] = True
        return far[self.edge_owner]

    def with_edges(self, keep: Int[Tensor, " kept"]) -> Graph:
        """The graph with the edges of the given indices only."""
        return replace(
            self,
            edge_index=self.edge_index[:, keep],
            shifts=self.shifts[keep],
            edge_owner=self.edge_owner[keep],
            vectors=None if self.vectors is None else self.vectors[keep],
        )

    def with_atoms(self, keep: Bool[Tensor, " atoms"]) -> Graph:
        """The graph with some of the atoms only, between which all of its edges are."""
        place = keep.cumsum(0) - 1
        return replace(
            self,
            numbers=self.numbers[keep],
            positions=self.positions[keep],
            owner=self.owner[keep],
            edge_index=place[self.edge_index],
        )

    def stress(self, virial: Float[Tensor, "structures 3 3"]) -> Float64[Tensor, "structures 3 3"]:
        """Stress (eV/angstrom^3, on the CPU) from derivatives of the energies by strain (eV); NaN without a cell."""
        volume = torch.linalg.det(self.cell.cpu().double()).abs() if self.volume is None else self.volume.cpu()
        slopes = virial.cpu().double()
        return (slopes + slopes.mT) / (2 * volume[:, None, None])

    def one(self, index: int) -> Graph:
        """One of the structures."""
        part = self.with_edges((self.edge_owner == index).nonzero()[:, 0]).with_atoms(self.owner == index)
        return replace(
            part,
            cell=self.cell[index : index + 1],
            owner=torch.zeros_like(part.owner),
            edge_owner=torch.zeros_like(part.edge_owner),
            volume=None if self.volume is None else self.volume[index : index + 1],
        )


def build_graph(atoms: Atoms | Sequence[Atoms], cutoff: float) -> Graph:
    """Neighbour lists of structures within a cutoff (angstrom), in float64.

    Any mixture of periodic directions is allowed; an atom may neighbour its own images, so
    cells smaller than the cutoff are exact.

    Raises:
        StructureError: no atoms, positions that are not finite, a periodic direction whose lattice vector is missing,
            or two atoms at one place.
    """
    with torch.inference_mode(False):  # graphs that are made within it are of use outside too
        return _graph([atoms] if isinstance(atoms, Atoms) else list(atoms), cutoff)


def _graph(structures: Sequence[Atoms], cutoff: float) -> Graph:
    edges, shifts, owners, edge_owners = [], [], [], []
    first = 0
    for index, structure in enumerate(structures):
        i, j, shift = neighbours(structure, cutoff)
        edges.append(np.stack([i, j]) + first)
        shifts.append(shift.astype(np.float64))
        owners.append(np.full(len(structure), index))
        edge_owners.append(np.full(len(i), index))
        first += len(structure)
    graph = Graph(
        numbers=torch.from_numpy(np.concatenate([a.numbers for a in structures]).astype(np.int64)),
        positions=torch.from_numpy(np.concatenate([a.positions for a in structures])),
        cell=torch.from_numpy(np.stack([box_of(a) for a in structures])),
        edge_index=torch.from_numpy(np.concatenate(edges, axis=1)),
        shifts=torch.from_numpy(np.concatenate(shifts)),
        owner=torch.from_numpy(np.concatenate(owners)),
        edge_owner=torch.from_numpy(np.concatenate(edge_owners)),
        volume=torch.tensor([volume_of(a) for a in structures], dtype=torch.float64),
    )
    vectors = edge_vectors(graph, graph.positions)
    _refuse_coincident(graph, vectors)
    return replace(graph, vectors=vectors)


def _refuse_coincident(graph: Graph, vectors: Float64[Tensor, "edges 3"]) -> None:
    """Two atoms at one place are an error in the input: networks give NaN of them, or worse, numbers."""
    close = (vectors.square().sum(1) < _COINCIDENT**2).nonzero()[:, 0]
    if not len(close):
        return
    edge = int(close[0])
    index = int(graph.edge_owner[edge])
    first = int((graph.owner == index).nonzero()[0])
    i, j = sorted((graph.edge_index[:, edge] - first).tolist())
    named = f"structure {index} of {graph.n_structures}: " if graph.n_structures > 1 else ""
    raise StructureError(f"{named}atoms {i} and {j} overlap ({float(vectors[edge].norm()):.3f} angstrom apart)")


class SkinList:
    """Neighbour lists of one structure that moves: made again only when an atom may have come into reach.

    A list up to cutoff + skin serves until an atom has moved by half the skin; edges beyond the
    cutoff are left out each time, so that the graph is always the exact one.

    Args:
        cutoff: in angstrom.
        skin: in angstrom; 0 makes every list anew.

    Raises:
        ConfigError: a skin below 0, or no number.
    """

    def __init__(self, cutoff: float, skin: float = 0.5) -> None:
        require_skin(skin)
        self.cutoff, self.skin = cutoff, skin
        self.builds = 0
        self._made: tuple[Atoms, Graph] | None = None

    def graph(self, atoms: Atoms) -> Graph:
        """The graph at the present positions.

        Raises:
            StructureError: see ``build_graph``.
        """
        with torch.inference_mode(False):
            return self._graph(atoms)

    def _graph(self, atoms: Atoms) -> Graph:
        if self._made is None or self._stale(self._made[0], atoms):
            self._made = atoms.copy(), build_graph(atoms, self.cutoff + self.skin)
            self.builds += 1
        wide = replace(self._made[1], positions=torch.from_numpy(atoms.positions.astype(np.float64)), vectors=None)
        wide = replace(wide, vectors=edge_vectors(wide, wide.positions))
        assert wide.vectors is not None
        return wide.with_edges((wide.vectors.square().sum(1) < self.cutoff**2).nonzero()[:, 0])

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


def require_skin(skin: float) -> None:
    """Refuse what neighbour lists cannot be wider by: below 0 they would lack edges.

    Raises:
        ConfigError: it is below 0, or no finite number.
    """
    if not 0 <= skin < np.inf:
        raise ConfigError(f"the skin of neighbour lists is {skin}; give 0 or more (angstrom), 0 makes every list anew")


def edge_vectors(
    graph: Graph,
    positions: Float[Tensor, "atoms 3"],
    strain: Float[Tensor, "structures 3 3"] | None = None,
) -> Float[Tensor, "edges 3"]:
    """Vectors from centre to neighbour (angstrom), differentiable in positions and strain."""
    centre, neighbour = graph.edge_index
    if graph.vectors is None:
        offsets = torch.einsum("ek,ekl->el", graph.shifts, graph.cell[graph.edge_owner])
        vectors = positions[neighbour] - positions[centre] + offsets
    else:
        moved = positions - graph.positions  # mostly by nothing: it carries the derivatives
        vectors = graph.vectors + moved[neighbour] - moved[centre]
    if strain is not None:
        vectors = vectors + torch.einsum("ek,ekl->el", vectors, strain[graph.edge_owner])
    return vectors


def nearest_edges(graph: Graph, most: int) -> Graph:
    """Keep the given number of nearest neighbours of each centre, and those as near as the last of them.

    OC20's SchNet was trained with such a cap (50), which changes its features. Neighbours at equal
    distances stay together, so that features do not depend on the order of atoms.
    """
    lengths = edge_vectors(graph, graph.positions).norm(dim=1)
    order = torch.from_numpy(np.lexsort((lengths.cpu().numpy(), graph.edge_index[0].cpu().numpy()))).to(lengths.device)
    counts = torch.bincount(graph.edge_index[0], minlength=len(graph.numbers))
    if not len(order) or int(counts.max()) <= most:
        return graph
    last = torch.cumsum(counts, 0) - counts + counts.clamp(max=most) - 1  # place of each centre's last that stays
    farthest = torch.where(counts > 0, lengths[order[last.clamp(min=0)]], lengths.new_zeros(()))
    return graph.with_edges((lengths <= farthest[graph.edge_index[0]] + _TIED).nonzero()[:, 0])

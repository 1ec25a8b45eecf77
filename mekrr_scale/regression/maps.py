"""Force rows that are never made: products with them by sweeps through backbone and kernel.

With all 3n displacements of a structure as directions, its rows are Phi = d K(x, Z) / d r. Then

    Phi v    is the gradient of K(x, Z) v by the positions: one reverse sweep,
    Phi' u   is the derivative of K(x, Z) along the displacement u: one forward sweep,

for any number of atoms, where stored tangents take 3n forward sweeps once. Several structures are
one batch for the backbone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Bool, Float64
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, Landmarks, RowKind, SpeciesRun, bounds, draw, species_runs
from mekrr_scale.backbones import Backbone, Directions, evaluating, tangents
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import SetKernel
from mekrr_scale.regression.blocks import RowBlock
from mekrr_scale.regression.source import LabelledStructure, Structures
from mekrr_scale.regression.terms import RowTerms
from mekrr_scale.structures import Graph, in_batches

_BATCH_ATOMS = 128


@dataclass(frozen=True)
class ForceMap:
    """The force rows of a batch of structures as a linear map; stands where a matrix of rows would.

    Rows are in the order of atoms and Cartesian components. ``map @ v`` and ``map.T @ u`` are the
    products; ``map[chosen]`` makes some rows.
    """

    backbone: Backbone
    graph: Graph
    kernel: SetKernel
    landmarks: Landmarks
    scale: Float64[Tensor, " rows"]  # 1, or 1/n for ``mean``, whose kernel is per structure already

    @property
    def shape(self) -> tuple[int, int]:
        return 3 * len(self.graph.numbers), self.kernel.n_columns(self.landmarks)

    @evaluating()
    def __matmul__(self, vectors: Float64[Tensor, "columns k"]) -> Float64[Tensor, "rows k"]:
        positions = self.graph.positions.detach().clone().requires_grad_(True)
        features = self.backbone.forward(self.graph, positions, energies=False).features
        runs, places = self._runs(features.detach())
        n_atoms = self.graph.n_atoms.cpu()
        prepared = self.kernel.prepare(self.landmarks, torch.float64)
        found = []
        for column in vectors.T:
            weights = self.kernel.atom_coefficients(self.landmarks, column)
            slopes = self.kernel.evaluate(runs, n_atoms, self.landmarks, weights, True, prepared)
            seed = torch.zeros(features.shape, dtype=torch.float64, device=features.device)
            for place, (_, slope) in zip(places, slopes, strict=True):
                assert slope is not None
                seed[place] = slope.to(seed.device)
            (gradient,) = torch.autograd.grad(features, positions, seed.to(features), retain_graph=True)
            found.append(gradient.to(vectors.device).double().flatten())
        return torch.stack(found, 1)

    @property
    def T(self) -> _Adjoint:  # noqa: N802  as of a matrix
        return _Adjoint(self)

    def __getitem__(self, chosen: Bool[Tensor, " rows"]) -> Float64[Tensor, "chosen columns"]:
        owner, chosen = self.graph.owner.cpu(), chosen.cpu()
        first = bounds(self.graph.n_atoms.cpu())
        rows = [torch.zeros(0, self.shape[1], dtype=torch.float64, device=self.landmarks.features.device)]
        for i in range(self.graph.n_structures):
            part = chosen.reshape(-1, 3)[owner == i].flatten()
            if not bool(part.any()):
                continue
            n = int(first[i + 1] - first[i])
            moves = torch.eye(3 * n)[part].reshape(-1, n, 3)
            single = self.graph.one(i)
            pushed = tangents(self.backbone, single, Directions.of_displacements(moves)).features
            with evaluating(False):
                features = self.backbone.forward(single, single.positions, energies=False).features
            batch = FeatureBatch.unlabelled(
                features.cpu(), single.numbers.cpu(), single.n_atoms.cpu(), pushed.cpu().double()
            )
            rows.append(self.kernel.derivative_rows(batch, self.landmarks, torch.float64))
        return torch.cat(rows)

    def push(self, moves: Float64[Tensor, "rows k"]) -> Float64[Tensor, "columns k"]:
        """The adjoint: derivatives of the structures' sums along displacements of everything."""
        count = len(self.graph.numbers)
        directions = moves.T.reshape(-1, count, 3).to(self.graph.positions)

        def features(positions: Tensor) -> Tensor:
            return self.backbone.forward(self.graph, positions, energies=False).features

        def push(move: Tensor) -> tuple[Tensor, Tensor]:
            value, slope = torch.func.jvp(features, (self.graph.positions,), (move,))[:2]
            return value, slope

        with evaluating(False):
            values, pushed = torch.func.vmap(push)(directions)
        numbers, n_atoms = self.graph.numbers.cpu(), self.graph.n_atoms.cpu()
        found = []
        for slopes in pushed:
            batch = FeatureBatch.unlabelled(values[0].cpu(), numbers, n_atoms, slopes.cpu().double()[None])
            found.append(self.kernel.derivative_rows(batch, self.landmarks, torch.float64).sum(0))
        return torch.stack(found, 1)

    def _runs(self, features: Tensor) -> tuple[tuple[SpeciesRun, ...], tuple[Tensor, ...]]:
        numbers, owner = self.graph.numbers.cpu(), self.graph.owner.cpu()
        return species_runs(features.cpu(), numbers, owner, self.graph.n_structures)


@dataclass(frozen=True)
class ModeCosts:
    """What the two ways to force rows take for one structure, in seconds."""

    stored: float  # tangents along all 3n displacements, once
    sweeps: float  # one reverse and one forward sweep, for every column of every iteration

    @property
    def break_even(self) -> float:
        """Products from which on storing tangents is cheaper."""
        return self.stored / max(self.sweeps, 1e-12)

    @classmethod
    def measure(cls, backbone: Backbone, atoms: Atoms, most: int = 9) -> ModeCosts:
        """Time ``most`` directions and one pair of sweeps on a structure."""
        graph = backbone.graph(atoms)
        n = len(atoms)
        count = min(most, 3 * n)
        moves = torch.eye(3 * n, dtype=graph.positions.dtype)[:count].reshape(count, n, 3)

        def forward(number: int, mode: Literal["auto", "forward"]) -> None:
            tangents(backbone, graph, Directions.of_displacements(moves[:number]), mode=mode).features.cpu()

        def reverse() -> None:
            positions = graph.positions.detach().clone().requires_grad_(True)
            with evaluating():
                features = backbone.forward(graph, positions, energies=False).features
                torch.autograd.grad(features.sum(), positions)[0].cpu()  # waits for a GPU

        stored = _seconds(lambda: forward(count, "auto")) * 3 * n / count
        return cls(stored, _seconds(reverse) + _seconds(lambda: forward(1, "forward")))  # as the maps push


def _seconds(work: Callable[[], None]) -> float:
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@dataclass(frozen=True)
class _Adjoint:
    map: ForceMap

    def __matmul__(self, moves: Float64[Tensor, "rows k"]) -> Float64[Tensor, "columns k"]:
        return self.map.push(moves)


@dataclass(frozen=True)
class MapRows:
    """Force rows of structures, as maps; the labels are those that extraction read."""

    structures: Structures
    problem: RowTerms
    group: Group = ALONE  # batches are dealt to its ranks in turn

    def __iter__(self) -> Iterator[RowBlock]:
        return (block for block in self.blocks() if block is not None)

    def blocks(self, skip: int = 0) -> Iterator[RowBlock | None]:
        """See ``Rows``."""
        if self.problem.baseline.prior:
            raise ConfigError("matrix-free force rows have no backbone prior; use baseline 'composition'")
        for batch in islice(self._batches(), self.group.rank, None, self.group.size):
            if skip > 0:
                skip -= 1
                yield None
                continue
            yield self._block(batch)

    def _block(self, batch: Sequence[LabelledStructure]) -> RowBlock:
        at = self.problem
        graph = self.structures.backbone.graph([item.atoms for item in batch])
        n_atoms = graph.n_atoms.cpu()
        size = n_atoms.double().repeat_interleave(3 * n_atoms)
        forces = torch.cat([torch.from_numpy(item.labels.forces).flatten() for item in batch])
        scale = at.kernel.label_scale(n_atoms).repeat_interleave(3 * n_atoms)
        importance = torch.tensor([item.importance for item in batch], dtype=torch.float64).repeat_interleave(
            3 * n_atoms
        )
        of_atoms = [np.ones(len(item.atoms)) if item.atom_weights is None else item.atom_weights for item in batch]
        counting = np.concatenate([np.full(len(each), np.count_nonzero(each)) for each in of_atoms]).clip(1)
        share = importance * torch.from_numpy(np.concatenate(of_atoms) / (3.0 * counting)).repeat_interleave(3)
        ids = torch.tensor([item.id for item in batch])
        fold = torch.zeros(len(size), dtype=torch.int64)
        if at.folds is not None:
            groups = torch.tensor([item.group for item in batch])
            fold = at.folds.of_structures(ids, groups).repeat_interleave(3 * n_atoms)
        keys = ids.repeat_interleave(3 * n_atoms) + torch.arange(len(size))
        return RowBlock(
            kind=RowKind.FORCE,
            matrix=ForceMap(self.structures.backbone, graph, at.kernel, at.landmarks, scale),
            target=-forces * scale,
            weight=share * scale.reciprocal().square(),
            share=share,
            counts=torch.zeros(len(size), len(at.baseline.species), dtype=torch.float64),
            scale=scale,
            fold=fold,
            key=torch.from_numpy(draw(keys.numpy().astype(np.uint64), 0).astype(np.int64)),
        )

    def _batches(self) -> Iterator[list[LabelledStructure]]:
        moved = (item for item in self.structures.listed if item.labels.forces is not None)
        return in_batches(moved, _BATCH_ATOMS, lambda item: len(item.atoms))

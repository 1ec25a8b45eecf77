"""Solutions for many ridges and weights from few decompositions.

    beta(lambda, w) = (sum_k w_k Phi_k' W_k Phi_k + lambda)^-1 sum_k w_k Phi_k' W_k r_k

over kinds k of rows. Kinds with fewer rows than a third of the rank ("light", most often the
energies) are split off: U spans their rows, V the rest of the space, and in this basis the system
is that of the heavy kinds alone on V, plus a small Schur complement on U. The heavy kinds'
matrix on V is diagonalised once for every ratio of their weights; all light weights and ridges
then cost no further decomposition. Block elimination of a positive definite matrix is as stable
as Cholesky; the low-rank update formula of Woodbury, which would do the same, is not.

Where all kinds have fewer rows than the rank, solutions lie in the span of these rows, and everything is done in an
orthonormal basis of it (Householder again): the system is as large as the rows are many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import ByKind, RowKind, eigh

Weights = ByKind[float]
SHORT = 0.9  # rows over the rank: the span of fewer is worth its basis


@dataclass(frozen=True)
class Normal:
    """What the rows of one kind add to the normal equations."""

    gram: Float64[Tensor, "rank rank"] | None  # Phi' W Phi; None where the rows are given
    factor: Float64[Tensor, "rows rank"] | None  # W^1/2 Phi
    target: Float64[Tensor, " rank"]  # Phi' W r


@dataclass
class Decompositions:
    """Decompositions of several systems, kept for further ridges as far as there is room; others are made again.

    Args:
        room: in bytes.
    """

    room: float
    _found: dict[tuple[float, ...], Decomposed] = field(default_factory=dict)

    def get(self, system: int, ratio: tuple[float, ...], make: Callable[[], Decomposed]) -> Decomposed:
        """The decomposition of a system (a fold's) at a ratio of weights."""
        key = (system, *ratio)
        if key in self._found:
            return self._found[key]
        made = make()
        if made.bytes <= self.room:
            self.room -= made.bytes
            self._found[key] = made
        return made


def weight_paths(
    kinds: Mapping[RowKind, Normal],
    weights: Sequence[Weights],
    ridges: Sequence[float],
    kept: Decompositions | None = None,
    system: int = 0,
) -> dict[Weights, Float64[Tensor, "rank ridges"]]:
    """Solutions for every combination of weights and every ridge.

    Args:
        kept: where decompositions are looked for, and left.
        system: which of those that share ``kept`` this is.
    """
    kept = kept or Decompositions(0.0)
    kinds, whole = in_span(kinds)
    rank = len(next(iter(kinds.values())).target)
    light = [kind for kind, normal in kinds.items() if normal.factor is not None]
    while sum(len(_rows(kinds[i])) for i in light) > rank // 3:
        light.remove(max(light, key=lambda i: len(_rows(kinds[i]))))
    heavy = [kind for kind in kinds if kind not in light]
    basis = _Rotation.of([_rows(kinds[i]) for i in light], rank)
    targets = {kind: basis.into(normal.target[:, None]) for kind, normal in kinds.items()}
    factors = {i: basis.into(_rows(kinds[i]).T)[: basis.width] for i in light}
    solved: dict[Weights, Tensor] = {}
    ratios: dict[tuple[float, ...], list[tuple[float, Weights]]] = {}
    for combination in weights:
        largest = max((combination[i] for i in heavy), default=0.0)
        ratio = tuple(combination[i] / largest if largest else 0.0 for i in heavy)
        ratios.setdefault(ratio, []).append((largest, combination))
    for ratio, members in ratios.items():
        heavy_weights = {i: w for i, w in zip(heavy, ratio, strict=True) if w}
        decomposed = kept.get(system, ratio, partial(Decomposed.of, heavy_weights, kinds, basis))
        for scale, combination in members:
            small = torch.zeros(basis.width, basis.width, dtype=torch.float64)
            for i, factor in factors.items():
                small += combination[i] * (factor @ factor.T)
            right = torch.zeros(rank, 1, dtype=torch.float64)
            for kind, target in targets.items():
                right = right + combination[kind] * target
            solved[combination] = decomposed.solve(scale, small, right[:, 0], ridges)
    joined = whole(basis.back(torch.cat(list(solved.values()), 1))).split(len(ridges), 1)
    return dict(zip(solved, joined, strict=True))


def in_span(kinds: Mapping[RowKind, Normal]) -> tuple[Mapping[RowKind, Normal], Callable[[Tensor], Tensor]]:
    """The same system in the span of its rows, with the way back for solutions; unchanged if that is hardly smaller."""
    rank = len(next(iter(kinds.values())).target)
    rows = {kind: normal.factor for kind, normal in kinds.items() if normal.factor is not None}
    lengths = [len(factor) for factor in rows.values()]
    count = sum(lengths)
    if len(rows) < len(kinds) or not 0 < count <= SHORT * rank:
        return kinds, lambda solutions: solutions
    rotation = _Rotation.of(list(rows.values()), rank)
    factors = rotation.reflectors[:count].triu().T.split(lengths)  # rows = (Q R)'
    targets = rotation.into(torch.stack([kinds[kind].target for kind in rows], 1))[:count]
    found = {
        kind: Normal(None, factor.contiguous(), target.contiguous())
        for kind, factor, target in zip(rows, factors, targets.unbind(1), strict=True)
    }

    def whole(solutions: Tensor) -> Tensor:
        outside = solutions.new_zeros(rank - count, solutions.shape[1])
        return rotation.back(torch.cat([solutions, outside]))

    return found, whole


def solution_at(kinds: Mapping[RowKind, Normal], weights: Weights, ridge: float) -> Float64[Tensor, "rank one"]:
    """(sum of w G + lambda)^-1 (sum of w g) for one ridge and combination of weights, which need no decomposition."""
    kinds, whole = in_span(kinds)
    rank = len(next(iter(kinds.values())).target)
    gram, target = torch.zeros(rank, rank, dtype=torch.float64), torch.zeros(rank, dtype=torch.float64)
    for kind, normal in kinds.items():
        if normal.factor is not None:
            gram.addmm_(normal.factor.T, normal.factor, alpha=weights[kind])
        elif normal.gram is not None:
            gram.add_(normal.gram, alpha=weights[kind])
        target += weights[kind] * normal.target
    return whole(ridge_path(gram, target, (ridge,)))


def ridge_path(
    gram: Float64[Tensor, "rank rank"], target: Float64[Tensor, " rank"], ridges: Sequence[float]
) -> Float64[Tensor, "rank ridges"]:
    """(G + lambda)^-1 g for every ridge, from one decomposition."""
    if len(ridges) == 1:
        shifted = gram.clone()
        shifted.diagonal().add_(ridges[0])
        factor, info = torch.linalg.cholesky_ex(shifted)
        if int(info) == 0:
            solution: Tensor = torch.cholesky_solve(target[:, None], factor)
            return solution
    alone: Weights = ByKind.of({RowKind.ENERGY: 1.0}, 0.0)
    return weight_paths({RowKind.ENERGY: Normal(gram, None, target)}, [alone], ridges)[alone]


def _rows(kind: Normal) -> Tensor:
    assert kind.factor is not None
    return kind.factor


@dataclass(frozen=True)
class _Rotation:
    """An orthogonal basis whose first ``width`` vectors span some rows (Householder)."""

    reflectors: Tensor
    tau: Tensor
    width: int

    @classmethod
    def of(cls, rows: Sequence[Tensor], rank: int) -> _Rotation:
        stacked = torch.cat([*rows, torch.zeros(0, rank, dtype=torch.float64)])
        reflectors, tau = torch.geqrf(stacked.T.contiguous())
        return cls(reflectors, tau, len(stacked))

    def into(self, columns: Tensor) -> Tensor:
        return torch.ormqr(self.reflectors, self.tau, columns, transpose=True) if self.width else columns

    def back(self, columns: Tensor) -> Tensor:
        return torch.ormqr(self.reflectors, self.tau, columns) if self.width else columns


@dataclass(frozen=True)
class Decomposed:
    """The heavy kinds' matrix [[D, E'], [E, W diag(s) W']] with C = W'E."""

    corner: Tensor  # D
    coupling: Tensor  # C
    spectrum: Tensor  # s
    vectors: Tensor | None  # W; None for a zero matrix

    @classmethod
    def of(cls, heavy: Mapping[RowKind, float], kinds: Mapping[RowKind, Normal], basis: _Rotation) -> Decomposed:
        rank, width = len(next(iter(kinds.values())).target), basis.width
        total: Tensor | None = None
        for i, weight in heavy.items():
            gram, factor = kinds[i].gram, kinds[i].factor
            if gram is None:
                assert factor is not None
                gram = factor.T @ factor
            total = weight * gram if total is None else total.add_(gram, alpha=weight)
        if total is None:
            return cls(
                torch.zeros(width, width, dtype=torch.float64),
                torch.zeros(rank - width, width, dtype=torch.float64),
                torch.zeros(rank - width, dtype=torch.float64),
                None,
            )
        total = basis.into(basis.into(total).T)
        spectrum, vectors = eigh(total[width:, width:])
        # a copy of the corner: a view would keep all of the matrix
        return cls(total[:width, :width].clone(), vectors.T @ total[width:, :width], spectrum.clamp_min(0.0), vectors)

    @property
    def bytes(self) -> int:
        held = (self.corner, self.coupling, self.spectrum, self.vectors)
        return sum(part.numel() * part.element_size() for part in held if part is not None)

    def solve(
        self, scale: float, small: Tensor, right: Tensor, ridges: Sequence[float]
    ) -> Float64[Tensor, "rank ridges"]:
        """(scale heavy + [[small, 0], [0, 0]] + ridge)^-1 right for every ridge, in the rotated basis."""
        width = len(self.corner)
        above, below = right[:width], right[width:]
        if self.vectors is not None:
            below = self.vectors.T @ below
        coupling = scale * self.coupling
        heads = torch.zeros(width, len(ridges), dtype=torch.float64)
        tails = torch.zeros(len(below), len(ridges), dtype=torch.float64)
        for k, ridge in enumerate(ridges):
            inverse = 1.0 / (scale * self.spectrum + ridge)
            if width:
                damped = inverse[:, None] * coupling
                schur = scale * self.corner + small - coupling.T @ damped
                schur.diagonal().add_(ridge)
                heads[:, k] = _positive_solve((schur + schur.T) / 2, above - damped.T @ below, ridge)
            tails[:, k] = inverse * (below - coupling @ heads[:, k])
        return torch.cat([heads, tails if self.vectors is None else self.vectors @ tails])


def _positive_solve(matrix: Tensor, right: Tensor, smallest: float) -> Tensor:
    """Solve with a matrix that is at least ``smallest`` but for rounding."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info) == 0:
        solution: Tensor = torch.cholesky_solve(right[:, None], factor)[:, 0]
        return solution
    s, q = torch.linalg.eigh(matrix)
    fallback: Tensor = q @ ((q.T @ right) / s.clamp_min(smallest))
    return fallback

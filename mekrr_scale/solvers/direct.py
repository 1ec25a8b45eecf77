"""One pass over the rows, then every ridge, weight and fold from small dense matrices."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import RowBlock, RowKind
from mekrr_scale.baselines import Baseline, minimum_norm
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.solvers.solution import Path, PathPoint, Result, Solution
from mekrr_scale.whitening import Whitening

Weights = tuple[float, float, float]


@dataclass
class Moments:
    """Sums over the rows of one kind and fold; r is the target, N the species counts."""

    gram: Float64[Tensor, "rank rank"]  # Phi' W Phi
    target: Float64[Tensor, " rank"]  # Phi' W r
    counts: Float64[Tensor, "rank species"]  # Phi' W N
    target_square: float = 0.0  # r' W r
    target_counts: Tensor = field(default_factory=lambda: torch.zeros(0))  # N' W r
    counts_square: Tensor = field(default_factory=lambda: torch.zeros(0))  # N' W N
    share: float = 0.0  # what to divide by for a mean over structures
    rows: int = 0
    # unweighted, of total energies: what the composition baseline is refitted from
    plain_gram: Tensor = field(default_factory=lambda: torch.zeros(0))  # N' N
    plain_target: Tensor = field(default_factory=lambda: torch.zeros(0))  # N' r

    @classmethod
    def zero(cls, rank: int, species: int) -> Moments:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64)

        return cls(
            zeros(rank, rank), zeros(rank), zeros(rank, species), 0.0, zeros(species), zeros(species, species),
            0.0, 0, zeros(species, species), zeros(species),
        )  # fmt: skip

    def add(self, phi: Tensor, block: RowBlock, chosen: Tensor) -> None:
        rows, r, w, scale = phi[chosen], block.target[chosen], block.weight[chosen], block.scale[chosen]
        if not len(r):
            return
        plain = block.counts[chosen]
        n = plain * scale[:, None]
        weighted = rows * w[:, None]
        self.gram.addmm_(weighted.T, rows)
        self.target += weighted.T @ r
        self.counts += weighted.T @ n
        self.target_square += float((w * r).dot(r))
        self.target_counts += n.T @ (w * r)
        self.counts_square += (n * w[:, None]).T @ n
        self.share += float(block.share[chosen].sum())
        self.rows += len(r)
        self.plain_gram += plain.T @ plain
        self.plain_target += plain.T @ (r / scale)

    def projected(self, basis: Float64[Tensor, "rank smaller"]) -> Moments:
        """The same sums for rows Phi P."""
        if not self.rows:
            return self
        gram, target, counts = basis.T @ self.gram @ basis, basis.T @ self.target, basis.T @ self.counts
        return replace(self, gram=gram, target=target, counts=counts)

    def squared_error(self, beta: Tensor, shift: Tensor) -> Tensor:
        """Weighted squared errors of solutions [rank, k] after a shift of the baseline."""
        moved = self.target - self.counts @ shift
        square = self.target_square - 2 * shift @ self.target_counts + shift @ self.counts_square @ shift
        error = ((self.gram @ beta) * beta).sum(0) - 2 * moved @ beta + square
        # what rounding leaves of the cancellation: an error below it is not known, and must not win
        unknown = 4 * torch.finfo(torch.float64).eps * float(self.gram.norm()) * beta.square().sum(0)
        return torch.maximum(error, unknown)


@final
@dataclass(frozen=True)
class Direct:
    """Accumulate Phi' W Phi by kind of row and fold; one eigendecomposition per ridge path.

    Squared errors of every fold follow from the Gram matrices alone:
    |Phi_f b - y_f|^2 = b' G_f b - 2 b' g_f + y_f' y_f.

    Args:
        ridges: total ridges lambda to try.
        weights: combinations of w_E, w_F, w_S to try.
        select: weights of the mean squared errors whose sum chooses among them.
        ridge: take this one instead of the best.

    Raises:
        ConfigError: no ridge, or one that is not positive.
    """

    ridges: tuple[float, ...]
    weights: tuple[Weights, ...] = ((1.0, 0.0, 0.0),)
    select: Weights = (1.0, 0.0, 0.0)
    ridge: float | None = None

    def __post_init__(self) -> None:
        if self.ridge is not None and self.ridge not in self.ridges:
            object.__setattr__(self, "ridges", (self.ridge, *self.ridges))
        check_ridges(self.ridges)
        for combination in self.weights:
            if min(combination) < 0 or max(combination) <= 0:
                raise ConfigError(f"row weights {combination} must not be negative, and not all zero")

    def solve(
        self,
        rows: Iterable[RowBlock],
        whitening: Whitening,
        baseline: Baseline,
        n_folds: int = 0,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> Solution:
        """Solve; with folds, choose ridge and weights by the cross-validated error.

        Args:
            n_folds: 0 to take the first ridge and weights without validation.
            progress: called with the number of rows of each block.

        Raises:
            SolverError: no rows at all.
        """
        start = time.perf_counter()
        moments = accumulate(rows, whitening, len(baseline.species), max(n_folds, 1), progress)
        solution = self.from_moments(moments, whitening, baseline, n_folds)
        passed = time.perf_counter() - start - float(str(solution.stats["seconds_path"]))
        return replace(solution, stats={**solution.stats, "seconds_pass": passed})

    def from_moments(
        self, moments: dict[RowKind, list[Moments]], whitening: Whitening, baseline: Baseline, n_folds: int = 0
    ) -> Solution:
        """Solve from sums that are accumulated already."""
        start = time.perf_counter()
        points, paths = [], {}
        if n_folds:
            for weights in self.weights:
                paths[weights] = self._fold_solutions(moments, baseline, weights, n_folds)
                points += self._errors(moments, paths[weights], weights, n_folds)
        path = Path(tuple(points))
        best = self._choose(path)
        total, target = _combined(moments, best.weights, range(max(n_folds, 1)))
        beta = ridge_path(total, target, (best.ridge,))
        place = self.ridges.index(best.ridge)
        chosen = paths.get(best.weights, [])
        finite = bool(torch.isfinite(beta).all())
        return Solution(
            value=whitening.coefficients(beta),
            ridges=(best.ridge,),
            result=Result.SUCCESS if finite else Result.BREAKDOWN,
            path=path,
            fold_values=[whitening.coefficients(solution[:, place : place + 1]) for solution, _ in chosen],
            fold_shifts=[shift for _, shift in chosen],
            stats={
                "rows": sum(m.rows for kinds in moments.values() for m in kinds),
                "rank": whitening.rank,
                "seconds_path": time.perf_counter() - start,
            },
        )

    def _choose(self, path: Path) -> PathPoint:
        if path.points and self.ridge is None:
            return path.best(self.select)
        ridge = self.ridges[0] if self.ridge is None else self.ridge
        return PathPoint(ridge, self.weights[0], math.nan, math.nan, math.nan)

    def _fold_solutions(
        self, moments: dict[RowKind, list[Moments]], baseline: Baseline, weights: Weights, n_folds: int
    ) -> list[tuple[Tensor, Tensor]]:
        """For each fold: solutions of every ridge without it, and the baseline's shift."""
        solutions = []
        for fold in range(n_folds):
            others = [i for i in range(n_folds) if i != fold]
            energy = [moments[RowKind.ENERGY][i] for i in others]
            shift = refit_shift(
                baseline,
                torch.stack([m.plain_gram for m in energy]).sum(0),
                torch.stack([m.plain_target for m in energy]).sum(0),
            )
            gram, target = _combined(moments, weights, others, shift)
            solutions.append((ridge_path(gram, target, self.ridges), shift))
        return solutions

    def _errors(
        self,
        moments: dict[RowKind, list[Moments]],
        solutions: Sequence[tuple[Tensor, Tensor]],
        weights: Weights,
        n_folds: int,
    ) -> list[PathPoint]:
        errors = {}
        for kind, parts in moments.items():
            total = torch.zeros(len(self.ridges), dtype=torch.float64)
            for fold, (beta, shift) in enumerate(solutions):
                if parts[fold].rows:
                    total += parts[fold].squared_error(beta, shift)
            count = sum(part.share for part in parts)
            errors[kind] = (total / count).sqrt() if count else torch.full_like(total, math.nan)
        return [
            PathPoint(ridge, weights, *(float(errors[kind][i]) for kind in RowKind))
            for i, ridge in enumerate(self.ridges)
        ]


def accumulate(
    rows: Iterable[RowBlock],
    whitening: Whitening,
    n_species: int,
    n_folds: int,
    progress: Callable[[int], None] = lambda rows: None,
) -> dict[RowKind, list[Moments]]:
    """Sums over all rows in one pass, by kind and fold; memory does not depend on the rows.

    Raises:
        SolverError: no rows, or rows that are not finite.
    """
    moments = {kind: [Moments.zero(0, n_species) for _ in range(n_folds)] for kind in RowKind}
    for block in rows:
        phi = whitening.rows(block.matrix)
        if not bool(torch.isfinite(phi.sum())):
            raise SolverError("a row of the design matrix is not finite; check the features (`store verify`)")
        check_folds(block, n_folds)
        for fold in range(n_folds):
            part = moments[block.kind][fold]
            if len(part.target) == 0:
                part = moments[block.kind][fold] = Moments.zero(whitening.rank, n_species)
            part.add(phi, block, block.fold == fold if n_folds > 1 else torch.ones_like(block.fold, dtype=torch.bool))
        progress(len(block.target))
    if not any(part.rows for parts in moments.values() for part in parts):
        raise SolverError("there is not a single row to fit; no structure in the store has a usable label")
    return moments


def ridge_path(
    gram: Float64[Tensor, "rank rank"], target: Float64[Tensor, " rank"], ridges: Sequence[float]
) -> Float64[Tensor, "rank ridges"]:
    """(G + lambda)^-1 g for every ridge, from one eigendecomposition."""
    if len(ridges) == 1:
        shifted = gram.clone()
        shifted.diagonal().add_(ridges[0])
        factor, info = torch.linalg.cholesky_ex(shifted)
        if int(info) == 0:
            solution: Tensor = torch.cholesky_solve(target[:, None], factor)
            return solution
    s, q = torch.linalg.eigh(gram)
    shifted = s.clamp_min(0.0)[:, None] + torch.tensor(ridges, dtype=torch.float64, device=s.device)
    path: Tensor = q @ ((q.T @ target)[:, None] / shifted)
    return path


def check_folds(block: RowBlock, n_folds: int) -> None:
    """Refuse rows whose folds are not those of the solve.

    Raises:
        ConfigError: more folds in the rows than asked for.
    """
    if n_folds > 1 and len(block.fold) and int(block.fold.max()) >= n_folds:
        raise ConfigError(f"rows of fold {int(block.fold.max())} in a solve with {n_folds} folds; assign them alike")


def check_ridges(ridges: Sequence[float]) -> None:
    """Refuse ridges that are not positive numbers.

    Raises:
        ConfigError: names the ridge.
    """
    if not ridges:
        raise ConfigError("no ridge was given; give at least one, e.g. ridge = [1e-6, 1e-4]")
    for ridge in ridges:
        if not (ridge > 0 and math.isfinite(ridge)):
            raise ConfigError(f"ridge {ridge} must be a positive number; typical values are 1e-9 to 1e-2")


def _combined(
    moments: dict[RowKind, list[Moments]], weights: Weights, folds: Iterable[int], shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weighted sum of Gram matrices and right-hand sides over kinds and folds."""
    chosen = [
        (weight, moments[kind][fold])
        for fold in folds
        for kind, weight in zip(RowKind, weights, strict=True)
        if weight and moments[kind][fold].rows
    ]
    if not chosen:
        raise SolverError(f"no row has a weight above zero (energy, force, stress weights {weights})")
    gram = torch.zeros_like(chosen[0][1].gram)
    target = torch.zeros_like(chosen[0][1].target)
    for weight, part in chosen:
        gram.add_(part.gram, alpha=weight)
        target += weight * (part.target if shift is None else part.target - part.counts @ shift)
    return gram, target


def refit_shift(baseline: Baseline, gram: Tensor, moment: Tensor) -> Float64[Tensor, " species"]:
    """Shift of the reference energies if they are fitted to a part of the structures alone.

    With N the counts of that part and r its residuals under the full fit theta, the fit of the
    part is N+ (N theta + r) = P theta + N+ r, P the projector on the counts' row space; written
    so, large total energies cancel exactly.

    Args:
        gram: N' N of the part.
        moment: N' r of the part (eV).
    """
    if not baseline.fitted:
        return torch.zeros(len(baseline.species), dtype=torch.float64)
    missing = torch.eye(len(gram), dtype=torch.float64) - torch.linalg.pinv(gram, hermitian=True, rtol=1e-13) @ gram
    missing[missing.abs() < 1e-9] = 0.0
    shift: Tensor = minimum_norm(gram, moment) - missing @ baseline.energies
    return shift

"""One pass over the rows, then every ridge, weight and fold from small dense matrices."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import RowBlock, RowKind
from mekrr_scale.baselines import Baseline, minimum_norm
from mekrr_scale.distributed import ALONE, Checkpoint, Group
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.solvers.moments import MomentTable, accumulate
from mekrr_scale.solvers.path import Normal, Weights, ridge_path, weight_paths
from mekrr_scale.solvers.solution import Path, PathPoint, Result, Solution
from mekrr_scale.whitening import Whitening


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
        group: Group = ALONE,
        checkpoint: Checkpoint | None = None,
    ) -> Solution:
        """Solve; with folds, choose ridge and weights by the cross-validated error.

        Args:
            rows: of this rank.
            n_folds: 0 to take the first ridge and weights without validation.
            progress: called with the number of rows of each block.

        Raises:
            SolverError: no rows at all.
        """
        start = time.perf_counter()
        parts = max(n_folds, 1)
        moments = accumulate(rows, whitening, len(baseline.species), parts, progress, group, checkpoint)
        solution = self.from_moments(moments, whitening, baseline, n_folds, group)
        passed = time.perf_counter() - start - float(str(solution.stats["seconds_path"]))
        return replace(solution, stats={**solution.stats, "seconds_pass": passed})

    def from_moments(
        self,
        moments: MomentTable,
        whitening: Whitening,
        baseline: Baseline,
        n_folds: int = 0,
        group: Group = ALONE,
        shift: Float64[Tensor, " species"] | None = None,
    ) -> Solution:
        """Solve from sums that are accumulated already and the same on all ranks.

        Args:
            shift: what the baseline's energies are to be moved by (``refit_shift``).
        """
        start = time.perf_counter()
        for weights in self.weights:
            if not any(w and any(p.rows for p in moments[k]) for k, w in zip(RowKind, weights, strict=True)):
                raise SolverError(f"no row has a weight above zero (energy, force, stress weights {weights})")
        folds = self._fold_solutions(moments, baseline, n_folds, group)
        points = [point for weights in self.weights for point in self._errors(moments, folds, weights)] if folds else []
        path = Path(tuple(points))
        best = self._choose(path)
        everything = normals(moments, range(max(n_folds, 1)), shift)
        beta = group.broadcast(_solve(everything, best.weights, best.ridge).contiguous())
        place = self.ridges.index(best.ridge)
        finite = bool(torch.isfinite(beta).all())
        return Solution(
            value=whitening.coefficients(beta),
            ridges=(best.ridge,),
            result=Result.SUCCESS if finite else Result.BREAKDOWN,
            path=path,
            fold_values=[whitening.coefficients(paths[best.weights][:, place : place + 1]) for paths, _ in folds],
            fold_shifts=[shift for _, shift in folds],
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
        self, moments: MomentTable, baseline: Baseline, n_folds: int, group: Group
    ) -> list[tuple[dict[Weights, Tensor], Tensor]]:
        """For each fold: solutions without it of all weights and ridges, and the baseline's shift.

        The folds are dealt to the ranks.
        """
        solutions = []
        rank = next(len(part.target) for parts in moments.values() for part in parts if part.rows)
        for fold in range(n_folds):
            others = [i for i in range(n_folds) if i != fold]
            energy = [moments[RowKind.ENERGY][i] for i in others]
            shift = refit_shift(
                baseline,
                torch.stack([m.plain_gram for m in energy]).sum(0),
                torch.stack([m.plain_target for m in energy]).sum(0),
            )
            solved = torch.zeros(len(self.weights), rank, len(self.ridges), dtype=torch.float64)
            if fold % group.size == group.rank:
                paths = weight_paths(normals(moments, others, shift), self.weights, self.ridges)
                solved = torch.stack([paths[weights] for weights in self.weights])
            solutions.append((solved, shift))
        return [
            (dict(zip(self.weights, group.broadcast(solved.contiguous(), fold % group.size), strict=True)), shift)
            for fold, (solved, shift) in enumerate(solutions)
        ]

    def _errors(
        self,
        moments: MomentTable,
        folds: Sequence[tuple[dict[Weights, Tensor], Tensor]],
        weights: Weights,
    ) -> list[PathPoint]:
        errors = {}
        for kind, parts in moments.items():
            total = torch.zeros(len(self.ridges), dtype=torch.float64)
            for part, (paths, shift) in zip(parts, folds, strict=True):
                if part.rows:
                    total += part.squared_error(paths[weights], shift)
            count = sum(part.share for part in parts)
            errors[kind] = (total / count).sqrt() if count else torch.full_like(total, math.nan)
        return [
            PathPoint(ridge, weights, *(float(errors[kind][i]) for kind in RowKind))
            for i, ridge in enumerate(self.ridges)
        ]


def _solve(normals: Sequence[Normal], weights: Weights, ridge: float) -> Float64[Tensor, "rank one"]:
    """The one solution that is kept."""
    if all(normal.factor is not None for normal in normals):
        return weight_paths(normals, [weights], (ridge,))[weights]
    rank = len(normals[0].target)
    gram, target = torch.zeros(rank, rank, dtype=torch.float64), torch.zeros(rank, dtype=torch.float64)
    for normal, weight in zip(normals, weights, strict=True):
        if normal.factor is not None:
            gram.addmm_(weight * normal.factor.T, normal.factor)
        elif normal.gram is not None:
            gram.add_(normal.gram, alpha=weight)
        target += weight * normal.target
    return ridge_path(gram, target, (ridge,))


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


def normals(moments: MomentTable, folds: Sequence[int], shift: Tensor | None = None) -> list[Normal]:
    """The normal equations of some folds, kind by kind; without rows a kind is empty."""
    rank = next(len(part.target) for parts in moments.values() for part in parts if part.rows)
    normals = []
    for kind in RowKind:
        parts = [moments[kind][fold] for fold in folds if moments[kind][fold].rows]
        target = torch.zeros(rank, dtype=torch.float64)
        for part in parts:
            target += part.target if shift is None else part.target - part.counts @ shift
        factors = [part.factor for part in parts]
        kept = [factor for factor in factors if factor is not None]
        if len(kept) == len(parts) and sum(map(len, kept)) <= rank // 2:
            normals.append(Normal(None, torch.cat([*kept, target.new_zeros(0, rank)]), target))
            continue
        gram = parts[0].gram.clone()
        for part in parts[1:]:
            gram += part.gram
        normals.append(Normal(gram, None, target))
    return normals


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

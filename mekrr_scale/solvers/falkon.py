"""Preconditioned conjugate gradients in the whitened basis.

Falkon (Rudi, Carratino, Rosasco 2017; Meanti, Carratino, Rosasco, Rudi 2020) with two changes
that sets of atoms ask for: the whitened normal equations, which keep the accuracy of a direct
solve, and a preconditioner from a random part of the rows, since rows that are sums over sets
do not look like the landmarks that the classical one assumes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mekrr_scale.arrays import RowBlock, RowKind
from mekrr_scale.baselines import Baseline
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.operators import NormalOperator, SpectralPreconditioner, WhitenedRows, classical_gram
from mekrr_scale.rows import Rows
from mekrr_scale.solvers.direct import check_ridges, refit_shift
from mekrr_scale.solvers.moments import check_folds
from mekrr_scale.solvers.path import Weights
from mekrr_scale.solvers.solution import Path, PathPoint, Result, Solution
from mekrr_scale.whitening import Whitening

Preconditioner = Literal["subset", "falkon"]


@final
@dataclass(frozen=True)
class Falkon:
    """Solve for every ridge (and every fold) at once; all share each pass over the rows.

    Args:
        ridges: total ridges lambda.
        weights: w_E, w_F, w_S.
        rtol: of the residual |b - A beta| / |b|.
        preconditioner: ``subset``: (n/n_s) Phi_s' W Phi_s from a random part of the rows;
            ``falkon``: (sum of weights / M) K_ZZ^2, the classical one.
        subset: the part of the rows that ``subset`` takes.
        recompute_every: iterations after which the residual is computed from its definition.
        memory_bytes: whitened rows are kept if they fit; else each pass evaluates K again.
        patience: iterations without a better residual that count as stagnation.

    Raises:
        ConfigError: an option outside its range.
    """

    ridges: tuple[float, ...]
    weights: Weights = (1.0, 0.0, 0.0)
    rtol: float = 1e-9
    max_steps: int = 500
    preconditioner: Preconditioner = "subset"
    subset: float = 0.5
    recompute_every: int = 10
    patience: int = 40
    memory_bytes: int = 2 * 1024**3
    seed: int = 0
    select: Weights = (1.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        check_ridges(self.ridges)
        if not 0 < self.subset <= 1:
            raise ConfigError(f"subset is {self.subset}; it is the part of the rows used, above 0 and at most 1")
        if self.rtol <= 0 or self.max_steps < 1 or self.recompute_every < 1 or self.patience < 1:
            raise ConfigError("rtol must be positive; max_steps, recompute_every and patience at least 1")

    def solve(
        self,
        rows: Iterable[RowBlock],
        whitening: Whitening,
        baseline: Baseline,
        n_folds: int = 0,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> Solution:
        """Solve; with folds, cross-validate every ridge and put the best one's solution first.

        Args:
            rows: passed over once per iteration.
            progress: called with the number of rows of each block, in every pass.

        Raises:
            SolverError: no rows, or a preconditioner that cannot be factored.
        """
        start = time.perf_counter()
        whitened = Rows((WhitenedRows(rows, whitening),), self.memory_bytes)
        setup = self._first_pass(whitened, whitening, baseline, n_folds, progress)
        source, basis = (whitened, None) if whitened.kept else (rows, whitening)
        operator = NormalOperator(source, basis, self._row_weights(), setup.excluded, setup.ridges, progress)
        system = self._iterate(operator, setup)
        coefficients = whitening.coefficients(system.value)
        path = Path(())
        order = list(range(len(self.ridges)))
        count = len(self.ridges)
        fold_values: list[Tensor] = []
        if n_folds:
            path = self._errors(source, system.value if basis is None else coefficients, setup, n_folds)
            best = self.ridges.index(path.best(self.select).ridge)
            order = [best, *(i for i in order if i != best)]
            fold_values = [coefficients[:, (f + 1) * count + best, None] for f in range(n_folds)]
        return Solution(
            value=coefficients[:, order],
            ridges=tuple(self.ridges[i] for i in order),
            result=system.result,
            path=path,
            fold_values=fold_values,
            fold_shifts=setup.shifts,
            stats={
                "iterations": system.iterations,
                "residual": max(system.history[-1]) if system.history else 0.0,
                "residuals": [max(residual) for residual in system.history],
                "rank": whitening.rank,
                "seconds": time.perf_counter() - start,
            },
        )

    def _row_weights(self) -> dict[RowKind, float]:
        return dict(zip(RowKind, self.weights, strict=True))

    def _first_pass(
        self,
        rows: Iterable[RowBlock],
        whitening: Whitening,
        baseline: Baseline,
        n_folds: int,
        progress: Callable[[int], None],
    ) -> _Setup:
        """Right-hand sides by fold, fold baselines and the preconditioner, from one pass."""
        parts = max(n_folds, 1)
        n_species = len(baseline.species)
        target = torch.zeros(whitening.rank, parts, dtype=torch.float64)
        counts = torch.zeros(parts, whitening.rank, n_species, dtype=torch.float64)
        plain_gram = torch.zeros(parts, n_species, n_species, dtype=torch.float64)
        plain_target = torch.zeros(parts, n_species, dtype=torch.float64)
        subset = torch.zeros(whitening.rank, whitening.rank, dtype=torch.float64)
        generator = torch.Generator().manual_seed(self.seed)
        weights = self._row_weights()
        total_weight, n_rows, n_subset = 0.0, 0, 0
        for block in rows:
            check_folds(block, n_folds)
            w = block.weight * weights[block.kind]
            place = block.fold if n_folds else torch.zeros_like(block.fold)
            inside = torch.nn.functional.one_hot(place, parts).double()
            target += block.matrix.T @ ((w * block.target)[:, None] * inside)
            scaled = block.counts * block.scale[:, None]
            if block.kind == RowKind.ENERGY:
                for fold in range(parts):
                    chosen = inside[:, fold]
                    counts[fold] += block.matrix.T @ (scaled * (w * chosen)[:, None])
                    plain_gram[fold] += (block.counts * chosen[:, None]).T @ block.counts
                    plain_target[fold] += block.counts.T @ (chosen * block.target / block.scale)
            total_weight += float(w.sum())
            n_rows += len(w)
            picked = torch.rand(len(w), generator=generator) < self.subset
            if self.preconditioner == "subset" and bool(picked.any()):
                phi = block.matrix[picked]
                subset.addmm_((phi * w[picked, None]).T, phi)
                n_subset += int(picked.sum())
            progress(len(w))
        if not n_rows or total_weight == 0:
            raise SolverError("there is not a single row to fit; no structure in the store has a usable label")
        # column (f + 1) * ridges + r leaves fold f out; the first `ridges` columns leave none out
        excluded = [-1] * len(self.ridges) + [f for f in range(n_folds) for _ in self.ridges]
        shifts = [
            refit_shift(baseline, plain_gram.sum(0) - plain_gram[f], plain_target.sum(0) - plain_target[f])
            for f in range(n_folds)
        ]
        sides = [target.sum(1)] * len(self.ridges)
        for f, shift in enumerate(shifts):
            others = [g for g in range(n_folds) if g != f]
            side = sum((target[:, g] - counts[g] @ shift for g in others), torch.zeros_like(target[:, 0]))
            sides += [side] * len(self.ridges)
        if self.preconditioner == "subset":
            gram = subset * (n_rows / max(n_subset, 1))
        else:
            gram = classical_gram(whitening, total_weight)
        ridges = torch.tensor(list(self.ridges) * (n_folds + 1), dtype=torch.float64)
        preconditioner = SpectralPreconditioner.of(gram, ridges)
        return _Setup(torch.stack(sides, 1), torch.tensor(excluded), ridges, shifts, preconditioner)

    def _iterate(self, operator: NormalOperator, setup: _Setup) -> _System:
        """Block-free CG: every column is a system of its own, all share the passes."""
        b = setup.target
        norm = b.norm(dim=0).clamp_min(1e-300)
        beta = torch.zeros_like(b)
        residual = b.clone()
        best, best_residual = beta.clone(), residual.norm(dim=0) / norm
        improved = torch.zeros(b.shape[1], dtype=torch.int64)
        history: list[list[float]] = []
        z = setup.preconditioner.apply(residual)
        direction, rz = z.clone(), (residual * z).sum(0)
        step = 0
        while step < self.max_steps and not bool((best_residual <= self.rtol).all()):
            step += 1
            image = operator.apply(direction)
            curvature = (direction * image).sum(0)
            alpha = torch.where(curvature > 0, rz / curvature.clamp_min(1e-300), torch.zeros_like(rz))
            beta = beta + alpha * direction
            restart = step % self.recompute_every == 0
            residual = b - operator.apply(beta) if restart else residual - alpha * image
            relative = residual.norm(dim=0) / norm
            better = relative < best_residual
            best = torch.where(better, beta, best)
            improved = torch.where(better, step, improved)
            best_residual = torch.minimum(relative, best_residual)
            history.append(relative.tolist())
            if not bool(torch.isfinite(relative).all()):
                return _System(best, Result.BREAKDOWN, step, history)
            running = best_residual > self.rtol
            if bool((step - improved[running] >= self.patience).all()) and bool(running.any()):
                return _System(best, Result.STAGNATED, step, history)
            z = setup.preconditioner.apply(residual)
            fresh = (residual * z).sum(0)
            direction = z + torch.where(rz > 0, fresh / rz.clamp_min(1e-300), torch.zeros_like(rz)) * direction
            rz = fresh
        done = bool((best_residual <= self.rtol).all())
        return _System(best, Result.SUCCESS if done else Result.MAX_STEPS, step, history)

    def _errors(self, rows: Iterable[RowBlock], solutions: Tensor, setup: _Setup, n_folds: int) -> Path:
        """Cross-validated errors, from one pass over the rows."""
        count = len(self.ridges)
        squares = {kind: torch.zeros(count, dtype=torch.float64) for kind in RowKind}
        shares = dict.fromkeys(RowKind, 0.0)
        for block in rows:
            fitted = block.matrix @ solutions
            for fold in range(n_folds):
                chosen = block.fold == fold
                moved = block.target[chosen] - (block.counts[chosen] @ setup.shifts[fold]) * block.scale[chosen]
                error = fitted[chosen, (fold + 1) * count : (fold + 2) * count] - moved[:, None]
                squares[block.kind] += block.weight[chosen] @ error.square()
            shares[block.kind] += float(block.share.sum())
        rmse = {kind: (squares[kind] / (shares[kind] or torch.nan)).sqrt().tolist() for kind in RowKind}
        points = (
            PathPoint(ridge, self.weights, *(rmse[kind][i] for kind in RowKind)) for i, ridge in enumerate(self.ridges)
        )
        return Path(tuple(points))


@dataclass(frozen=True)
class _Setup:
    target: Float64[Tensor, "rank columns"]
    excluded: Int64[Tensor, " columns"]
    ridges: Float64[Tensor, " columns"]
    shifts: list[Float64[Tensor, " species"]]
    preconditioner: SpectralPreconditioner


@dataclass(frozen=True)
class _System:
    value: Float64[Tensor, "rank columns"]
    result: Result
    iterations: int
    history: list[list[float]]

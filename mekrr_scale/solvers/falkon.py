"""Preconditioned conjugate gradients in the whitened basis.

Falkon (Rudi, Carratino, Rosasco 2017; Meanti, Carratino, Rosasco, Rudi 2020) with two changes
that sets of atoms ask for: the whitened normal equations, which keep the accuracy of a direct
solve, and a preconditioner from a random part of the rows, since rows that are sums over sets
do not look like the landmarks that the classical one assumes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mekrr_scale.arrays import RowBlock, RowKind
from mekrr_scale.baselines import Baseline
from mekrr_scale.cache import KeptRows
from mekrr_scale.distributed import ALONE, Checkpoint, ExactSum, Group
from mekrr_scale.distributed.panels import PanelGram, PanelMatrix
from mekrr_scale.draws import uniform
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.operators import (
    NormalOperator,
    PanelPreconditioner,
    Preconditioner,
    SpectralPreconditioner,
    WhitenedRows,
    classical_gram,
)
from mekrr_scale.solvers.direct import check_ridges, refit_shift
from mekrr_scale.solvers.gradients import ConjugateGradients, Iterated
from mekrr_scale.solvers.moments import check_folds
from mekrr_scale.solvers.path import Weights
from mekrr_scale.solvers.solution import Path, PathPoint, Solution
from mekrr_scale.whitening import Whitening

PreconditionerName = Literal["subset", "falkon"]

LARGEST_EIGEN = 4096  # above this rank the preconditioner is factored by Cholesky, in panels over the ranks


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
        memory_bytes: of memory for whitened rows.
        scratch: folder for those that do not fit; without one every pass evaluates K again.
        device_bytes: of a GPU's memory for whitened rows, where landmarks and whitening are on one.
        patience: iterations without a better residual that count as stagnation.

    Raises:
        ConfigError: an option outside its range.
    """

    ridges: tuple[float, ...]
    weights: Weights = (1.0, 0.0, 0.0)
    rtol: float = 1e-9
    max_steps: int = 500
    preconditioner: PreconditionerName = "subset"
    subset: float = 0.5
    recompute_every: int = 10
    patience: int = 40
    memory_bytes: int = 2 * 1024**3
    scratch: FilePath | None = None
    device_bytes: int = 0
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
        group: Group = ALONE,
        checkpoint: Checkpoint | None = None,
        iterated: Iterated = lambda step, most, residual: None,
    ) -> Solution:
        """Solve; with folds, cross-validate every ridge and put the best one's solution first.

        Coefficients are the same bit by bit for any number of ranks, and after any restart.

        Args:
            rows: of this rank; passed over once per iteration unless whitened rows are kept.
            progress: called with the number of rows of each block of the first pass.
            iterated: called with number, most and largest relative residual of every iteration.
            checkpoint: where the iterate is kept now and then, and taken up from.

        Raises:
            SolverError: no rows, or a preconditioner that cannot be factored.
        """
        start = time.perf_counter()
        with KeptRows(WhitenedRows(rows, whitening), self.memory_bytes, self.scratch, self.device_bytes) as kept:
            setup = self._first_pass(kept, whitening, baseline, n_folds, progress, group)
            everywhere = int(group.maximum(torch.tensor(int(not kept.kept)))) == 0
            if not everywhere:
                kept.forget()
            source, basis = (kept, None) if everywhere else (rows, whitening)
            operator = NormalOperator(source, basis, self._row_weights(), setup.excluded, setup.ridges, group=group)
            if checkpoint is not None:
                checkpoint = checkpoint.part(
                    "cg", {"rows": "kept" if everywhere else "made anew", "solver": repr(self._fixed())}
                )
            method = ConjugateGradients(
                self.rtol, self.max_steps, self.recompute_every, self.patience, group, checkpoint, iterated
            )
            system = method.solve(operator.apply, setup.target, setup.preconditioner)
            coefficients = whitening.coefficients(system.value).cpu()
            path = Path(())
            order = list(range(len(self.ridges)))
            count = len(self.ridges)
            fold_values: list[Tensor] = []
            if n_folds:
                solutions = system.value if basis is None else coefficients.to(whitening.device)
                path = self._errors(source, solutions, setup, n_folds, group)
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
                    "seconds_setup": setup.seconds,
                    **{f"bytes_{tier}": size for tier, size in kept.stored_bytes.items()},
                },
            )

    def _fixed(self) -> Falkon:
        """The solver without what does not change its iterates."""
        return replace(self, memory_bytes=0, scratch=None, device_bytes=0, max_steps=1, rtol=1.0, patience=1)

    def _row_weights(self) -> dict[RowKind, float]:
        return dict(zip(RowKind, self.weights, strict=True))

    def _first_pass(
        self,
        rows: Iterable[RowBlock],
        whitening: Whitening,
        baseline: Baseline,
        n_folds: int,
        progress: Callable[[int], None],
        group: Group,
    ) -> _Setup:
        """Right-hand sides by fold, fold baselines and the preconditioner, from one pass."""
        start = time.perf_counter()
        device = whitening.device
        parts, n_species, rank = max(n_folds, 1), len(baseline.species), whitening.rank
        target, counts = ExactSum(rank, parts, device=device), ExactSum(parts, rank, n_species, device=device)
        plain_gram, plain_target = ExactSum(parts, n_species, n_species), ExactSum(parts, n_species)
        total_weight = ExactSum()
        gram = _SubsetGram(rank, group, device) if self.preconditioner == "subset" else None
        weights = self._row_weights()
        n_rows = n_subset = 0
        for made in rows:
            check_folds(made, n_folds)
            block = made.on(device)
            w = block.weight * weights[block.kind]
            place = block.fold if n_folds else torch.zeros_like(block.fold)
            inside = torch.nn.functional.one_hot(place, parts).double()
            target.add(block.matrix.T @ ((w * block.target)[:, None] * inside))
            if block.kind == RowKind.ENERGY:
                scaled = (block.counts * block.scale[:, None] * w[:, None])[:, None, :] * inside[:, :, None]
                counts.add(
                    (block.matrix.T @ scaled.flatten(1)).unflatten(1, (parts, n_species)).movedim(0, 1).contiguous()
                )
                by_fold = inside.T[:, :, None] * block.counts
                plain_gram.add((by_fold.mT @ block.counts).cpu())
                plain_target.add((by_fold.mT @ (block.target / block.scale)).cpu())
            total_weight.add(w.sum().cpu())
            n_rows += len(w)
            if gram is not None:
                drawn = uniform(block.key.numpy().astype(np.uint64), self.seed)
                picked = torch.from_numpy(drawn < self.subset).to(device)
                gram.add(block.matrix[picked] * w[picked, None].sqrt())
                n_subset += int(picked.sum())
            progress(len(w))
        if gram is not None:
            gram.meet()
        n_rows, n_subset = group.sum(torch.tensor([n_rows, n_subset])).tolist()
        weight = float(total_weight.value(group))
        if not n_rows or weight == 0:
            raise SolverError("there is not a single row to fit; no structure in the store has a usable label")
        ridges = torch.tensor(list(self.ridges) * (n_folds + 1), dtype=torch.float64, device=device)
        if gram is not None:
            preconditioner = gram.preconditioner(n_rows / max(n_subset, 1), ridges)
        else:
            preconditioner = SpectralPreconditioner.of(classical_gram(whitening, weight), ridges)
        # column (f + 1) * ridges + r leaves fold f out; the first `ridges` columns leave none out
        excluded = [-1] * len(self.ridges) + [f for f in range(n_folds) for _ in self.ridges]
        grams, moments = plain_gram.value(group), plain_target.value(group)
        shifts = [refit_shift(baseline, grams.sum(0) - grams[f], moments.sum(0) - moments[f]) for f in range(n_folds)]
        targets, shifted = target.value(group), counts.value(group)
        sides = [targets.sum(1)] * len(self.ridges)
        for f, shift in enumerate(shifts):
            others = [g for g in range(n_folds) if g != f]
            side = sum((targets[:, g] - shifted[g] @ shift.to(device) for g in others), torch.zeros_like(targets[:, 0]))
            sides += [side] * len(self.ridges)
        seconds = time.perf_counter() - start
        return _Setup(torch.stack(sides, 1), torch.tensor(excluded), ridges, shifts, preconditioner, seconds)

    def _errors(self, rows: Iterable[RowBlock], solutions: Tensor, setup: _Setup, n_folds: int, group: Group) -> Path:
        """Cross-validated errors, from one pass over the rows."""
        count = len(self.ridges)
        squares = {kind: ExactSum(count) for kind in RowKind}
        shares = {kind: ExactSum() for kind in RowKind}
        for made in rows:
            block = made.on(solutions.device)
            fitted = block.matrix @ solutions
            for fold in range(n_folds):
                chosen = block.fold == fold
                shift = setup.shifts[fold].to(solutions.device)
                moved = block.target[chosen] - (block.counts[chosen] @ shift) * block.scale[chosen]
                error = fitted[chosen, (fold + 1) * count : (fold + 2) * count] - moved[:, None]
                squares[block.kind].add((block.weight[chosen] @ error.square()).cpu())
            shares[block.kind].add(block.share.sum().cpu())
        rmse = {}
        for kind in RowKind:
            share = float(shares[kind].value(group))
            rmse[kind] = (squares[kind].value(group) / (share or torch.nan)).sqrt().tolist()
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
    preconditioner: Preconditioner
    seconds: float


class _SubsetGram:
    """Phi_s' W Phi_s of a part of the rows, summed on every rank or, if it is large, in panels."""

    def __init__(self, rank: int, group: Group, device: torch.device) -> None:
        self.rank, self.group = rank, group
        self._whole = ExactSum(rank, rank, bins=3, device=device) if rank <= LARGEST_EIGEN else None
        self._matrix: PanelMatrix | None = None
        self._panels = None if rank <= LARGEST_EIGEN else PanelGram(rank, group, device=device)

    def add(self, rows: Float64[Tensor, "rows rank"]) -> None:
        if self._whole is not None:
            self._whole.add(rows.T @ rows)
        if self._panels is not None:
            self._panels.add(rows)

    def meet(self) -> None:
        """All rows are in: go along with ranks that have more, before anything else is told."""
        if self._panels is not None:
            self._matrix = self._panels.finish()

    def preconditioner(self, factor: float, ridges: Float64[Tensor, " columns"]) -> Preconditioner:
        if self._whole is not None:
            return SpectralPreconditioner.of(self._whole.value(self.group) * factor, ridges)
        assert self._matrix is not None
        for panel in self._matrix.panels.values():
            panel.mul_(factor)
        return PanelPreconditioner.of(self._matrix, ridges)

"""The set kernel for the ``falkon`` library (0.9), which knows only vectors of equal length.

The library is given row indices instead of features: 0 ... n-1 are structures, n ... n+M-1
landmarks. Indices are float64, since the library casts its inputs to floating point and float32
is exact only up to 2^24.

Where the library would be silently wrong it is led around: as many structures as landmarks are not
stored by it (it tells K_nM from its transpose by the shape of a vector), labels are given in units of
their own size (its tolerance is absolute), it gets no seed (it would set
torch's, and draws nothing with fixed centres), and how well the system was solved is measured here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, RowKind
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.regression import Problem, Run, Source
from mekrr_scale.solvers.base import Solver, check
from mekrr_scale.solvers.solution import Effort, Result, Solution

_SOLVED = 1e-5  # relative residual; the library ends at 1e-7 of the labels' size


@dataclass(frozen=True)
class IndexedKernel:
    """Kernel rows of structures and landmarks that are named by their index."""

    rows: Float64[Tensor, "structures sets"]
    gram: Float64[Tensor, "sets sets"]  # K_ZZ

    @classmethod
    def of(cls, problem: Problem, batches: Iterable[FeatureBatch]) -> IndexedKernel:
        """Of all structures of a store, or of batches."""
        rows = [problem.kernel.rows(batch, problem.landmarks) for batch in batches]
        return cls(torch.cat(rows), problem.kernel.gram(problem.landmarks))

    @property
    def structures(self) -> Float64[Tensor, "structures 1"]:
        """What to pass as X."""
        return torch.arange(len(self.rows), dtype=torch.float64)[:, None]

    @property
    def centres(self) -> Float64[Tensor, "sets 1"]:
        """What to pass as fixed centres."""
        return torch.arange(len(self.rows), len(self.rows) + len(self.gram), dtype=torch.float64)[:, None]

    def block(self, rows: Float64[Tensor, "rows 1"], columns: Float64[Tensor, "columns 1"]) -> Float64[Tensor, "r c"]:
        """K between two lists of indices, one of which has landmarks alone; the library asks for both orders.

        Raises:
            ConfigError: structures in both, whose kernels are not known, or structures and landmarks in one.
        """
        i, j = rows[:, 0].long(), columns[:, 0].long()
        if self._landmarks(j):
            return self._table(i)[:, _span(j - len(self.rows))]
        if self._landmarks(i):
            return self._table(j)[:, _span(i - len(self.rows))].T
        raise ConfigError(
            "the kernel between two structures is not known, only that with landmarks; fix the centres to "
            "IndexedKernel.centres"
        )

    def _landmarks(self, indices: Int64[Tensor, " n"]) -> bool:
        return bool((indices >= len(self.rows)).all())

    def _table(self, indices: Int64[Tensor, " n"]) -> Float64[Tensor, "n sets"]:
        """K between what the indices name, either structures or landmarks, and all landmarks."""
        if self._landmarks(indices):
            return self.gram[_span(indices - len(self.rows))]
        if bool((indices >= len(self.rows)).any()):
            raise ConfigError("structures and landmarks in one list of indices; pass one after the other")
        return self.rows[_span(indices)]


def _span(indices: Int64[Tensor, " n"]) -> slice | Tensor:
    """Indices that follow each other as a slice, which copies nothing; the library asks for hardly anything else."""
    first, n = int(indices[0]), len(indices)
    following = torch.equal(indices, torch.arange(first, first + n))
    return slice(first, first + n) if following else indices


def solve(library: Solver, max_steps: int, problem: Problem, source: Source, run: Run) -> Solution:
    """Rows and labels times the root of their weights, so that the library's plain least squares are ours."""
    problem = problem.of_kinds(source.kinds)
    check(library, problem, source, run)
    if len(library.ridges) > 1:
        raise ConfigError("solver 'falkon-library' takes one ridge; give the one that cross-validation chose")
    if problem.n_columns != problem.landmarks.n_sets:
        raise ConfigError("'mean' with 0 < alpha < 1 has two columns per singleton; use 'sum', or whole structures")
    falkon = _library("falkon")
    start = time.perf_counter()
    blocks = list(problem.rows(source, {RowKind.ENERGY}))
    if not blocks:
        raise SolverError("there is not a single row to fit; no structure in the store has a usable label")
    weights = problem.weights[0]  # without folds there is nothing to choose by
    weight = weights[RowKind.ENERGY] * torch.cat([block.weight for block in blocks])
    target = torch.cat([block.target for block in blocks])
    rows = torch.cat([block.rows.double() for block in blocks])
    system = _System.of(rows, problem.kernel.gram(problem.landmarks), target, weight, library.ridges[0])
    value, residual = system.solved(falkon, max_steps)
    run.progress.advance(len(rows))
    return Solution(
        value=value,
        ridges=library.ridges,
        result=_result(value, residual),
        weights=weights,
        rank=len(value),
        effort=Effort(rows=len(rows), iterations=max_steps, residuals=(residual,), seconds=time.perf_counter() - start),
    )


def _result(value: Float64[Tensor, "sets 1"], residual: float) -> Result:
    if not bool(torch.isfinite(value).all()):
        return Result.BREAKDOWN
    return Result.SUCCESS if residual <= _SOLVED else Result.MAX_STEPS


@dataclass(frozen=True)
class _System:
    """min |y - K c|^2 + n penalty c' K_ZZ c, in units of the weights and of the labels.

    The library's preconditioner takes rows for what landmarks are: it needs them as they are, not per atom.
    """

    indexed: IndexedKernel
    target: Float64[Tensor, "structures 1"]
    penalty: float
    label: float  # the unit, eV

    @classmethod
    def of(
        cls,
        rows: Float64[Tensor, "structures sets"],
        gram: Float64[Tensor, "sets sets"],
        target: Float64[Tensor, " structures"],
        weight: Float64[Tensor, " structures"],
        ridge: float,
    ) -> _System:
        """The means of weights and of squared labels become 1."""
        mean = float(weight.mean()) or 1.0
        root = (weight / mean).sqrt()[:, None]
        wanted = root * target[:, None]
        label = float(wanted.square().mean().sqrt()) or 1.0
        penalty = ridge / (mean * len(target))
        return cls(IndexedKernel(rows * root, gram), wanted / label, penalty, label)

    def solved(self, falkon: Any, max_steps: int) -> tuple[Float64[Tensor, "sets 1"], float]:
        """Coefficients for labels in eV, and the relative residual.

        Raises:
            SolverError: the library could not factor K_ZZ.
        """
        given = self.indexed
        options = library_options(never_store_kernel=len(given.rows) == len(given.gram))
        try:
            fitted = falkon.Falkon(
                kernel=library_kernel(given, options),
                penalty=self.penalty,
                M=len(given.gram),
                center_selection=falkon.center_selection.FixedSelector(given.centres),
                maxiter=max_steps,
                options=options,
            ).fit(given.structures, self.target)
        except RuntimeError as error:
            said = (str(error) or type(error).__name__).splitlines()[0]
            raise SolverError(
                f"the falkon library could not solve the system ({said}); take fewer landmarks or a larger ridge, or "
                "solve with 'falkon', which needs no Cholesky factor of K_ZZ"
            ) from error
        value = fitted.alpha_.cpu().double().reshape(-1, 1).clone()  # the library's own bears no gradients
        return value * self.label, self._residual(fitted.precond, value)

    def _residual(self, preconditioner: Any, value: Float64[Tensor, "sets 1"]) -> float:
        """Of the normal equations, preconditioned as the library does it, over that of zero coefficients."""
        rows, gram, n = self.indexed.rows, self.indexed.gram, len(self.target)
        with torch.inference_mode():
            left = rows.T @ (self.target - rows @ value) / n - self.penalty * (gram @ value)
            whole = preconditioner.apply_t(rows.T @ self.target / n).norm()
            return float(preconditioner.apply_t(left).norm() / whole.clamp_min(1e-300))


def library_kernel(indexed: IndexedKernel, options: Any = None) -> Any:
    """A ``falkon.kernels.Kernel`` over the indices of an ``IndexedKernel``.

    Raises:
        ConfigError: the library is not installed.
    """
    kernels = _library("falkon.kernels")

    class RaggedSetKernel(kernels.Kernel):  # type: ignore[misc]
        """Hands blocks of the set kernel to the library."""

        def __init__(self) -> None:
            super().__init__("ragged set kernel", options)

        def compute(self, X1: Tensor, X2: Tensor, out: Tensor, diag: bool, **_: object) -> Tensor:  # noqa: N803
            if diag:
                raise ConfigError("the diagonal of the set kernel is not offered to the library")
            return out.copy_(indexed.block(X1.cpu().double(), X2.cpu().double()))

        def compute_sparse(self, *_: object, **__: object) -> Tensor:
            raise ConfigError("the set kernel takes no sparse input")

        def extra_mem(self, *_: object, **__: object) -> dict[str, float]:
            return {"0": 0.0, "n": 0.0, "m": 0.0, "nm": 1.0, "d": 0.0, "nd": 0.0, "md": 0.0}

    return RaggedSetKernel()


def library_options(**changes: Any) -> Any:
    """``falkon.FalkonOptions`` that keep K_nM: else the library evaluates it in every iteration."""
    return _library("falkon").FalkonOptions(
        **{"use_cpu": True, "store_kernel_d_threshold": 0, "cg_tolerance": 1e-10, **changes}
    )


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            "the falkon library is not installed (it is not on PyPI; see its documentation). The solver 'falkon' of "
            "this package does not need it"
        ) from error

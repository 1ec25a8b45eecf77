"""The set kernel for the ``falkon`` library (0.9), which knows only vectors of equal length.

The library is given row indices instead of features: 0 ... n-1 are structures, n ... n+M-1
landmarks. Indices are float64, since the library casts its inputs to floating point and float32
is exact only up to 2^24.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, RowKind
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.regression import ENERGY_ALONE, Problem, Run, Source
from mekrr_scale.solvers.base import Solver, check
from mekrr_scale.solvers.solution import Effort, Result, Solution


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

    @cached_property
    def table(self) -> Float64[Tensor, "all sets"]:
        """K between everything that has an index, and the landmarks."""
        return torch.cat([self.rows, self.gram])

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
            ConfigError: structures in both, whose kernels are not known.
        """
        i, j, first = rows[:, 0].long(), columns[:, 0].long(), len(self.rows)
        if bool((j >= first).all()):
            return self.table[i][:, j - first]
        if bool((i >= first).all()):
            return self.table[j][:, i - first].T
        raise ConfigError(
            "the kernel between two structures is not known, only that with landmarks; fix the centres to "
            "IndexedKernel.centres"
        )


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
    root = torch.cat([block.weight for block in blocks]).sqrt()
    target = root * torch.cat([block.target for block in blocks])
    rows = root[:, None] * torch.cat([block.rows.double() for block in blocks])
    indexed = IndexedKernel(rows, problem.kernel.gram(problem.landmarks))
    fitted = falkon.Falkon(
        kernel=library_kernel(indexed, library_options()),
        penalty=library.ridges[0] / len(rows),
        M=len(indexed.gram),
        center_selection=falkon.center_selection.FixedSelector(indexed.centres),
        maxiter=max_steps,
        seed=problem.seed,
        options=library_options(),
    ).fit(indexed.structures, target[:, None])
    value = fitted.alpha_.cpu().double().reshape(-1, 1).clone()  # the library's own bears no gradients
    run.progress.advance(len(rows))
    return Solution(
        value=value,
        ridges=library.ridges,
        result=Result.SUCCESS if bool(torch.isfinite(value).all()) else Result.BREAKDOWN,
        weights=ENERGY_ALONE,
        rank=len(indexed.gram),
        effort=Effort(rows=len(rows), iterations=max_steps, seconds=time.perf_counter() - start),
    )


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
    return _library("falkon").FalkonOptions(**{"use_cpu": True, "store_kernel_d_threshold": 0, **changes})


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            "the falkon library is not installed (it is not on PyPI; see its documentation). The solver 'falkon' of "
            "this package does not need it"
        ) from error

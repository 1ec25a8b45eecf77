"""The set kernel for the ``falkon`` library (0.9), which knows only vectors of equal length.

The library is given row indices instead of features: 0 ... n-1 are structures, n ... n+M-1
landmarks. Indices are float64, since the library casts its inputs to floating point and float32
is exact only up to 2^24. It is an optional dependency and not on PyPI; for anything but a
comparison ``mekrr_scale.solvers.Falkon`` is faster and more exact (docs/benchmarks.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, SpeciesRun, bounds
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import Landmarks, SetKernel


@dataclass(frozen=True)
class IndexedKernel:
    """A set kernel between structures and landmarks that are named by their index.

    Every device needs a copy (``to``), since the library moves nothing but the indices.
    """

    kernel: SetKernel
    batch: FeatureBatch
    landmarks: Landmarks

    @property
    def n(self) -> int:
        return self.batch.n_structures

    @property
    def structures(self) -> Float64[Tensor, "structures 1"]:
        """What to pass as X."""
        return torch.arange(self.n, dtype=torch.float64)[:, None]

    @property
    def centres(self) -> Float64[Tensor, "sets 1"]:
        """What to pass as fixed centres."""
        return torch.arange(self.n, self.n + self.landmarks.n_sets, dtype=torch.float64)[:, None]

    @cached_property
    def atoms_per_structure(self) -> float:
        """The mean, from which the library's memory estimate has to be corrected."""
        return float(self.batch.n_atoms.double().mean())

    def block(self, rows: Float64[Tensor, "rows 1"], columns: Float64[Tensor, "columns 1"]) -> Float64[Tensor, "r c"]:
        """K between two lists of indices; the columns have to be landmarks.

        Raises:
            ConfigError: columns that are structures, for which there is no fast path.
        """
        i, j = rows[:, 0].long(), columns[:, 0].long() - self.n
        if bool((j < 0).any()):
            raise ConfigError("the columns of a block must be landmarks; fix the centres to IndexedKernel.centres")
        is_landmark = i >= self.n
        found = torch.empty(len(i), len(j), dtype=torch.float64)
        if bool(is_landmark.any()):
            found[is_landmark] = self._landmark_gram[i[is_landmark] - self.n][:, j]
        if not bool(is_landmark.all()):
            found[~is_landmark] = self.kernel.rows(self.subset(i[~is_landmark]), self.landmarks)[:, j]
        return found

    @cached_property
    def _landmark_gram(self) -> Float64[Tensor, "sets sets"]:
        return self.kernel.gram(self.landmarks)

    def subset(self, indices: Int64[Tensor, " chosen"]) -> FeatureBatch:
        """The chosen structures, in that order."""
        runs, sources = [], []
        for run, source in zip(self.batch.runs, self.batch.sources, strict=True):
            counts = run.ptr.diff()[indices]
            starts = run.ptr[:-1][indices]
            ends = bounds(counts)
            rows = torch.arange(int(ends[-1])) + (starts - ends[:-1]).repeat_interleave(counts)
            runs.append(SpeciesRun(run.z, run.features[rows], ends))
            sources.append(source[rows])
        fields = {name: getattr(self.batch, name)[indices] for name in ("n_atoms", "energy", "prior", "ids", "groups")}
        return replace(self.batch, runs=tuple(runs), sources=tuple(sources), directions=None, **fields)


def library_kernel(indexed: IndexedKernel, options: Any = None) -> Any:
    """A ``falkon.kernels.Kernel`` over the indices of an ``IndexedKernel``.

    Fit with ``falkon.Falkon(kernel=library_kernel(k), center_selection=FixedSelector(k.centres),
    options=library_options(), ...).fit(k.structures, y)``.

    Raises:
        ConfigError: the library is not installed, or the kernel has two columns per landmark.
    """
    if indexed.kernel.n_columns(indexed.landmarks) != indexed.landmarks.n_sets:
        raise ConfigError("'mean' with 0 < alpha < 1 has two columns per singleton; use 'sum', or whole structures")
    kernels = _library("falkon.kernels")
    atoms = indexed.atoms_per_structure
    dim = indexed.batch.runs[0].features.shape[1]

    class RaggedSetKernel(kernels.Kernel):  # type: ignore[misc]
        """Evaluates blocks of the set kernel for the library."""

        def __init__(self) -> None:
            super().__init__("ragged set kernel", options)

        def compute(self, X1: Tensor, X2: Tensor, out: Tensor, diag: bool, **_: object) -> Tensor:  # noqa: N803
            if diag:
                raise ConfigError("the diagonal of the set kernel is not offered to the library")
            return out.copy_(indexed.block(X1.cpu().double(), X2.cpu().double()))

        def compute_sparse(self, *_: object, **__: object) -> Tensor:
            raise ConfigError("the set kernel takes no sparse input")

        def extra_mem(self, *_: object, **__: object) -> dict[str, float]:
            # a structure brings its atoms' features and a tile of kernel rows, which the library cannot know
            return {"0": 0.0, "n": atoms * (dim + 2), "m": float(dim + 2), "nm": 1.0, "d": 0.0, "nd": 0.0, "md": 0.0}

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

"""On which terms rows are made: basis, precision, and what rows ask of a problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from mekrr_scale.arrays import ByKind, FeatureBatch, Landmarks
from mekrr_scale.kernels import SetKernel
from mekrr_scale.models import Baseline, WhiteningMethod
from mekrr_scale.regression.folds import Folds


@dataclass(frozen=True)
class Basis:
    """How K_ZZ is whitened (``whiten``)."""

    cut: float = 1e-11  # relative to the largest eigenvalue
    method: WhiteningMethod = "eigen"


@dataclass(frozen=True)
class Precision:
    """Of kernel elements; sums over atoms are float64 always."""

    energy: torch.dtype = torch.float64
    derivative: torch.dtype = torch.float32

    @classmethod
    def named(cls, energy: str, derivative: str) -> Precision:
        """From the names of dtypes."""
        return cls(getattr(torch, energy), getattr(torch, derivative))


@runtime_checkable
class RowTerms(Protocol):
    """What rows are made of; a ``Problem`` has it."""

    @property
    def kernel(self) -> SetKernel: ...

    @property
    def landmarks(self) -> Landmarks: ...

    @property
    def baseline(self) -> Baseline: ...

    @property
    def folds(self) -> Folds | None: ...

    @property
    def weights(self) -> tuple[ByKind[float], ...]: ...

    @property
    def precision(self) -> Precision: ...

    def fold_of(self, batch: FeatureBatch) -> Int64[Tensor, " structures"]: ...

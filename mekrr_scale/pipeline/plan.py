"""What to fit, as plain values: what a configuration or a caller fills in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mekrr_scale.baselines import BaselineKind
from mekrr_scale.cache import default_scratch
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import KERNEL_NAMES, SpeciesMixing, atom_kernel
from mekrr_scale.pool import Balance
from mekrr_scale.transforms import Standardize
from mekrr_scale.whitening import WhiteningMethod

LandmarkMethod = Literal["uniform", "displaced", "farthest", "leverage", "structures"]
SolverName = Literal["direct", "falkon", "exact"]


@dataclass(frozen=True)
class LengthScale:
    """A length scale, absolute or as a multiple of the median distance between atoms' features."""

    value: float
    relative: bool = True

    @classmethod
    def parse(cls, text: str | float | LengthScale) -> LengthScale:
        """From ``"4x"`` (four times the median) or a number.

        >>> LengthScale.parse("4x")
        LengthScale(value=4.0, relative=True)

        Raises:
            ConfigError: neither of the two, or not positive.
        """
        if isinstance(text, LengthScale):
            return text
        bare = str(text).strip()
        try:
            value = float(bare.removesuffix("x"))
        except ValueError:
            value = math.nan
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(
                f"length scale {text!r}: give a positive number, or a multiple of the median such as '4x'"
            )
        return cls(value, bare.endswith("x"))


@dataclass(frozen=True)
class FitPlan:
    """What to fit. Every tuple is a list of candidates; cross-validation chooses among them.

    Raises:
        ConfigError: an option outside its range, or a combination that cannot be.
    """

    kernel: str = "gaussian"
    kernel_parameters: Mapping[str, Any] = field(default_factory=dict)
    length_scales: tuple[LengthScale, ...] = (LengthScale(2.0), LengthScale(4.0))
    alphas: tuple[float, ...] = (1.0,)
    mixing: SpeciesMixing | None = None  # a matrix instead of alphas
    learn_mixing: bool = False  # the matrix, by cross-validation
    reduce: Literal["sum", "mean"] = "sum"
    standardize: tuple[Standardize, ...] = ("scale-per-species",)
    baselines: tuple[BaselineKind, ...] | None = None  # None: what the store allows
    isolated: Mapping[int, float] = field(default_factory=dict)
    landmarks: LandmarkMethod = "uniform"
    n_landmarks: int = 1000
    warm: Path | None = None  # a model whose landmarks are taken too
    balance: Balance = "sqrt"
    solver: SolverName = "direct"
    ridges: tuple[float, ...] = tuple(10.0 ** (k / 2) for k in range(-20, -3))
    folds: int = 5
    energy_weights: tuple[float, ...] = (1.0,)
    force_weights: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    store_weights: tuple[float, ...] = ()  # of each store's rows; empty: all 1
    stress_weights: tuple[float, ...] = (0.0,)
    select: tuple[float, float, float] = (1.0, 1e-4, 0.0)
    use_derivatives: bool = True
    cut: float = 1e-11
    whitening: WhiteningMethod = "eigen"
    device: str = "cpu"  # of rows and solvers
    memory_bytes: int = 2 * 1024**3  # energy rows are kept if they fit
    scratch: Path | None = field(default_factory=default_scratch)  # what does not fit; None: made anew
    falkon: Mapping[str, Any] = field(default_factory=dict)
    uncertainty: bool = True  # keep what tells how sure the model is; needs folds
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kernel not in KERNEL_NAMES:
            atom_kernel(self.kernel)  # raises, with the closest name
        for name in ("length_scales", "alphas", "standardize", "ridges", "energy_weights"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; give at least one")
        for alpha in self.alphas:
            SpeciesMixing(alpha)
        if any(not weight > 0 for weight in self.store_weights):
            raise ConfigError(f"weights of stores {self.store_weights}: give positive numbers")
        if self.learn_mixing and (not self.folds or self.reduce != "sum" or self.mixing or self.solver != "direct"):
            raise ConfigError("a mixing matrix is learned by cross-validation, for reduce 'sum' and solver 'direct'")
        if self.warm is not None and (self.landmarks == "structures" or self.solver == "exact"):
            raise ConfigError("a model's landmarks are joined by single atoms only, not by whole structures")
        if self.folds and self.folds < 2:
            raise ConfigError(f"{self.folds} folds: give at least 2, or 0 to skip cross-validation")
        if not self.folds and self._n_candidates() > 1:
            raise ConfigError("several candidates but no folds to choose among them; give one of each, or --validate 5")

    def _n_candidates(self) -> int:
        lists = (self.length_scales if self.kernel != "gaussian-sum" else (0,), self.alphas, self.standardize)
        return math.prod(map(len, lists)) * len(self.ridges) * len(self.baselines or (0,))

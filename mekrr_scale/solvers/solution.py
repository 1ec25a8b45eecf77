"""What a solver gives back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum

from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.distributed import State
from mekrr_scale.errors import ConfigError


class Result(Enum):
    """How a solve ended; the value says what to do about it."""

    SUCCESS = "Solved to the tolerance asked for."
    MAX_STEPS = "The maximum number of iterations was reached. Increase `max_steps`, or the ridge."
    STAGNATED = (
        "The residual stopped falling before the tolerance was reached; the best iterate was kept. "
        "Increase the ridge or the whitening cut, or loosen `rtol`."
    )
    BREAKDOWN = (
        "The system is not positive definite in floating point. Increase the ridge or the whitening "
        "cut, or use float64 rows."
    )


@dataclass(frozen=True)
class PathPoint:
    """Cross-validated errors for one ridge and one set of weights."""

    ridge: float
    weights: tuple[float, float, float]  # energy, force, stress
    energy_rmse: float  # eV/atom
    force_rmse: float  # eV/angstrom; NaN without force rows
    stress_rmse: float  # virial per atom, eV; NaN without stress rows

    def score(self, weights: tuple[float, float, float]) -> float:
        """Weighted sum of mean squared errors; what is minimised."""
        parts = zip(weights, (self.energy_rmse, self.force_rmse, self.stress_rmse), strict=True)
        return sum(w * error**2 for w, error in parts if w > 0 and not math.isnan(error))


@dataclass(frozen=True)
class Path:
    """Cross-validated errors of every combination that was tried."""

    points: tuple[PathPoint, ...]

    def best(self, weights: tuple[float, float, float] = (1.0, 0.0, 0.0)) -> PathPoint:
        """The point with the lowest weighted sum of mean squared errors."""
        if not self.points:
            raise ConfigError("nothing was cross-validated; solve with folds, or choose a ridge yourself")
        return min(self.points, key=lambda point: point.score(weights))


@dataclass(frozen=True)
class Solution:
    """Coefficients, and how they came about."""

    value: Float64[Tensor, "columns solutions"]  # one column for each ridge asked for
    ridges: tuple[float, ...]
    result: Result
    path: Path = Path(())
    fold_values: Sequence[Float64[Tensor, "columns 1"]] = ()  # of the first ridge
    fold_shifts: Sequence[Float64[Tensor, " species"]] = ()  # of the baseline's energies, eV
    stats: Mapping[str, float | int | list[float]] = field(default_factory=dict)

    def state(self) -> State:
        """Everything, for a checkpoint."""
        tensors = {"value": self.value}
        tensors |= {f"fold_value/{i}": value for i, value in enumerate(self.fold_values)}
        tensors |= {f"fold_shift/{i}": shift for i, shift in enumerate(self.fold_shifts)}
        values = {
            "ridges": list(self.ridges),
            "result": self.result.name,
            "path": [asdict(point) for point in self.path.points],
            "folds": len(self.fold_values),
            "stats": dict(self.stats),
        }
        return State(tensors, values)

    @classmethod
    def restored(cls, state: State) -> Solution:
        """The inverse of ``state``."""
        points = [PathPoint(**{**point, "weights": tuple(point["weights"])}) for point in state.values["path"]]
        folds = range(state.values["folds"])
        return cls(
            value=state.tensors["value"],
            ridges=tuple(state.values["ridges"]),
            result=Result[state.values["result"]],
            path=Path(tuple(points)),
            fold_values=[state.tensors[f"fold_value/{i}"] for i in folds],
            fold_shifts=[state.tensors[f"fold_shift/{i}"] for i in folds],
            stats=state.values["stats"],
        )

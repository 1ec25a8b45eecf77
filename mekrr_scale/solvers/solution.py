"""What a solver gives back."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, NotRequired, TypedDict, cast

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import KINDS, ByKind, RowKind
from mekrr_scale.distributed import State
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.regression import ENERGY_ALONE, Balanced, Criterion, Rows, score

_FLAT = 0.02  # a smaller part of a score is no reason to look further
_DISAGREE = 0.5  # standard deviation of the logarithms of the folds' errors: a factor of 1.6
_DEAR = 0.1  # logarithm of the factor that a safer ridge may cost at most


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
    weights: ByKind[float]
    rmse: ByKind[float]  # eV/atom, eV/angstrom, virial per atom in eV; NaN without rows, infinite if not a number
    typical: ByKind[float] | None = None  # the same, folds told apart (``typical_error``); None of version 0.1.0
    folds: ByKind[tuple[float, ...]] | None = None  # the same of every fold, where they are told apart

    @classmethod
    def untested(cls, ridge: float, weights: ByKind[float]) -> PathPoint:
        """Without errors that are known."""
        return cls(ridge, weights, ByKind.of({}, math.nan))

    def score(self, criterion: Criterion, known: Container[RowKind] = ()) -> float:
        """What is minimised: see ``regression.score``.

        Args:
            known: kinds that there are rows of: an error of these that is not a number is no error of zero.
        """
        typical = self.typical if isinstance(criterion, Balanced) else None
        return score(criterion, self.rmse if typical is None else typical, known)

    def kinds(self) -> frozenset[RowKind]:
        """Kinds whose errors are known."""
        return frozenset(kind for kind, value in self.rmse.items() if not math.isnan(value))

    def logarithms(self, criterion: Balanced) -> Float64[np.ndarray, "kinds folds"] | None:
        """Of the folds' errors that count; None where folds are not told apart, or an error is zero or not finite."""
        found = [self.folds[kind] for kind in RowKind if self.folds and kind in criterion.kinds & self.kinds()]
        if not found or not all(found) or not np.isfinite(found).all() or not np.all(found):
            return None
        return np.log(found)

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it."""
        errors = {f"{KINDS[kind].name}_rmse": value for kind, value in self.rmse.items()}
        typical = {} if self.typical is None else {"typical": self.typical.listed(math.nan)}
        return {"ridge": self.ridge, "weights": self.weights.listed(0.0), **errors, **typical, **_listed(self.folds)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> PathPoint:
        """The inverse of ``to_dict``; kinds that an older version did not know are without rows."""
        errors = {kind: document.get(f"{info.name}_rmse", math.nan) for kind, info in KINDS.items()}
        typical = ByKind.from_list(document["typical"], math.nan) if "typical" in document else None
        weights = ByKind.from_list(document["weights"], 0.0)
        return cls(document["ridge"], weights, ByKind.of(errors, math.nan), typical, _folds_of(document))


@dataclass(frozen=True)
class Path:
    """Cross-validated errors of every combination that was tried."""

    points: tuple[PathPoint, ...]

    def known(self, known: Sequence[bool]) -> Path:
        """With the errors of all other points unknown, unless all are."""
        if not any(known):
            return self
        pairs = zip(self.points, known, strict=True)
        return Path(tuple(point if yes else PathPoint.untested(point.ridge, point.weights) for point, yes in pairs))

    def best(self, criterion: Criterion = ENERGY_ALONE) -> PathPoint:
        """The point to take: the lowest, unless folds disagree so much that it is lowest by chance.

        They do where some of them hold structures far outside of all others: the standard deviation of ln RMSE over the
        folds is above one half, at either ridge or between them. A small ridge that happens to suit these may be wrong
        by any amount elsewhere. Of the same weights the largest ridge is taken whose error is within one standard error
        of the lowest, that of the mean of ln(error / lowest) over the folds (Breiman, Friedman, Olshen and Stone 1984,
        Classification and Regression Trees, section 3.4.3; here of paired differences), and at most a tenth above it:
        where only a few structures are far outside, their folds would else outweigh what all others lose.
        """
        lowest = self.lowest(criterion)
        if not isinstance(criterion, Balanced) or (least := lowest.logarithms(criterion)) is None:
            return lowest
        above = [point for point in self.points if point.weights == lowest.weights and point.ridge > lowest.ridge]
        taken, apart, between = lowest, 0.0, _apart(least)
        for point in sorted(above, key=lambda point: point.ridge):
            if (errors := point.logarithms(criterion)) is None:
                continue
            between = max(between, _apart(errors))
            rise = (errors - least).mean(0)
            if rise.mean() <= min(rise.std(ddof=1) / len(rise) ** 0.5, _DEAR):
                taken, apart = point, between
        return taken if apart > _DISAGREE else lowest

    def lowest(self, criterion: Criterion = ENERGY_ALONE) -> PathPoint:
        """The point with the lowest score; one that has no finite error never wins."""
        if not self.points:
            raise ConfigError("nothing was cross-validated; solve with folds, or choose a ridge yourself")
        known = frozenset[RowKind]().union(*(point.kinds() for point in self.points))
        return min(self.points, key=lambda point: point.score(criterion, known))

    def end(self, criterion: Criterion = ENERGY_ALONE) -> int:
        """Whether the lowest point is at an end of the ridges that errors fall towards: -1 the smallest, 1 the largest.

        Zero where it lies between, or where the end is flat: a score within 2 % of its neighbour's (1 % of the error).
        """
        best = self.lowest(criterion)
        ridges = sorted({point.ridge for point in self.points})
        if len(ridges) < 2 or ridges[0] < best.ridge < ridges[-1]:
            return 0
        side, beside = (-1, ridges[1]) if best.ridge == ridges[0] else (1, ridges[-2])
        scores = {point.ridge: point.score(criterion) for point in self.points if point.weights == best.weights}
        return side if scores[best.ridge] < (1 - _FLAT) * scores[beside] else 0


def _apart(errors: Float64[np.ndarray, "kinds folds"]) -> float:
    """How far the folds' errors are from one another, in their logarithms; of the kind where it is most."""
    return float(errors.std(axis=1, ddof=1).max())


@dataclass(frozen=True)
class Effort:
    """What a solve took."""

    rows: int = 0  # of all kinds and ranks; 0 where they were not counted
    iterations: int = 0
    residuals: tuple[float, ...] = field(
        default=(), repr=False
    )  # the largest relative one of all columns, after every iteration
    seconds: float = 0.0
    seconds_pass: float = 0.0  # of the first pass over the rows
    bytes_device: int = 0  # of rows that were kept, by place
    bytes_memory: int = 0
    bytes_scratch: int = 0

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Effort:
        """From JSON; what an older version wrote under other names is passed over."""
        known = {name: document[name] for name in cls.__dataclass_fields__ if name in document}
        return cls(**{**known, "residuals": tuple(known.get("residuals", ()))})


@dataclass(frozen=True)
class LearningPoint:
    """Cross-validated errors of models of a part of the folds."""

    structures: float  # with an energy that were learned from, the mean over the models
    rmse: ByKind[float]  # of what the models did not see: eV/atom, eV/angstrom, virial per atom in eV; NaN without rows
    folds: ByKind[tuple[float, ...]] | None = None  # the same of every fold that is left out; None of older versions

    def to_dict(self) -> dict[str, object]:
        """As states hold it."""
        errors = {info.name: self.rmse[kind] for kind, info in KINDS.items()}
        return {"structures": self.structures, **errors, **_listed(self.folds)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> LearningPoint:
        """The inverse of ``to_dict``."""
        errors = {kind: document.get(info.name, float("nan")) for kind, info in KINDS.items()}
        return cls(document["structures"], ByKind.of(errors, float("nan")), _folds_of(document))


def _listed(folds: ByKind[tuple[float, ...]] | None) -> dict[str, object]:
    """Errors of every fold as documents hold them."""
    return {} if folds is None else {"folds": folds.listed(())}


def _folds_of(document: Mapping[str, Any]) -> ByKind[tuple[float, ...]] | None:
    """The inverse; None of older versions."""
    return ByKind.from_list([tuple(each) for each in document["folds"]], ()) if "folds" in document else None


class _Document(TypedDict):
    """What states hold beside tensors."""

    ridges: list[float]
    result: str
    weights: NotRequired[list[float]]  # since 0.2
    path: list[Mapping[str, Any]]
    folds: int
    curve: NotRequired[list[Mapping[str, Any]]]  # since 0.2
    stats: Mapping[str, Any]


@dataclass(frozen=True)
class Solution:
    """Coefficients, and how they came about."""

    value: Float64[Tensor, "columns solutions"] = field(repr=False)  # one column for each ridge
    ridges: tuple[float, ...]  # of the columns; the chosen one first
    result: Result
    weights: ByKind[float] = ENERGY_ALONE  # of the kinds of rows, as chosen
    path: Path = field(default=Path(()), repr=False)
    fold_values: Sequence[Float64[Tensor, "columns 1"]] = field(default=(), repr=False)  # of the first ridge
    fold_shifts: Sequence[Float64[Tensor, " species"]] = field(default=(), repr=False)  # of the baseline's energies, eV
    rank: int = 0  # of the whitened basis
    effort: Effort = Effort()
    curve: Sequence[LearningPoint] = field(default=(), repr=False)  # of models of a part of the folds
    rows: Rows | None = field(default=None, repr=False, compare=False)  # kept ones, for who passes over them next

    def require(self) -> None:
        """Refuse a solution that broke down.

        Raises:
            SolverError: says what to change.
        """
        if self.result is Result.BREAKDOWN:
            raise SolverError(self.result.value)

    def point(self, criterion: Criterion) -> PathPoint:
        """Cross-validated errors of what was chosen, or without folds none."""
        return self.path.best(criterion) if self.path.points else PathPoint.untested(self.ridges[0], self.weights)

    def score(self, criterion: Criterion) -> float:
        """Of what was chosen, by which candidates are compared."""
        return self.point(criterion).score(criterion)

    def state(self) -> State:
        """Everything but kept rows, for a checkpoint."""
        tensors = {"value": self.value}
        tensors |= {f"fold_value/{i}": value for i, value in enumerate(self.fold_values)}
        tensors |= {f"fold_shift/{i}": shift for i, shift in enumerate(self.fold_shifts)}
        values = {
            "ridges": list(self.ridges),
            "result": self.result.name,
            "weights": self.weights.listed(0.0),
            "path": [point.to_dict() for point in self.path.points],
            "folds": len(self.fold_values),
            "curve": [point.to_dict() for point in self.curve],
            "stats": {"rank": self.rank, **asdict(self.effort)},
        }
        return State(tensors, values)

    @classmethod
    def restored(cls, state: State, criterion: Criterion = ENERGY_ALONE) -> Solution:
        """The inverse of ``state``.

        Args:
            criterion: that the solution was chosen by; states of version 0.1.0 do not say its weights.
        """
        document = cast(_Document, state.values)
        folds = range(document["folds"])
        path = Path(tuple(PathPoint.from_dict(point) for point in document["path"]))
        weights = path.best(criterion).weights if path.points else ENERGY_ALONE
        return cls(
            value=state.tensors["value"],
            ridges=tuple(document["ridges"]),
            result=Result[document["result"]],
            weights=ByKind.from_list(document["weights"], 0.0) if "weights" in document else weights,
            path=path,
            fold_values=[state.tensors[f"fold_value/{i}"] for i in folds],
            fold_shifts=[state.tensors[f"fold_shift/{i}"] for i in folds],
            rank=document["stats"].get("rank", 0),
            effort=Effort.from_dict(document["stats"]),
            curve=tuple(LearningPoint.from_dict(point) for point in document.get("curve", ())),
        )

"""What a fit gives back: the model, how it was chosen, and what that took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import KINDS, ByKind, RowKind, error_text
from mekrr_scale.errors import ConfigError
from mekrr_scale.figures import Shown, TextTable
from mekrr_scale.kernels import Standardize
from mekrr_scale.models import JSON, BaselineKind, Model
from mekrr_scale.pipeline.evaluation.report import parity_of_folds
from mekrr_scale.pipeline.fitting.data import criterion_of
from mekrr_scale.pipeline.fitting.outliers import Outlier, group_table, outlier_table
from mekrr_scale.pipeline.fitting.plan import FitPlan
from mekrr_scale.pipeline.fitting.single import HeldRows
from mekrr_scale.plans import to_dict
from mekrr_scale.regression import UNITS, Criterion, Errors, Problem, criterion_text
from mekrr_scale.solvers import PathPoint, Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEMA = "mekrr-scale fit 1.0"  # of the JSON: keys may be added to it, not taken away


@dataclass(frozen=True)
class Tried:
    """A candidate with its best cross-validated errors."""

    standardize: Standardize
    baseline: BaselineKind
    alpha: float | None  # None: a matrix of species mixing was given
    length_scale: float | tuple[float, ...] | None
    ridge: float
    weights: ByKind[float]
    rmse: ByKind[float]  # eV/atom, eV/angstrom, virial per atom in eV; NaN for a kind without rows
    rank: int
    typical: ByKind[float] | None = None  # errors with folds told apart, by which balanced compares

    @classmethod
    def of(cls, standardize: Standardize, baseline: BaselineKind, problem: Problem, solution: Solution) -> Tried:
        """The line about a solution."""
        atom, mixing = problem.kernel.atom, problem.kernel.mixing
        point = solution.point(problem.criterion)
        return cls(
            standardize,
            baseline,
            None if mixing.matrix else mixing.alpha,
            getattr(atom, "length_scale", getattr(atom, "length_scales", None)),
            point.ridge,
            point.weights,
            point.rmse,
            solution.rank,
            point.typical,
        )

    @property
    def kinds(self) -> frozenset[RowKind]:
        """Those with an error."""
        return frozenset(kind for kind, error in self.rmse.items() if not math.isnan(error))

    def score(self, criterion: Criterion) -> float:
        """What candidates are compared by (``PathPoint.score``)."""
        return PathPoint(self.ridge, self.weights, self.rmse, self.typical).score(criterion)

    def header(self) -> dict[str, JSON]:
        """As model files hold it (eV); what is not known is left out."""
        found: dict[str, JSON] = {"standardize": self.standardize, "baseline": self.baseline}
        if self.alpha is not None:
            found["alpha"] = self.alpha
        found |= {"length_scale": self.length_scale, "ridge": self.ridge, "weights": self.weights.listed(0.0)}
        return {**found, **self.errors(), "rank": self.rank}

    def to_dict(self) -> dict[str, JSON]:
        """As reports hold it (meV)."""
        return {**self.header(), **self.errors(shown=True)}

    def errors(self, shown: bool = False) -> dict[str, float]:
        """``energy_rmse`` and so on, of the kinds that there are rows of; ``shown``: in the units of reports."""
        known = {kind: error for kind, error in self.rmse.items() if math.isfinite(error) and KINDS[kind].judged}
        factors = {kind: KINDS[kind].unit.factor if shown else 1.0 for kind in known}
        return {f"{KINDS[kind].name}_rmse": factors[kind] * error for kind, error in known.items()}

    def __str__(self) -> str:
        length = self.length_scale
        shown = f"{length:.3g}" if isinstance(length, float) else str(length)
        mixing = "given mixing" if self.alpha is None else f"alpha {self.alpha:g}"
        energy, force = (KINDS[kind].unit.factor * self.rmse[kind] for kind in (RowKind.ENERGY, RowKind.FORCE))
        forces = "" if math.isnan(force) else f", forces {force:.1f} {UNITS['force'].short}"
        return (
            f"{self.standardize}, baseline {self.baseline}, length {shown}, {mixing}: cross-validated RMSE "
            f"{energy:.3f} {UNITS['energy'].text}{forces} at ridge {self.ridge:.1e}"
        )


@dataclass(frozen=True)
class Grown:
    """A number of landmarks that was tried for the candidate that was chosen."""

    landmarks: int
    line: Tried

    def to_dict(self) -> dict[str, JSON]:
        """As reports hold it (meV)."""
        return {"landmarks": self.landmarks, **self.line.to_dict()}


@dataclass(frozen=True)
class Comparison:
    """Candidates that were cross-validated, without a model."""

    plan: FitPlan
    tried: Sequence[Tried]  # every candidate
    chosen: Tried

    @property
    def compared(self) -> float:
        """The root of the score that the chosen candidate was compared with others by: an error."""
        return math.sqrt(self.chosen.score(criterion_of(self.plan)))


@dataclass(frozen=True, repr=False)
class FitReport(Shown):
    """A model and how it was chosen."""

    model: Model
    plan: FitPlan
    solution: Solution
    tried: Sequence[Tried]  # every candidate
    chosen: Tried
    reference: Float64[Tensor, " structures"]  # eV/atom less the species' reference energies
    predicted: Float64[Tensor, " structures"]  # the same, by the models of the other folds
    warnings: Sequence[str] = ()
    remarks: Sequence[str] = ()  # what was done with the data, and why
    configs: Mapping[str, Mapping[RowKind, Errors]] = field(default_factory=dict)  # errors by configuration type
    stores: Mapping[str, Mapping[RowKind, Errors]] = field(default_factory=dict)  # by store, where there are several
    outliers: Sequence[Outlier] = ()  # labels far from what the other folds' models give, the farthest first
    rows: Mapping[RowKind, HeldRows] = field(default_factory=dict)  # held-out labels and predictions, row by row
    growth: Sequence[Grown] = ()  # numbers of landmarks that were tried, where they grow (landmarks.grow_to)

    @property
    def compared(self) -> float:
        """See ``Comparison``."""
        return Comparison(self.plan, self.tried, self.chosen).compared

    def metrics(self) -> dict[str, float]:
        """Cross-validated errors of the chosen candidate: energies in meV/atom, forces along the stored directions in
        meV/angstrom, virials in meV/atom; empty without cross-validation."""
        mae = self.model.validation.get("energy_mae")
        found = {"energy_mae": UNITS["energy"].factor * mae} if isinstance(mae, float) else {}
        return {**found, **self.chosen.errors(shown=True)}

    def to_dict(self) -> dict[str, object]:
        """What ``fit --json`` writes; docs/cli.md describes it."""
        model, effort = self.model, asdict(self.solution.effort)
        return {
            "schema": SCHEMA,
            "metrics": self.metrics(),
            "units": {info.name: info.unit.text for info in KINDS.values()},
            "result": self.solution.result.name,
            "chosen": self.chosen.to_dict(),
            "candidates": [line.to_dict() for line in self.tried],
            "growth": [step.to_dict() for step in self.growth],
            "stores": _by_group(self.stores),
            "configuration_types": _by_group(self.configs),
            "outliers": [item.to_dict() for item in self.outliers],
            "model": {
                "landmarks": model.landmarks.n_sets,
                "species": list(model.species),
                "backbone": dict(model.backbone),
                "uncertainty": model.posterior is not None,
            },
            "effort": {name: effort[name] for name in ("rows", "iterations", "seconds")},
            "plan": to_dict(self.plan),
            "warnings": list(self.warnings),
            "remarks": list(self.remarks),
        }

    def headline(self) -> str:
        """What it is, and what to mind."""
        errors = {"energy_mae": self.model.validation.get("energy_mae"), **self.chosen.errors()}
        shown = ", ".join(error_text(name, value) for name, value in errors.items() if isinstance(value, float))
        lines = [f"Fit of {self.model.landmarks.n_sets} landmarks; cross-validated: {shown or 'nothing'}"]
        return "\n".join([*lines, *self.remarks, *(f"warning: {warning}" for warning in self.warnings)])

    def tables(self) -> list[TextTable]:
        """Every candidate with its cross-validated errors: the best by the criterion first, the one saved marked; then
        the numbers of landmarks that were tried for it, where they grew; then errors
        by store and by configuration type, and outliers, where there are any."""
        there = {kind for line in self.tried for kind in line.kinds if KINDS[kind].judged}
        shown = sorted(there | {RowKind.ENERGY})
        weighed = [
            kind for kind in shown if kind is not RowKind.ENERGY or len({t.weights[kind] for t in self.tried}) > 1
        ]
        before = ("saved", "standardize", "baseline", "length scale", "alpha", "ridge")
        weights = [f"{KINDS[kind].name} weight" for kind in weighed]
        names = (*before, *weights, "rank", *(f"{KINDS[kind].name} rmse" for kind in shown))
        criterion = criterion_of(self.plan)
        best_first = sorted(self.tried, key=lambda line: line.score(criterion))
        units = ", ".join(f"{KINDS[kind].name} {KINDS[kind].unit.text}" for kind in shown)
        caption = f"RMSE: {units}, of forces along the stored directions; ordered by {criterion_text(criterion)}"
        saved = [self.chosen, *(step.line for step in self.growth[:1])]
        rows = tuple(_cells(line, any(line is one for one in saved), weighed, shown) for line in best_first)
        found = TextTable("Candidates, cross-validated", names, rows, caption, left=(0, 1, 2))
        grown = [self._growth(weighed, shown)] if self.growth else []
        groups = {"store": self.stores, "configuration type": self.configs}
        grown += [group_table(what, found) for what, found in groups.items() if found]
        return [found, *grown, *([outlier_table(self.outliers)] if self.outliers else [])]

    def _growth(self, weighed: Sequence[RowKind], shown: Sequence[RowKind]) -> TextTable:
        columns = [f"{KINDS[kind].name} weight" for kind in weighed]
        names = ("saved", "landmarks", "ridge", *columns, "rank", *(f"{KINDS[kind].name} rmse" for kind in shown))
        rows = []
        for step in self.growth:
            saved, *cells = _cells(step.line, step.line is self.chosen, weighed, shown)
            rows.append((saved, str(step.landmarks), *cells[4:]))
        return TextTable("Landmarks, grown, cross-validated", names, tuple(rows), left=(0,))

    def plot(self, axes: Axes | None = None) -> Axes:
        """Cross-validated energies beside their labels, per atom and less the elements' references.

        Raises:
            ConfigError: nothing was cross-validated.
        """
        if not len(self.reference):
            raise ConfigError("nothing was cross-validated, so that there is nothing to draw; fit with folds")
        return parity_of_folds((self.reference.numpy(), self.predicted.numpy()), axes)


def _by_group(found: Mapping[str, Mapping[RowKind, Errors]]) -> dict[str, dict[str, float]]:
    """As reports hold them (meV)."""
    return {
        name: {f"{KINDS[kind].name}_rmse": KINDS[kind].unit.factor * each.rmse for kind, each in errors.items()}
        for name, errors in found.items()
    }


def _cells(line: Tried, saved: bool, weighed: Sequence[RowKind], shown_kinds: Sequence[RowKind]) -> tuple[str, ...]:
    length = line.length_scale
    if isinstance(length, tuple):
        shown = ", ".join(f"{value:.3g}" for value in length)
    else:
        shown = "-" if length is None else f"{length:.3g}"
    alpha = "-" if line.alpha is None else f"{line.alpha:.3g}"
    errors = [KINDS[kind].unit.factor * line.rmse[kind] for kind in shown_kinds]
    errors_shown = ("-" if math.isnan(value) else f"{value:.3f}" for value in errors)
    weights = (f"{line.weights[kind]:g}" for kind in weighed)
    return (
        "*" if saved else "", line.standardize, line.baseline, shown, alpha, f"{line.ridge:.1e}", *weights,
        str(line.rank), *errors_shown,
    )  # fmt: skip

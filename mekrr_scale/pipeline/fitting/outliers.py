"""Held-out errors structure by structure: by store, by configuration type, and those that are far off.

Wrong labels are far from what the models of the other folds give. An error counts by the interval that the posterior
gives it, so that what is merely unlike the others is not listed before what cannot be right. Intervals are scaled to
hold 95 % of all structures, which a few wrong labels hardly move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import DERIVATIVES, KINDS, FeatureBatch, RowKind, config_hash
from mekrr_scale.figures import TextTable
from mekrr_scale.files import told_apart
from mekrr_scale.models import JSON, Posterior, Variances, raw_variance
from mekrr_scale.pipeline.fitting.data import FitData
from mekrr_scale.pipeline.fitting.heldout import by_others
from mekrr_scale.pipeline.fitting.single import HeldRows, Singles, joined
from mekrr_scale.regression import Errors, Precision, Problem, RowBlock, Run, Source
from mekrr_scale.solvers import Solution
from mekrr_scale.store import configs_of, names_of

FAR = 3.0  # times its interval: of Gaussian errors one in 10^8 is
_KEPT = 100  # that a report lists
_FEWEST = 20  # structures that tell what is usual

_ByKind = Mapping[RowKind, Singles]


@dataclass(frozen=True)
class Outlier:
    """A structure, and what about it is far off."""

    id: int
    name: str
    kind: RowKind
    error: float  # root mean square over its rows: eV/atom, eV/angstrom, virial in eV/atom
    interval: float  # that 95 % of such errors lie in

    @property
    def ratio(self) -> float:
        """How many intervals the error is."""
        return self.error / self.interval

    def to_dict(self) -> dict[str, JSON]:
        """As reports hold it (meV)."""
        unit = KINDS[self.kind].unit
        return {
            "structure": self.name,
            "label": KINDS[self.kind].name,
            "error": unit.factor * self.error,
            "interval": unit.factor * self.interval,
            "unit": unit.text,
            "ratio": self.ratio,
        }

    def __str__(self) -> str:
        unit = KINDS[self.kind].unit
        return (
            f"{self.name}: {KINDS[self.kind].name} off by {unit.factor * self.error:.3g} {unit.text}, "
            f"{self.ratio:.1f} times its 95 % interval"
        )


def group_table(what: str, found: Mapping[str, Mapping[RowKind, Errors]]) -> TextTable:
    """Errors by ``what``: store or configuration type."""
    kinds = [kind for kind in RowKind if any(kind in errors for errors in found.values())]
    rows = []
    for name, errors in found.items():
        scaled = [errors[kind].scaled(KINDS[kind].unit.factor) if kind in errors else None for kind in kinds]
        count = max((each.count for each in errors.values()), default=0)
        rows.append((name, str(count), *("-" if each is None else f"{each.rmse:.3g}" for each in scaled)))
    units = ", ".join(f"{KINDS[kind].name} {KINDS[kind].unit.text}" for kind in kinds)
    names = (what, "structures", *(f"{KINDS[kind].name} RMSE" for kind in kinds))
    return TextTable(f"Cross-validated errors by {what}", names, tuple(rows), units)


def outlier_table(found: Sequence[Outlier], shown: int = 10) -> TextTable:
    """The farthest first."""
    rows = []
    for item in found[:shown]:
        unit = KINDS[item.kind].unit
        numbers = (f"{unit.factor * value:.3g}" for value in (item.error, item.interval))
        rows.append((item.name, KINDS[item.kind].name, *numbers, unit.text, f"{item.ratio:.1f}"))
    names = ("structure", "label", "error", "95 % interval", "unit", "ratio")
    more = f"; {len(found) - shown} more" if len(found) > shown else ""
    caption = f"held-out errors beyond {FAR:g} times their interval: are these labels right?{more}"
    return TextTable("Outliers", names, tuple(rows), caption, left=(0, 1, 4))


@dataclass(frozen=True)
class ByStructure:
    """What the errors of single structures tell."""

    outliers: Sequence[Outlier] = ()  # the farthest first
    configs: Mapping[str, Mapping[RowKind, Errors]] = field(default_factory=dict)  # by configuration type
    stores: Mapping[str, Mapping[RowKind, Errors]] = field(default_factory=dict)  # by store, where there are several
    rows: Mapping[RowKind, HeldRows] = field(default_factory=dict)  # of some thousand structures, each row


def by_structure(
    problem: Problem, solution: Solution, posterior: Posterior | None, data: FitData, run: Run
) -> ByStructure:
    """One pass over the rows of the chosen candidate, each structure under the model that misses it.

    Args:
        posterior: whose deviations errors are held against; without one, errors against those of all structures.
    """
    if problem.folds is None or not solution.fold_values or data.structures is not None:
        return ByStructure()
    sums = _Sums.of(problem, solution, posterior, data, run)
    found = sums.everyones()
    rows = {kind: joined(HeldRows, parts, data.group) for kind, parts in sums.rows.items()}
    return ByStructure(
        _outliers(found, data), _by_config(found, data), _by_store(found, data),
        {kind: part for kind, part in rows.items() if len(part.ids)},
    )  # fmt: skip


def _by_config(singles: _ByKind, data: FitData) -> dict[str, dict[RowKind, Errors]]:
    if not any(bool(each.configs.any()) for each in singles.values()):
        return {}
    names = sorted({name for store in data.stores for name in configs_of(store)})
    found = _grouped(singles, "configs", {name: config_hash(name) for name in names})
    return {name: errors for name, errors in found.items() if errors}


def _by_store(singles: _ByKind, data: FitData) -> dict[str, dict[RowKind, Errors]]:
    """How well each store is learned beside the others: by its folder's name, or its path where names are the same."""
    if len(data.stores) == 1:
        return {}
    names = told_apart([store.path for store in data.stores])
    return _grouped(singles, "stores", {name: place for place, name in enumerate(names)})


def _grouped(singles: _ByKind, column: str, groups: Mapping[str, int]) -> dict[str, dict[RowKind, Errors]]:
    """Errors of the structures that have each group's number in a column, of the kinds that there are rows of."""
    found: dict[str, dict[RowKind, Errors]] = {}
    for name, number in groups.items():
        own = {kind: each.errors[getattr(each, column) == number].numpy() for kind, each in singles.items()}
        found[name] = {kind: Errors.of(errors) for kind, errors in own.items() if len(errors)}
    return found


def _outliers(singles: _ByKind, data: FitData) -> list[Outlier]:
    found: dict[int, Outlier] = {}
    for kind, each in singles.items():
        ids, errors, scales = each.ids, each.errors, each.scales
        if len(ids) < _FEWEST:
            continue
        usual = float(np.quantile((errors / scales).numpy(), 0.95))  # torch's takes no more than 2^24 values
        for place in ((errors > FAR * usual * scales) & (scales > 0)).nonzero()[:, 0].tolist():
            item = Outlier(int(ids[place]), "", kind, float(errors[place]), usual * float(scales[place]))
            before = found.get(item.id)
            if before is None or item.ratio > before.ratio:
                found[item.id] = item
    farthest = sorted(found.values(), key=lambda item: (-item.ratio, item.id))[:_KEPT]
    names = names_of(data.stores, [item.id for item in farthest])
    return [Outlier(i.id, names.get(i.id, f"structure {i.id:x}"), i.kind, i.error, i.interval) for i in farthest]


@dataclass(frozen=True)
class _Sums:
    """Of every structure of this rank: held-out errors and deviations, by kind."""

    problem: Problem
    solution: Solution
    variances: Variances | None
    data: FitData
    found: dict[RowKind, list[Singles]]
    rows: dict[RowKind, list[HeldRows]]

    @classmethod
    def of(cls, problem: Problem, solution: Solution, posterior: Posterior | None, data: FitData, run: Run) -> _Sums:
        device, variances = run.execution.device, None
        if posterior is not None:  # whose differences want double precision
            variances = Variances.on(problem.kernel, problem.landmarks, posterior, device)
            problem = replace(problem, precision=Precision(torch.float64, torch.float64))
        sums = cls(
            problem.on(device),
            solution,
            variances,
            data,
            {kind: [] for kind in RowKind},
            {kind: [] for kind in RowKind},
        )
        for place in range(len(data.stores)):
            for batch in data.of_store(place):
                run.progress.advance(batch.n_structures)
                sums._add(batch, place)
        return sums

    def everyones(self) -> _ByKind:
        """Of all ranks."""
        return {kind: joined(Singles, parts, self.data.group) for kind, parts in self.found.items()}

    def _add(self, batch: FeatureBatch, store: int) -> None:
        source = Source((batch,), (batch,) if self.data.derivatives else None)
        for block in self.problem.rows(source, {kind for kind in (RowKind.ENERGY, *DERIVATIVES) if KINDS[kind].judged}):
            energies = block.kind is RowKind.ENERGY
            places = batch.with_energy.nonzero()[:, 0] if energies else batch.owner[batch.along(block.kind)]
            size = batch.n_atoms.double()[places]
            unit = block.scale * (torch.ones_like(size) if block.kind is RowKind.FORCE else size)
            errors = by_others(block, self.solution) - block.target
            deviations = self._deviations(batch, block, unit)
            squares = (torch.stack([errors, deviations]) / unit).square()
            structures, inverse = places.unique(return_inverse=True)
            totals = torch.zeros(2, len(structures), dtype=torch.float64).index_add_(1, inverse, squares)
            means = (totals / torch.bincount(inverse)).sqrt()
            configs = torch.zeros_like(batch.ids) if batch.configs is None else batch.configs
            stores = torch.full_like(batch.ids, store)
            columns = (column[structures] for column in (batch.ids, configs, stores))
            self.found[block.kind].append(Singles(*columns, *means))
            prior = self._prior(batch, block)
            interval = self._within(block.kind) * deviations
            values = torch.stack([block.target + prior, block.target + prior + errors, interval]) / unit
            listed = HeldRows(
                batch.ids[places], block.fold, configs[places], stores[places], batch.n_atoms[places], *values
            )
            self.rows[block.kind].append(listed.some(self.data.n_structures))

    def _prior(self, batch: FeatureBatch, block: RowBlock) -> Float64[Tensor, " rows"]:
        """What the backbone's own potential gives, in the unit of the targets; zero where it is no baseline."""
        if not self.problem.baseline.prior:
            return torch.zeros_like(block.target)
        if block.kind is RowKind.ENERGY:
            return batch.prior[batch.with_energy] * block.scale
        assert batch.directions is not None
        return batch.directions.prior[batch.along(block.kind)] * block.scale

    def _within(self, kind: RowKind) -> float:
        """What to multiply deviations with for intervals of 68 %; NaN where the posterior says nothing of a kind."""
        given = None if self.variances is None else self.variances.posterior
        known = {} if given is None else {RowKind.ENERGY: given.energy, RowKind.FORCE: given.force}
        calibration = known.get(kind)
        return math.nan if calibration is None else calibration.within_68

    def _deviations(
        self, batch: FeatureBatch, block: RowBlock, unit: Float64[Tensor, " rows"]
    ) -> Float64[Tensor, " rows"]:
        """By the posterior, in its own unit; that of an error like all others where it says nothing of a kind.

        Args:
            unit: what errors are divided by to be compared.
        """
        energies = block.kind is RowKind.ENERGY
        given = None if self.variances is None else self.variances.posterior
        calibration = None if given is None else given.energy if energies else given.force
        if self.variances is None or given is None or calibration is None or block.kind is RowKind.STRESS:
            return unit
        kernel = self.problem.kernel
        if energies:
            prior = kernel.diagonal(batch)[batch.with_energy]
        else:
            prior = kernel.derivative_diagonal(batch, torch.ones_like(batch.ids, dtype=torch.bool))
            prior = prior[batch.along(block.kind)]
        raw = raw_variance(block.rows, prior, self.variances.whitening, given.factor)
        return raw.total(calibration.outside_weight).sqrt()

"""The candidates of a fit, cross-validated one family after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import torch
from ase.data import chemical_symbols

from mekrr_scale.arrays import content_hash, fingerprint
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.kernels import SpeciesMixing
from mekrr_scale.models import BaselineKind
from mekrr_scale.pipeline.fitting.data import Choice, FitData
from mekrr_scale.pipeline.fitting.mixing import UNIFORM_ALPHAS, learn_mixing
from mekrr_scale.pipeline.fitting.plan import FitPlan
from mekrr_scale.pipeline.fitting.report import Tried
from mekrr_scale.pipeline.fitting.values import LengthScale
from mekrr_scale.regression import Folds, KeptRows, Problem, Rows, Run
from mekrr_scale.solvers import Solution

# A prior's energies hold far outside the data, where a composition's are off by whole reaction energies, and where
# cross-validation does not go: a prior stays unless another error is lower by this factor (docs/benchmarks.md, Study).
_TRUSTED = 1.02


@dataclass(frozen=True)
class Candidate:
    """A problem with its solution, and the line about it."""

    problem: Problem
    solution: Solution
    tried: Tried

    @property
    def score(self) -> float:
        return self.solution.score(self.problem.criterion)

    def again(self, problem: Problem, solution: Solution) -> Candidate:
        """The same choice of kernel and baseline, in another problem."""
        return Candidate(problem, solution, Tried.of(self.tried.standardize, self.tried.baseline, problem, solution))


def choices(plan: FitPlan, data: FitData) -> Iterator[Choice]:
    """What is to be tried, but for the mixings of species.

    Raises:
        ConfigError: a baseline that the stores do not allow.
    """
    named: BaselineKind = "prior" if data.stores[0].header.prior else "backbone"
    with_prior = data.has_prior and plan.validation.folds and data.structures is None
    kinds: tuple[BaselineKind, ...] = plan.baseline.kinds or (
        (named, "composition") if with_prior else ("composition",)
    )
    wrong = {"backbone", "prior"} & set(kinds) - {named}
    if wrong:
        raise ConfigError(
            "baseline 'prior' needs a store that was extracted with --prior"
            if named == "backbone"
            else "the store holds the energies of a prior, not the backbone's own; use baseline 'prior'"
        )
    at = plan.kernel
    lengths = at.length_scales if at.name != "gaussian-sum" else at.length_scales[:1]
    yield from (Choice(*one) for one in product(at.standardize, kinds, lengths))


def search(data: FitData, folds: Folds | None, run: Run) -> tuple[Candidate, list[Tried]]:
    """All candidates; the best one (see `preferred`), and a line about each."""
    plan = data.plan
    listed = list(choices(plan, data))
    run.progress.stage("fit", len(listed) * len(data.alphas) * data.n_rows)
    best: dict[BaselineKind, Candidate] = {}
    lines: list[Tried] = []
    for place, choice in enumerate(listed):
        family = data.family(choice, folds)
        common = family[0]
        identity = {
            "landmarks": fingerprint(common.landmarks),
            "baseline": content_hash(common.baseline.energies),
            **({} if folds is None else folds.identity),
        }
        part = run.part(f"trial{place}", identity)
        solutions = iter(plan.solver.solve_all(family, data.source, part))
        for problem in family:  # a zip would hold a solution, and its rows, until the next one is there
            solution = next(solutions)
            line = Tried.of(choice.standardize, choice.baseline, problem, solution)
            lines.append(line)
            if folds is not None:
                run.progress.note(str(line))
            found, before = Candidate(problem, solution, line), best.get(choice.baseline)
            if before is None or found.score < before.score:
                best[choice.baseline] = found
            del solution, found, before
            _let_go(best, len(lines) == len(listed) * len(family), run)
    taken = preferred(best)
    if folds is not None and not math.isfinite(taken.score):
        raise SolverError(
            "no candidate has a finite cross-validated error; check labels and features (`mekrr-scale store verify`), "
            "or try larger ridges (--ridge 1e-6,1e-4,1e-2)"
        )
    return taken, lines


def _let_go(best: dict[BaselineKind, Candidate], last: bool, run: Run) -> None:
    """Give kept rows back, but those of the candidate that leads; these too where those of the next one, which are as
    many, have no room beside them."""
    leader = preferred(best)
    for kind, one in best.items():
        rows = one.solution.rows
        if rows is not None and (one is not leader or not (last or _two_fit(rows, run))):
            best[kind] = replace(one, solution=replace(one.solution, rows=None))


def _two_fit(rows: Rows, run: Run) -> bool:
    """Whether as many rows again can be kept, on every rank."""
    size = sum(rows.stored_bytes.values()) if isinstance(rows, KeptRows) else 0
    return 2 * int(run.group.maximum(torch.tensor(size))) <= run.execution.memory


def preferred(of_each: Mapping[BaselineKind, Candidate]) -> Candidate:
    """The best candidate of all; one that corrects a prior where its error is as low within 2 %."""
    first = min(of_each.values(), key=lambda one: one.score)
    prior = [one for kind, one in of_each.items() if kind in ("backbone", "prior")]
    near = [one for one in prior if one.score <= _TRUSTED**2 * first.score]  # scores are squares
    return min(near or [first], key=lambda one: one.score)


def with_learned_mixing(data: FitData, folds: Folds | None, run: Run) -> FitData:
    """The data under a plan of one kernel, with the matrix that cross-validation finds for it.

    All other choices are those of the best uniform mixing. Nothing of it is resumed.
    """
    plan, run = data.plan, replace(run, checkpoint=None)
    uniform = replace(plan, kernel=replace(plan.kernel, mixing=None, alphas=UNIFORM_ALPHAS))
    best, _ = search(replace(data, plan=uniform), folds, run)
    line, first = best.tried, best.score
    del best  # and the rows that it keeps
    assert line.alpha is not None
    length = line.length_scale
    single = replace(
        uniform,
        kernel=replace(
            uniform.kernel,
            standardize=(line.standardize,),
            length_scales=(LengthScale(length, False),) if isinstance(length, float) else plan.kernel.length_scales,
            alphas=(line.alpha,),
        ),
        baseline=replace(plan.baseline, kinds=(line.baseline,)),
    )

    def mixed(mixing: SpeciesMixing) -> FitData:
        rows = {chemical_symbols[z]: row for z, row in zip(mixing.species, mixing.matrix, strict=True)}
        return replace(data, plan=replace(single, kernel=replace(single.kernel, mixing=rows)))

    def score(mixing: SpeciesMixing) -> float:
        return search(mixed(mixing), folds, run.silent)[0].score

    found, reached = learn_mixing(data.species, line.alpha, first, score, run.progress)
    shown = "; ".join(" ".join(f"{value:.2f}" for value in row) for row in found.matrix)
    run.progress.note(f"species mixing learned: {shown} (score {first:.4g} -> {reached:.4g})")
    return mixed(found)

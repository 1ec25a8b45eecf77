"""What iterative solvers have in common: a Krylov method, preconditioned, on many systems that share each product."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal, final

from pydantic import Field

from mekrr_scale import regression, solvers
from mekrr_scale.plans import flag, plan, preset
from mekrr_scale.solvers.base import DEFAULT_RIDGES, Ridges, Takes, one_by_one
from mekrr_scale.solvers.job import Estimate, Job

PreconditionerName = Literal["subset", "falkon"]


@plan
class Krylov(ABC):
    """Solve for every ridge (and every fold) at once; all share each pass over the rows.

    A solver is its name and its ``method``.
    """

    ridges: Ridges = preset(default=DEFAULT_RIDGES)
    """Total ridges lambda to try, e.g. 1e-8,1e-6; cross-validation chooses. Each is a column of every product."""

    rtol: Annotated[float, flag("--rtol")] = Field(default=1e-9, gt=0)
    """Tolerance of the residual |b - A beta| / |b|."""

    max_steps: Annotated[int, flag("--max-steps")] = Field(default=500, ge=1)
    """Most iterations."""

    preconditioner: Annotated[PreconditionerName, flag("--preconditioner")] = "subset"
    """subset: Phi_s' W Phi_s from a random part of the rows; falkon: K_ZZ^2, the classical one, which took more than
    three times the iterations on real features."""

    subset: Annotated[float, flag("--subset")] = Field(default=0.5, gt=0, le=1)
    """Part of the rows that preconditioner subset takes, above 0 and at most 1."""

    recompute_every: int = Field(default=10, ge=1)
    """Iterations after which the residual is computed from its definition."""

    patience: int = Field(default=40, ge=1)
    """Iterations without a better residual that count as stagnation."""

    name: ClassVar[str]
    takes: ClassVar[Takes] = Takes(maps=True)
    whole_structures: ClassVar[bool] = False

    @abstractmethod
    def method(self) -> solvers.Method:
        """How directions are chosen, and how far to go along each."""

    @final
    def solve(
        self, problem: regression.Problem, source: regression.Source, run: regression.Run | None = None
    ) -> solvers.Solution:
        """See ``Solver``; every ridge's solution is a column, the best one's first."""
        from mekrr_scale.solvers import krylov_work

        return krylov_work.solve(self, problem, source, run or regression.Run())

    @final
    def solve_all(
        self, problems: Sequence[regression.Problem], source: regression.Source, run: regression.Run | None = None
    ) -> Iterator[solvers.Solution]:
        """See ``Solver``."""
        return one_by_one(self, problems, source, run or regression.Run())

    @final
    def iteration(self, run: regression.Run) -> solvers.Iteration:
        """What solves the preconditioned system."""
        from mekrr_scale.solvers.iteration import Iteration

        return Iteration(
            self.method(), self.rtol, self.max_steps, self.recompute_every, self.patience,
            run.group, run.checkpoint, run.progress,
        )  # fmt: skip

    @final
    def estimate(self, *jobs: Job) -> Estimate:
        """See ``Solver``."""
        from mekrr_scale.solvers import krylov_work

        return Estimate.joined([krylov_work.estimate(self, job) for job in jobs])

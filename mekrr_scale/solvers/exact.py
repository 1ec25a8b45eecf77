"""MEKRR as published: all training structures are landmarks, the kernel matrix is dense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, final

from mekrr_scale import regression, solvers
from mekrr_scale.arrays import RowKind
from mekrr_scale.plans import plan, preset
from mekrr_scale.solvers.base import DEFAULT_RIDGES, Ridges, Takes, one_by_one
from mekrr_scale.solvers.job import Estimate, Job


@final
@plan
class Exact:
    """Dense kernel ridge regression: c = (K + lambda W^-1)^-1 y (arXiv 2306.01589).

    It minimises the same objective as the other solvers, energies only, in O(n^2) memory and O(n^3) time: the
    reference that everything else is measured against.
    """

    ridges: Ridges = preset(default=DEFAULT_RIDGES)
    """Total ridges lambda to try, e.g. 1e-8,1e-6; cross-validation chooses."""

    name: ClassVar[str] = "exact"
    takes: ClassVar[Takes] = Takes(kinds=frozenset({RowKind.ENERGY}), ranks=False, posterior=False)
    whole_structures: ClassVar[bool] = True

    def solve(
        self, problem: regression.Problem, source: regression.Source, run: regression.Run | None = None
    ) -> solvers.Solution:
        """See ``Solver``; the landmarks are the training structures, in their order."""
        from mekrr_scale.solvers import exact_work

        return exact_work.solve(self, problem, source, run or regression.Run())

    def solve_all(
        self, problems: Sequence[regression.Problem], source: regression.Source, run: regression.Run | None = None
    ) -> Iterator[solvers.Solution]:
        """See ``Solver``."""
        return one_by_one(self, problems, source, run or regression.Run())

    def estimate(self, *jobs: Job) -> Estimate:
        """See ``Solver``; a few matrices of all structures."""
        from mekrr_scale.solvers import exact_work

        return Estimate.joined([exact_work.estimate(self, job) for job in jobs])

"""The ``falkon`` library as a solver, for comparison: it is optional, and not on PyPI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, final

from pydantic import Field

from mekrr_scale import regression, solvers
from mekrr_scale.arrays import RowKind
from mekrr_scale.plans import flag, plan, preset
from mekrr_scale.solvers.base import Ridges, Takes, one_by_one
from mekrr_scale.solvers.job import Estimate, Job


@final
@plan
class FalkonLibrary:
    """Fit with ``falkon.Falkon`` (version 0.9; Meanti, Carratino, Rosasco, Rudi 2020) through the set kernel.

    Energies only, all features in memory, one ridge, no folds: for anything but a comparison ``Falkon`` is faster and
    more exact (docs/benchmarks.md).
    """

    ridges: Ridges = preset(default=(1e-6,))
    """The total ridge lambda; the library's penalty is this over the sum of the structures' weights."""

    max_steps: Annotated[int, flag("--max-steps")] = Field(default=50, ge=1)
    """Iterations (the library's maxiter)."""

    name: ClassVar[str] = "falkon-library"
    takes: ClassVar[Takes] = Takes(kinds=frozenset({RowKind.ENERGY}), ranks=False, folds=False, posterior=False)
    whole_structures: ClassVar[bool] = False

    def solve(
        self, problem: regression.Problem, source: regression.Source, run: regression.Run | None = None
    ) -> solvers.Solution:
        """See ``Solver``.

        Raises:
            ConfigError: the library is not installed, or the kernel has two columns per landmark.
        """
        from mekrr_scale.solvers import library_kernel

        return library_kernel.solve(self, self.max_steps, problem, source, run or regression.Run())

    def solve_all(
        self, problems: Sequence[regression.Problem], source: regression.Source, run: regression.Run | None = None
    ) -> Iterator[solvers.Solution]:
        """See ``Solver``."""
        return one_by_one(self, problems, source, run or regression.Run())

    def estimate(self, *jobs: Job) -> Estimate:
        """See ``Solver``; not known, since the library manages its own memory."""
        return Estimate([])

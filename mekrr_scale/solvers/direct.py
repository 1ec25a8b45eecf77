"""One pass over the rows, then every ridge, weight and fold from small dense matrices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, final

from mekrr_scale import models, regression, solvers
from mekrr_scale.plans import plan, preset
from mekrr_scale.solvers.base import DEFAULT_RIDGES, Ridges, Takes
from mekrr_scale.solvers.job import Estimate, Job

if TYPE_CHECKING:
    from torch import Tensor


@final
@plan
class Direct:
    """Accumulate Phi' W Phi by kind of row and fold; one eigendecomposition per ridge path.

    Squared errors of every fold follow from the Gram matrices alone:
    |Phi_f b - y_f|^2 = b' G_f b - 2 b' g_f + y_f' y_f.

    For landmarks up to a few thousand: memory and time go with the square and the cube of their number.
    """

    ridges: Ridges = preset(default=DEFAULT_RIDGES)
    """Total ridges lambda to try, e.g. 1e-8,1e-6; cross-validation chooses. By default half decades from 1e-10 to
    1e-2."""

    name: ClassVar[str] = "direct"
    takes: ClassVar[Takes] = Takes(sums=True)
    whole_structures: ClassVar[bool] = False

    def solve(
        self, problem: regression.Problem, source: regression.Source, run: regression.Run | None = None
    ) -> solvers.Solution:
        """See ``Solver``. Above a rank of 4096 one combination of weights is solved by ``falkon`` with all rows in its
        preconditioner, whose factor is dealt to the ranks."""
        from mekrr_scale.solvers import direct_work

        return direct_work.solve(self, problem, source, run or regression.Run())

    def solve_all(
        self, problems: Sequence[regression.Problem], source: regression.Source, run: regression.Run | None = None
    ) -> Iterator[solvers.Solution]:
        """See ``Solver``; several alphas from one pass where their Gram matrices fit in memory."""
        from mekrr_scale.solvers import sweep

        return sweep.solve_all(self, problems, source, run or regression.Run())

    def accumulate(
        self, problem: regression.Problem, rows: regression.Rows, whitening: models.Whitening, run: regression.Run
    ) -> solvers.MomentTable:
        """The sums over rows that solutions follow from; sums over other rows can be added."""
        from mekrr_scale.solvers import direct_work

        return direct_work.sums_of(problem, rows, whitening, run)

    def from_sums(
        self,
        problem: regression.Problem,
        sums: solvers.MomentTable,
        whitening: models.Whitening,
        run: regression.Run | None = None,
        shift: Tensor | None = None,
    ) -> solvers.Solution:
        """Solve from sums, the same on all ranks.

        Args:
            shift: what the baseline's energies are to be moved by (``regression.refit_shift``).
        """
        from mekrr_scale.solvers import direct_work

        return direct_work.from_sums(self, problem, sums, whitening, run or regression.Run(), shift)

    def estimate(self, *jobs: Job) -> Estimate:
        """See ``Solver``."""
        from mekrr_scale.solvers import sweep

        return sweep.estimate(self, jobs)

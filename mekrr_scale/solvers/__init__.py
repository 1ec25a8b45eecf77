"""Solvers of the whitened ridge problem. A solver is its own configuration; solving returns a solution."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

from mekrr_scale.deprecated import with_old_names

SOLVERS: dict[str, str] = {
    "direct": "Direct",
    "falkon": "Falkon",
    "exact": "Exact",
    "falkon-library": "FalkonLibrary",
}  # what plans call a solver: its class

if TYPE_CHECKING:
    from mekrr_scale.solvers.base import DEFAULT_RIDGES as DEFAULT_RIDGES
    from mekrr_scale.solvers.base import Accumulating as Accumulating
    from mekrr_scale.solvers.base import Solver as Solver
    from mekrr_scale.solvers.base import Takes as Takes
    from mekrr_scale.solvers.base import from_rows as from_rows
    from mekrr_scale.solvers.base import resumed as resumed
    from mekrr_scale.solvers.conjugate_gradients import ConjugateGradients as ConjugateGradients
    from mekrr_scale.solvers.direct import Direct as Direct
    from mekrr_scale.solvers.exact import Exact as Exact
    from mekrr_scale.solvers.falkon import Falkon as Falkon
    from mekrr_scale.solvers.falkon_library import FalkonLibrary as FalkonLibrary
    from mekrr_scale.solvers.iteration import Iteration as Iteration
    from mekrr_scale.solvers.iteration import Method as Method
    from mekrr_scale.solvers.iteration import Product as Product
    from mekrr_scale.solvers.iteration import System as System
    from mekrr_scale.solvers.job import Estimate as Estimate
    from mekrr_scale.solvers.job import Job as Job
    from mekrr_scale.solvers.job import Rates as Rates
    from mekrr_scale.solvers.job import Stage as Stage
    from mekrr_scale.solvers.krylov import Krylov as Krylov
    from mekrr_scale.solvers.library_kernel import IndexedKernel as IndexedKernel
    from mekrr_scale.solvers.moments import Moments as Moments
    from mekrr_scale.solvers.moments import MomentTable as MomentTable
    from mekrr_scale.solvers.moments import joined_moments as joined_moments
    from mekrr_scale.solvers.moments import restored_table as restored_table
    from mekrr_scale.solvers.moments import table_tensors as table_tensors
    from mekrr_scale.solvers.operators import NormalOperator as NormalOperator
    from mekrr_scale.solvers.path import Normal as Normal
    from mekrr_scale.solvers.path import weight_paths as weight_paths
    from mekrr_scale.solvers.preconditioners import LARGEST_EIGEN as LARGEST_EIGEN
    from mekrr_scale.solvers.preconditioners import PanelPreconditioner as PanelPreconditioner
    from mekrr_scale.solvers.preconditioners import Preconditioner as Preconditioner
    from mekrr_scale.solvers.preconditioners import SpectralPreconditioner as SpectralPreconditioner
    from mekrr_scale.solvers.preconditioners import classical_gram as classical_gram
    from mekrr_scale.solvers.solution import Effort as Effort
    from mekrr_scale.solvers.solution import Path as Path
    from mekrr_scale.solvers.solution import PathPoint as PathPoint
    from mekrr_scale.solvers.solution import Result as Result
    from mekrr_scale.solvers.solution import Solution as Solution
    from mekrr_scale.solvers.sweep import SMALLEST_ALPHA as SMALLEST_ALPHA
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "base": ["Accumulating", "DEFAULT_RIDGES", "Solver", "Takes", "from_rows", "resumed"],
            "conjugate_gradients": ["ConjugateGradients"],
            "direct": ["Direct"],
            "exact": ["Exact"],
            "falkon": ["Falkon"],
            "falkon_library": ["FalkonLibrary"],
            "iteration": ["Iteration", "Method", "Product", "System"],
            "job": ["Estimate", "Job", "Rates", "Stage"],
            "krylov": ["Krylov"],
            "library_kernel": ["IndexedKernel"],
            "moments": ["MomentTable", "Moments", "joined_moments", "restored_table", "table_tensors"],
            "operators": ["NormalOperator"],
            "path": ["Normal", "weight_paths"],
            "preconditioners": [
                "LARGEST_EIGEN",
                "PanelPreconditioner",
                "Preconditioner",
                "SpectralPreconditioner",
                "classical_gram",
            ],
            "solution": ["Effort", "Path", "PathPoint", "Result", "Solution"],
            "sweep": ["SMALLEST_ALPHA"],
        },
    )
    __all__ += ["SOLVERS"]
    __getattr__ = with_old_names(__name__, __getattr__)

"""Solvers of the whitened ridge problem. A solver is its own configuration; solving returns a report."""

from mekrr_scale.solvers.alpha import SMALLEST_ALPHA, AlphaSweep, MixedRows
from mekrr_scale.solvers.direct import Direct
from mekrr_scale.solvers.exact import Exact
from mekrr_scale.solvers.falkon import LARGEST_EIGEN, Falkon
from mekrr_scale.solvers.solution import Path, PathPoint, Result, Solution

__all__ = [
    "LARGEST_EIGEN",
    "SMALLEST_ALPHA",
    "AlphaSweep",
    "Direct",
    "Exact",
    "Falkon",
    "MixedRows",
    "Path",
    "PathPoint",
    "Result",
    "Solution",
]

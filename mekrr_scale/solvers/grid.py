"""Beyond the ends of a grid of ridges, where that costs little: no pass over the rows, or few iterations."""

from __future__ import annotations

import math

from mekrr_scale.regression import Criterion
from mekrr_scale.solvers.base import DEFAULT_RIDGES, Solver
from mekrr_scale.solvers.solution import Path

_LOWEST, _HIGHEST = -32, 8  # half decades that the default grid may be extended to: 1e-16 and 1e4
_STEPS = 4  # half decades at a time


def further(solver: Solver, path: Path, criterion: Criterion) -> tuple[float, ...]:
    """Ridges beyond the end of the grid that errors fall towards: of the default grid, which nobody chose."""
    if solver.ridges != DEFAULT_RIDGES or not path.points or not (end := path.end(criterion)):
        return ()
    ridges = [point.ridge for point in path.points]
    last = round(2 * math.log10(max(ridges) if end > 0 else min(ridges)))
    return tuple(10.0 ** (k / 2) for k in (last + end * i for i in range(1, _STEPS + 1)) if _LOWEST <= k <= _HIGHEST)

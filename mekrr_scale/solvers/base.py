"""What every solver is: its own configuration, with ``solve`` and an estimate of what that takes. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, runtime_checkable

from pydantic import AfterValidator

from mekrr_scale import models, regression, solvers
from mekrr_scale.arrays import KINDS, RowKind
from mekrr_scale.errors import ConfigError
from mekrr_scale.files import free_bytes
from mekrr_scale.plans import Given, Numbers, flag, listed
from mekrr_scale.solvers.job import Estimate, Job

if TYPE_CHECKING:
    from torch import Tensor


def check_ridges(ridges: Sequence[float]) -> tuple[float, ...]:
    """Refuse ridges that are not positive numbers.

    Raises:
        ConfigError: names the ridge.
    """
    if not ridges:
        raise ConfigError("ridges is empty; give at least one, e.g. ridges = [1e-6, 1e-4]")
    for ridge in ridges:
        if not (ridge > 0 and math.isfinite(ridge)):
            raise ConfigError(f"ridge {ridge} must be a positive number; typical values are 1e-9 to 1e-2")
    return tuple(ridges)


Ridges = Annotated[Given[tuple[float, ...], Numbers], listed(float), AfterValidator(check_ridges), flag("--ridge")]
DEFAULT_RIDGES = tuple(10.0 ** (k / 2) for k in range(-20, -3))


@dataclass(frozen=True)
class Takes:
    """What a solver can take, and give."""

    kinds: frozenset[RowKind] = frozenset(RowKind)
    maps: bool = False  # rows that are products alone
    ranks: bool = True  # several processes
    folds: bool = True  # cross-validation
    posterior: bool = True  # its solutions' uncertainties can be calibrated
    sums: bool = False  # it works from sums over rows, to which rows can be added


@runtime_checkable
class Solver(Protocol):
    """A way to solve a problem for every ridge; a plan that is its own configuration."""

    name: ClassVar[str]
    takes: ClassVar[Takes]

    @property
    def ridges(self) -> Any:
        """Total ridges to try: a tuple of numbers, of a type that not all type checkers compare with a plan's field."""

    whole_structures: ClassVar[bool]
    """Whether the landmarks are all training structures, whatever a plan says."""

    def solve(
        self, problem: regression.Problem, source: regression.Source, run: regression.Run | None = None
    ) -> solvers.Solution:
        """Solve; with folds, choose ridge and weights by the cross-validated error.

        Raises:
            ConfigError: a kind of rows, folds or ranks that it cannot take.
            SolverError: no row with a weight above zero, or a system that breaks down.
            StoppedError: asked to stop by a signal.
        """

    def solve_all(
        self, problems: Sequence[regression.Problem], source: regression.Source, run: regression.Run | None = None
    ) -> Iterator[solvers.Solution]:
        """The same for problems that differ in the mixing of species alone; what is finished already is not
        solved again."""

    def estimate(self, *jobs: Job) -> Estimate:
        """What ``solve_all`` will take: a job for each of the problems that differ in their mixing."""


@runtime_checkable
class Accumulating(Solver, Protocol):
    """A solver that works from sums over rows, to which the sums of other rows can be added (``takes.sums``)."""

    def accumulate(
        self, problem: regression.Problem, rows: regression.Rows, whitening: models.Whitening, run: regression.Run
    ) -> solvers.MomentTable:
        """The sums over rows, of all ranks."""

    def from_sums(
        self,
        problem: regression.Problem,
        sums: solvers.MomentTable,
        whitening: models.Whitening,
        run: regression.Run | None = None,
        shift: Tensor | None = None,
    ) -> solvers.Solution:
        """Solve from them; ``shift`` is what the baseline's energies are to be moved by."""


def from_rows(
    solver: Accumulating,
    problem: regression.Problem,
    rows: regression.Rows,
    kinds: frozenset[RowKind],
    run: regression.Run,
) -> solvers.Solution:
    """``solve`` from rows that are there already, which the solution keeps.

    Args:
        rows: on the run's device.
        kinds: of rows that the source can hold.
    """
    placed = problem.of_kinds(kinds).on(run.execution.device)
    whitening = placed.whitening(run.group)
    sums = solver.accumulate(placed, rows, whitening, run)
    return replace(solver.from_sums(placed, sums, whitening, run), rows=rows)


def one_by_one(
    solver: Solver, problems: Sequence[regression.Problem], source: regression.Source, run: regression.Run
) -> Iterator[solvers.Solution]:
    """``solve_all`` of a solver for which problems have nothing in common."""
    for problem in problems:
        yield resumed(lambda part, given=problem: solver.solve(given, source, part), problem, source, run)  # type: ignore[misc]


def resumed(
    solve: Callable[[regression.Run], solvers.Solution],
    problem: regression.Problem,
    source: regression.Source,
    run: regression.Run,
) -> solvers.Solution:
    """One candidate's solution, or what is left of it to do."""
    from mekrr_scale.solvers.solution import Solution

    part = run.part(f"alpha{problem.mixing_name}", problem.identity)
    checkpoint = part.checkpoint
    finished = None if checkpoint is None else checkpoint.load("solution")
    if finished is not None:
        run.progress.advance(source.n_rows)
        return Solution.restored(finished, problem.criterion)
    with part.deferred():
        solution = solve(part)
        if checkpoint is not None and checkpoint.began():
            if run.group.rank == 0:
                checkpoint.save("solution", solution.state())
            checkpoint.end_if_stopped()
    return solution


def check(solver: Solver, problem: regression.Problem, source: regression.Source, run: regression.Run) -> None:
    """Refuse what a solver cannot take, by name.

    Raises:
        ConfigError: says which solver takes it.
    """
    takes = solver.takes
    asked = {kind for weights in problem.weights for kind, weight in weights.items() if weight > 0}
    wrong = sorted((asked & source.kinds) - takes.kinds)
    if wrong:
        named = " and ".join(KINDS[kind].name for kind in wrong)
        raise ConfigError(f"solver {solver.name!r} takes no {named} rows; use 'direct' or 'falkon', or weigh them zero")
    if source.structures is not None and not takes.maps:
        raise ConfigError(
            f"solver {solver.name!r} needs the rows themselves, these are products alone (matrix-free); solve with "
            "'falkon', or extract tangents"
        )
    if run.group.size > 1 and not takes.ranks:
        raise ConfigError(
            f"solver {solver.name!r} runs in one process, not in {run.group.size}; take 'direct' or 'falkon'"
        )
    if problem.folds is not None and not takes.folds:
        raise ConfigError(f"solver {solver.name!r} does not cross-validate; give one ridge and no folds (--validate 0)")


def tier(execution: regression.Execution, size: float) -> str:
    """Where kept rows of so many bytes go."""
    if size <= execution.memory:
        return "memory"
    if execution.scratch is None:
        return "nothing"
    room = free_bytes(execution.scratch)
    short = "" if room > size - execution.memory else f"; only {room / 1e9:.0f} GB are free there"
    return f"memory and scratch file in {execution.scratch}{short}"

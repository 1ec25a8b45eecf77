"""The run that candidates are solved in: given or not, with states that are taken up again."""

from dataclasses import replace

import pytest
import torch

from mekrr_scale import solvers
from mekrr_scale.distributed import Checkpoint
from mekrr_scale.kernels import SpeciesMixing
from mekrr_scale.pipeline import RowPlan, Validation, fit, resources
from mekrr_scale.progress import Silent
from mekrr_scale.regression import Basis, Run, Source
from mekrr_scale.solvers import SOLVERS, Direct, Exact, Falkon
from mekrr_scale.solvers.sweep import solve_mixings
from tests.solvers import test_solver_conformance as dense
from tests.solvers.problems import made as random_problem

MATRIX = SpeciesMixing(0.0, (1, 6, 8), ((1.0, 0.2, 0.0), (0.2, 0.9, 0.1), (0.0, 0.1, 1.1)))


class Counted:
    """Batches, and how often they were passed over."""

    def __init__(self, batches):
        self.batches, self.passes = batches, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.batches)


class Heard(Silent):
    def __init__(self):
        self.steps, self.notes = [], []

    def advance(self, steps=1):
        self.steps.append(steps)

    def note(self, text):
        self.notes.append(text)


@pytest.mark.parametrize("name", dense.DENSE_TOO)
def test_candidates_are_solved_in_the_run_that_is_given(name):
    """It hears of the rows; where none is given all goes on in silence."""
    problem, source, _ = dense.made(name, "gaussian", "sum", 0.5)
    solver = getattr(solvers, SOLVERS[name])((1e-2,))
    heard, listening = Heard(), Heard()
    alone = solver.solve(problem, source, Run(progress=heard))
    assert sum(heard.steps) > 0
    for run in (None, Run(progress=listening)):
        (found,) = solver.solve_all([problem], source, run)
        assert torch.equal(found.value, alone.value)
    assert listening.steps == heard.steps


def test_rows_are_made_once():
    """And kept for who passes over them after the solver."""
    problem, source, _ = dense.made("direct", "gaussian", "sum", 0.5)
    energies, moved = Counted(source.energies), Counted(source.moved)
    solution = Direct((1e-2,)).solve(problem, Source(energies, moved))
    assert (energies.passes, moved.passes) == (1, 1)
    kinds = [block.kind for block in solution.rows]
    assert kinds == [block.kind for block in problem.rows(source)]
    assert (energies.passes, moved.passes) == (1, 1)


def test_finished_candidates_are_not_solved_again(tmp_path):
    """Their states are called after the mixing of species; of a source of unknown length no rows are counted."""
    problem, source, _ = dense.made("falkon", "gaussian", "sum", 0.5)
    problems = [
        problem.with_alpha(0.25), problem, replace(problem, kernel=replace(problem.kernel, mixing=MATRIX))
    ]  # fmt: skip
    solver, first = Falkon((1e-2,)), Heard()
    checkpoint = Checkpoint(tmp_path / "kept", {"fit": 1}, interval=0.0)
    solved = list(solver.solve_all(problems, source, Run(checkpoint=checkpoint, progress=first)))
    assert sum(first.steps) > 0
    names = [f"alpha{name}-solution.safetensors" for name in ("0.25", "0.5", "matrix")]
    assert sorted(path.name for path in (tmp_path / "kept").glob("*-solution.*")) == names
    energies, moved, second = Counted(source.energies), Counted(source.moved), Heard()
    again = list(solver.solve_all(problems, Source(energies, moved), Run(checkpoint=checkpoint, progress=second)))
    assert [energies.passes, moved.passes] == [0, 0]
    assert sum(second.steps) == 0
    for one, other in zip(again, solved, strict=True):
        assert torch.equal(one.value, other.value)
        assert one.ridges == other.ridges
        assert one.weights == other.weights
    known, third = Source(energies, moved, n_rows=77), Heard()
    assert len(list(solver.solve_all(problems, known, Run(checkpoint=checkpoint, progress=third)))) == 3
    assert third.steps == [77, 77, 77]


def test_uncertainties_are_planned_for_those_that_have_them(store, small_plan):
    """The dense solver's are not calibrated: no time is set aside for them."""
    energies = replace(small_plan, rows=RowPlan(derivatives=False))
    dense = replace(energies, solver=Exact((1e-6, 1e-3)))
    planned = [[stage.name for stage in resources(store, plan).stages] for plan in (energies, dense)]
    assert ["uncertainty" in names for names in planned] == [True, False]
    heard = Heard()
    assert fit(store, dense, heard).model.posterior is None
    assert any(
        "no uncertainties: they take solver direct or falkon, and forces stored tangents" in line
        for line in heard.notes
    )
    silent = Heard()
    fit(store, replace(dense, validation=Validation(dense.validation.folds, uncertainty=False)), silent)
    assert not any("uncertainties" in line for line in silent.notes)


def test_alpha_sweep_whitens_as_it_was_asked_to():
    """By pivoted Cholesky, which leaves landmarks below the cut without coefficients."""
    problem, source = random_problem(n=30, singletons=30)
    problem = replace(problem, basis=Basis(1e-2, "cholesky"))
    direct, problems = Direct((1e-4, 1e-2)), [problem.with_alpha(alpha) for alpha in (0.4, 1.0)]
    swept = solve_mixings(direct, problems, source, Run())
    for found, other in zip(swept, (None, direct.solve(problems[1], source)), strict=True):
        assert 0 < int((found.value == 0).sum()) == problem.n_columns - found.rank
        if other is not None:
            torch.testing.assert_close(found.value, other.value, rtol=1e-8, atol=1e-10)

"""Problems and where their rows come from; solutions, and their states."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.backbones import load_backbone
from mekrr_scale.distributed import Checkpoint, State
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, fit_transform
from mekrr_scale.landmarks import Uniform
from mekrr_scale.models import fit_baseline, whiten
from mekrr_scale.pipeline import RowPlan
from mekrr_scale.regression import (
    ENERGY_ALONE,
    Basis,
    ChainedRows,
    LabelledStructure,
    ListedRows,
    Precision,
    Problem,
    Rows,
    Source,
    Structures,
    assign_folds,
)
from mekrr_scale.solvers import Direct, Effort, Falkon, PathPoint, Result, Solution
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import LabelKeys, read_labels, read_structures, structure_hash
from tests import reference

STORED = Path(__file__).parents[1] / "stored"
ENERGY, FORCE, STRESS = RowKind.ENERGY, RowKind.FORCE, RowKind.STRESS


@pytest.fixture(scope="module")
def problem(store):
    data = FeatureStore(store)
    kernel = SetKernel(Gaussian(3.0), SpeciesMixing(0.5), "sum", fit_transform(data, "scale-per-species"))
    landmarks = Uniform(12).select(data, kernel)
    return Problem(kernel, landmarks, fit_baseline(data, "composition"), assign_folds(data, 3))


@pytest.fixture(scope="module")
def sources(store, toy_file, spec):
    """The same data in every way: energies, stored tangents, structures."""
    data = FeatureStore(store)
    groups = {i: g for batch in data for i, g in zip(batch.ids.tolist(), batch.groups.tolist(), strict=True)}
    listed = []
    for atoms in read_structures(toy_file):
        labels = read_labels(atoms, LabelKeys())
        number = structure_hash(atoms, labels)
        listed.append(LabelledStructure(atoms, labels, number, groups[number]))
    structures = Structures(listed, load_backbone(spec).to(dtype=torch.float64))
    return data, replace(data, tangents=True), structures


def kinds_of(rows):
    """Kinds in the order of their rows, each once where it comes without a break."""
    found = []
    for block in rows:
        if not found or found[-1] != (block.kind, isinstance(block.matrix, torch.Tensor)):
            found.append((block.kind, isinstance(block.matrix, torch.Tensor)))
    return found


def test_a_source_says_which_kinds_it_holds(sources):
    energies, moved, structures = sources
    assert Source(energies).kinds & {ENERGY, FORCE, STRESS} == {ENERGY}
    assert Source(energies, moved).kinds & {ENERGY, FORCE, STRESS} == {ENERGY, FORCE, STRESS}
    assert Source(energies, structures=structures).kinds & {ENERGY, FORCE, STRESS} == {ENERGY, FORCE}


def test_rows_come_in_the_order_of_the_kinds(problem, sources):
    """Energies, derivatives along stored directions, then products with structures; and only what is asked for."""
    energies, moved, structures = sources
    everything = Source(energies, moved, structures)
    found = kinds_of(problem.rows(everything))
    assert found[0] == (ENERGY, True)
    assert (ENERGY, True) not in found[1:]
    assert {pair for pair in found[1:] if pair[1]} == {(FORCE, True), (STRESS, True)}
    assert found[-1] == (FORCE, False)
    assert all(held for _, held in found[:-1])
    for wanted in ({ENERGY}, {FORCE}, {STRESS}, {ENERGY, STRESS}, {FORCE, STRESS}):
        assert {kind for kind, _ in kinds_of(problem.rows(everything, wanted))} == wanted
    assert kinds_of(problem.rows(Source(energies, structures=structures), {FORCE})) == [(FORCE, False)]
    assert kinds_of(problem.rows(Source(energies), {FORCE, STRESS})) == []


@pytest.mark.parametrize("skip", [1, 3, 5, 10_000])
def test_rows_begin_anywhere(problem, sources, skip):
    """Blocks that are passed over are not made, and the others are the same."""
    energies, moved, structures = sources
    rows = problem.rows(Source(energies, moved, structures))
    assert isinstance(rows, Rows)
    whole, later = list(rows), list(rows.blocks(skip))
    assert len(later) == len(whole)
    assert [block is None for block in later] == [place < skip for place in range(len(whole))]
    for one, other in zip(whole, later, strict=True):
        if other is not None:
            assert (one.kind, one.target.tolist(), one.fold.tolist(), one.key.tolist()) == (
                (other.kind, other.target.tolist(), other.fold.tolist(), other.key.tolist())
            )
            assert not isinstance(one.matrix, torch.Tensor) or torch.equal(one.matrix, other.matrix)
    listed = ChainedRows((ListedRows(tuple(whole[:2])), ListedRows(tuple(whole[2:]))))
    assert [block is None for block in listed.blocks(skip)] == [block is None for block in later]


def test_weights_of_kinds_that_are_not_there_are_tried_once(problem):
    weights = tuple(ByKind.from_list([1.0, force, 0.1], 0.0) for force in (1e-3, 1e-2))
    several = replace(problem, weights=weights)
    assert several.of_kinds(frozenset({ENERGY, FORCE})).weights == tuple(
        ByKind.from_list([1.0, force], 0.0) for force in (1e-3, 1e-2)
    )
    assert several.of_kinds(frozenset({ENERGY})).weights == (ENERGY_ALONE,)


def test_shorter_lists_of_kinds_are_filled():
    """Older files, and people, name fewer kinds: in plans with the defaults, in states with none."""
    assert RowPlan(weights=[2.0]).weights == {**RowPlan().weights, "energy": (2.0,)}
    assert RowPlan(weights=[2.0, 0.3]).weights == {**RowPlan().weights, "energy": (2.0,), "force": (0.3,)}
    point = PathPoint.from_dict({"ridge": 1e-3, "weights": [1.0, 0.2], "energy_rmse": 0.1})
    assert point.weights == ByKind.of({ENERGY: 1.0, FORCE: 0.2}, 0.0)
    assert point.rmse[ENERGY] == 0.1
    assert all(math.isnan(value) for kind, value in point.rmse.items() if kind != ENERGY)
    told = {"ridges": [1e-3], "result": "SUCCESS", "weights": [1.0], "path": [], "folds": 0, "stats": {}}
    found = Solution.restored(State({"value": torch.zeros(2, 1, dtype=torch.float64)}, told))
    assert found.weights == ENERGY_ALONE
    assert found.effort == Effort()


def random_problem(weights, criterion):
    batch, _ = reference.with_tangents(reference.random_batch(0, n_structures=20), 1)
    kernel = SetKernel(Gaussian(1.6), SpeciesMixing(0.4), "sum", fit_transform([batch], "centre"))
    return Problem(
        kernel,
        Uniform(5).select([batch], kernel),
        fit_baseline([batch], "composition"),
        assign_folds([batch], 3),
        weights,
        criterion,
        Basis(),
        Precision(derivative=torch.float64),
    ), Source([batch], [batch])


WEIGHTS = (ByKind.from_list([1.0, 1e-6], 0.0), ByKind.from_list([1.0, 0.3], 0.0))
FORCES = ByKind.from_list([0.0, 1.0], 0.0)


@pytest.mark.parametrize("solver", [Direct((1e-3, 1e-1)), Falkon((1e-3, 1e-1))])
def test_a_solution_comes_back_from_its_state(tmp_path, solver):
    problem, source = random_problem(WEIGHTS, FORCES)
    solution = solver.solve(problem, source)
    kept = Checkpoint(tmp_path, {})
    kept.save("solution", solution.state())
    found = Solution.restored(kept.load("solution"))
    assert torch.equal(found.value, solution.value)
    for name in ("ridges", "result", "weights", "rank", "effort"):
        assert getattr(found, name) == getattr(solution, name), name
    points, expected = ([point.to_dict() for point in each.path.points] for each in (found, solution))
    assert str(points) == str(expected)  # kinds without rows have NaN
    for name in ("fold_values", "fold_shifts"):
        pairs = zip(getattr(found, name), getattr(solution, name), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
    assert found.rows is None


def test_the_basis_where_nothing_is_said():
    """Eigenvalues above 1e-11 of the largest, in problems and in plans as in ``whiten``."""
    gram = torch.diag(torch.tensor([1e-10, 1e-12, 1.0], dtype=torch.float64))
    assert whiten([gram]).rank == whiten([gram], Basis().cut, Basis().method).rank == 2
    assert (RowPlan().cut, RowPlan().whitening) == (Basis().cut, Basis().method) == (1e-11, "eigen")


def test_a_solution_of_0_1_0_comes_back():
    """``Direct`` with two combinations of weights, chosen by forces: its state names neither weights nor criterion.

    Made with a checkout of 0.1.0 from the problem of ``random_problem``.
    """
    state = Checkpoint(STORED, {"version": "0.1.0"}).load_own("solution_0.1.0")
    problem, source = random_problem(WEIGHTS, FORCES)
    found = Solution.restored(state, problem.criterion)
    expected = Direct((1e-3, 1e-1)).solve(problem, source)
    assert found.result is Result.SUCCESS
    assert found.ridges == expected.ridges == (0.1,)
    assert found.weights == expected.weights == WEIGHTS[1]
    assert found.rank == expected.rank == 5
    assert found.effort.rows == expected.effort.rows == 45
    assert found.effort.seconds_pass > 0
    assert len(found.path.points) == 4
    for mine, other in zip(found.path.points, expected.path.points, strict=True):
        assert (mine.ridge, mine.weights) == (other.ridge, other.weights)
        for kind in RowKind:
            assert mine.rmse[kind] == pytest.approx(
                other.rmse[kind], rel=1e-9, nan_ok=kind not in (ENERGY, FORCE, STRESS)
            )
    torch.testing.assert_close(found.value, expected.value, rtol=1e-8, atol=1e-10)
    for name in ("fold_values", "fold_shifts"):
        for mine, other in zip(getattr(found, name), getattr(expected, name), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-9)

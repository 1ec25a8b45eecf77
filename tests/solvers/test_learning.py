"""Learning curves from the sums of the folds, against fits to the rows of those folds alone."""

import numpy as np
import pytest
import torch

from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.regression import refit_shift, score
from mekrr_scale.solvers import Direct, Solution
from tests.solvers import problems


def slow_point(problem, source, solution, size, factor=1.0):
    """Dense ridge regression on the rows of some folds, and its errors on one that they leave out.

    Args:
        factor: of the ridge that was chosen.
    """
    whitening = problem.whitening()
    blocks = list(problem.rows(source))
    shift_of = {}
    squares, shares = dict.fromkeys(RowKind, 0.0), dict.fromkeys(RowKind, 0.0)
    for left_out in range(problem.n_folds):
        learned = [(left_out + 1 + step) % problem.n_folds for step in range(size)]
        energies = [block for block in blocks if block.kind is RowKind.ENERGY]
        counts = torch.cat([block.counts[torch.isin(block.fold, torch.tensor(learned))] for block in energies])
        rest = torch.cat([block.target[torch.isin(block.fold, torch.tensor(learned))] for block in energies])
        shift = refit_shift(problem.baseline, counts.T @ counts, counts.T @ rest)
        matrices, targets = [], []
        for block in blocks:
            chosen = torch.isin(block.fold, torch.tensor(learned))
            root = (solution.weights[block.kind] * block.weight[chosen]).sqrt()
            matrices.append(whitening.rows(block.rows[chosen]) * root[:, None])
            targets.append((block.target[chosen] - block.scale[chosen] * (block.counts[chosen] @ shift)) * root)
        matrix, target = torch.cat(matrices), torch.cat(targets)
        ridge = factor * solution.ridges[0] * torch.eye(matrix.shape[1], dtype=torch.float64)
        beta = torch.linalg.solve(matrix.T @ matrix + ridge, matrix.T @ target)
        for block in blocks:
            held = block.fold == left_out
            found = whitening.rows(block.rows[held]) @ beta + block.scale[held] * (block.counts[held] @ shift)
            squares[block.kind] += float((block.weight[held] * (found - block.target[held]).square()).sum())
            shares[block.kind] += float(block.share[held].sum())
        shift_of[left_out] = shift
    return {kind: np.sqrt(squares[kind] / shares[kind]) for kind in RowKind if shares[kind]}


def slow_curve(problem, source, solution, size):
    """The lowest errors of ridges ten times as large each, up to the first that is 1 % above a lower one."""
    errors = [slow_point(problem, source, solution, size, 10.0**decade) for decade in range(13)]
    values = [score(problem.criterion, ByKind.of(each, np.nan)) for each in errors]
    end = next((i for i, value in enumerate(values) if i and value > 1.02 * min(values[:i])), len(values))
    return errors[int(np.argmin(values[:end]))]


@pytest.mark.parametrize(("folds", "sizes"), [(2, [1]), (3, [1, 2]), (4, [1, 3]), (5, [1, 2, 4]), (8, [1, 3, 7])])
@pytest.mark.parametrize(("tangents", "weights"), [(False, ()), (True, (problems.weighted(1.0, 0.1),))])
def test_curves_are_those_of_fits_to_parts(tangents, weights, folds, sizes):
    problem, source = problems.made(tangents=tangents, singletons=30, weights=weights, folds=folds)
    solution = Direct((1e-3, 1e-1)).solve(problem, source)
    assert [point.structures for point in solution.curve] == [pytest.approx(40 * size / folds) for size in sizes]
    for size, point in zip(sizes, solution.curve, strict=True):
        slow = slow_point if size == folds - 1 else slow_curve
        for kind, error in slow(problem, source, solution, size).items():
            if kind in (RowKind.ENERGY, RowKind.FORCE):
                assert point.rmse[kind] == pytest.approx(error, rel=1e-6)
    best = solution.point(problem.criterion)
    for kind in (RowKind.ENERGY, RowKind.FORCE)[: 1 + tangents]:
        assert solution.curve[-1].rmse[kind] == pytest.approx(best.rmse[kind], rel=1e-6)


def test_a_tiny_ridge_does_not_make_models_of_as_many_rows_as_columns_worse():
    """ "Double descent": at one tiny ridge for all, two of five folds have many times the error of one."""
    problem, source = problems.made(singletons=16, folds=5)
    solution = Direct((1e-12,)).solve(problem, source)
    one, two, _ = (point.rmse[RowKind.ENERGY] for point in solution.curve)
    same = [float(slow_point(problem, source, solution, size)[RowKind.ENERGY]) for size in (1, 2)]
    assert same[1] > 5 * same[0]
    assert two < 1.1 * one


def test_they_are_kept_in_states():
    problem, source = problems.made(singletons=20)
    solution = Direct((1e-3,)).solve(problem, source)
    assert solution.curve
    again = Solution.restored(solution.state())
    for before, after in zip(solution.curve, again.curve, strict=True):
        assert before.structures == after.structures
        assert before.rmse[RowKind.ENERGY] == after.rmse[RowKind.ENERGY]
        assert before.folds[RowKind.ENERGY] == after.folds[RowKind.ENERGY]


def test_folds_are_told_apart():
    problem, source = problems.made(tangents=True, singletons=30, weights=(problems.weighted(1.0, 0.1),), folds=4)
    for point in Direct((1e-3,)).solve(problem, source).curve:
        for kind in (RowKind.ENERGY, RowKind.FORCE):
            assert len(set(point.folds[kind])) == 4
            # ten structures with as many derivatives in each fold
            assert np.sqrt(np.mean(np.square(point.folds[kind]))) == pytest.approx(point.rmse[kind], rel=0.2)


def test_without_folds_there_is_none():
    problem, source = problems.made(folds=0, singletons=20)
    assert Direct((1e-3,)).solve(problem, source).curve == ()

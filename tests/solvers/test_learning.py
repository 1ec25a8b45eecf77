"""Learning curves from the sums of the folds, against fits to the rows of those folds alone."""

import numpy as np
import pytest
import torch

from mekrr_scale.arrays import RowKind
from mekrr_scale.regression import refit_shift
from mekrr_scale.solvers import Direct, Solution
from tests.solvers import problems


def slow_curve(problem, source, solution, size):
    """Dense ridge regression on the rows of some folds, and its errors on one that they leave out."""
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
        ridge = solution.ridges[0] * torch.eye(matrix.shape[1], dtype=torch.float64)
        beta = torch.linalg.solve(matrix.T @ matrix + ridge, matrix.T @ target)
        for block in blocks:
            held = block.fold == left_out
            found = whitening.rows(block.rows[held]) @ beta + block.scale[held] * (block.counts[held] @ shift)
            squares[block.kind] += float((block.weight[held] * (found - block.target[held]).square()).sum())
            shares[block.kind] += float(block.share[held].sum())
        shift_of[left_out] = shift
    return {kind: np.sqrt(squares[kind] / shares[kind]) for kind in RowKind if shares[kind]}


@pytest.mark.parametrize(("folds", "sizes"), [(2, [1]), (3, [1, 2]), (4, [1, 3]), (5, [1, 2, 4]), (8, [1, 3, 7])])
@pytest.mark.parametrize(("tangents", "weights"), [(False, ()), (True, (problems.weighted(1.0, 0.1),))])
def test_curves_are_those_of_fits_to_parts(tangents, weights, folds, sizes):
    problem, source = problems.made(tangents=tangents, singletons=30, weights=weights, folds=folds)
    solution = Direct((1e-3, 1e-1)).solve(problem, source)
    assert [point.structures for point in solution.curve] == [pytest.approx(40 * size / folds) for size in sizes]
    for size, point in zip(sizes, solution.curve, strict=True):
        for kind, error in slow_curve(problem, source, solution, size).items():
            if kind in (RowKind.ENERGY, RowKind.FORCE):
                assert point.rmse[kind] == pytest.approx(error, rel=1e-6)
    best = solution.point(problem.criterion)
    for kind in (RowKind.ENERGY, RowKind.FORCE)[: 1 + tangents]:
        assert solution.curve[-1].rmse[kind] == pytest.approx(best.rmse[kind], rel=1e-6)


def test_they_are_kept_in_states():
    problem, source = problems.made(singletons=20)
    solution = Direct((1e-3,)).solve(problem, source)
    assert solution.curve
    again = Solution.restored(solution.state())
    for before, after in zip(solution.curve, again.curve, strict=True):
        assert before.structures == after.structures
        assert before.rmse[RowKind.ENERGY] == after.rmse[RowKind.ENERGY]


def test_without_folds_there_is_none():
    problem, source = problems.made(folds=0, singletons=20)
    assert Direct((1e-3,)).solve(problem, source).curve == ()

"""What solvers refuse before any work."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import HashStore

from mekrr_scale.arrays import ByKind
from mekrr_scale.distributed import Group, panels_of
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, Transform
from mekrr_scale.landmarks import Uniform
from mekrr_scale.models import fit_baseline
from mekrr_scale.regression import Problem, Run, Source
from mekrr_scale.regression.kept import KeptRows
from mekrr_scale.solvers import Direct, Exact, Falkon, Path
from tests import reference


@pytest.fixture
def problem():
    batch = reference.random_batch(0, n_structures=8)
    kernel = SetKernel(Gaussian(1.5), SpeciesMixing(0.3), "sum", Transform.identity(4))
    landmarks = Uniform(5).select([batch], kernel)
    weights = (ByKind.from_list([1.0, 0.0], 0.0),)
    return Problem(kernel, landmarks, fit_baseline([batch], "composition"), weights=weights), batch


@pytest.mark.parametrize("solver", [Direct((1e-6,)), Exact((1e-6,)), Falkon((1e-6,))])
def test_not_a_single_row(problem, solver):
    given, batch = problem
    bare = replace(batch, energy=torch.full_like(batch.energy, torch.nan))
    with pytest.raises(SolverError, match="there is not a single row to fit; no structure in the store has a usable"):
        solver.solve(given, Source([bare]))


def test_a_kind_without_a_row(problem):
    """Energies that are there do not stand for labels of forces, which have none."""
    given, batch = problem
    moved, _ = reference.with_tangents(batch, 1)
    labels = replace(moved.directions, label=torch.full_like(moved.directions.label, torch.nan))
    moved = replace(moved, directions=labels)
    weighed = replace(given, weights=(ByKind.from_list([0.0, 1.0], 0.0),))
    with pytest.raises(
        SolverError, match=r"no row has a weight above zero \(energy weight 0, force weight 1, stress weight 0"
    ):
        Direct((1e-6,)).solve(weighed, Source([moved], [moved]))


def test_solvers_of_one_process(problem):
    given, batch = problem
    group = Group(0, 2, store=HashStore())
    with pytest.raises(ConfigError, match="solver 'exact' runs in one process, not in 2; take 'direct' or 'falkon'"):
        Exact((1e-6,)).solve(given, Source([batch]), Run(group=group))


def test_a_path_without_points():
    with pytest.raises(ConfigError, match="nothing was cross-validated; solve with folds, or choose a ridge yourself"):
        Path(()).best()


def test_a_matrix_that_is_not_definite():
    matrix = torch.diag(torch.tensor([1.0, 2.0, -1.0, 3.0], dtype=torch.float64))
    with pytest.raises(SolverError, match="not positive definite in floating point; increase the ridge"):
        panels_of(matrix, width=2).cholesky()


def test_rows_that_begin_at_their_beginning():
    with pytest.raises(SolverError, match="passed over from their beginning alone"):
        KeptRows.blocks(SimpleNamespace(rows=()), 1)

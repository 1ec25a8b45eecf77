"""The adapter for the falkon library: its numbers here, the library itself where it is installed."""

import importlib
import importlib.util
from dataclasses import replace

import pytest
import torch

from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, Transform
from mekrr_scale.landmarks import Uniform, WholeStructures
from mekrr_scale.models import fit_baseline
from mekrr_scale.pipeline import RowPlan, Validation, fit
from mekrr_scale.regression import Problem, Source, assign_folds
from mekrr_scale.solvers import Direct, FalkonLibrary, IndexedKernel
from mekrr_scale.solvers.library_kernel import library_kernel, library_options
from mekrr_scale.store import FeatureStore
from tests import reference
from tests.solvers import falkon_stand_in

INSTALLED = importlib.util.find_spec("falkon") is not None


def made(reduce="sum", alpha=0.4, selection=None):
    """A problem of energies, and its source: one batch of twenty structures."""
    batch = reference.random_batch(0, n_structures=20)
    kernel = SetKernel(Gaussian(1.5), SpeciesMixing(alpha), reduce, Transform.identity(4))
    landmarks = (selection or Uniform(8)).select([batch], kernel)
    return Problem(kernel, landmarks, fit_baseline([batch], "composition")), Source([batch])


def indexed(problem, source):
    (batch,) = source.energies
    return IndexedKernel(
        problem.kernel.rows(batch, problem.landmarks), problem.kernel.gram(problem.landmarks)
    )  # fmt: skip


def test_blocks_are_rows_of_the_kernel():
    problem, source = made()
    given = indexed(problem, source)
    (batch,) = source.energies
    whole = problem.kernel.rows(batch, problem.landmarks)
    assert given.structures.shape == (20, 1)
    torch.testing.assert_close(given.block(given.structures, given.centres), whole)
    rows, columns = torch.tensor([[3.0], [22.0], [0.0], [19.0]]).double(), given.centres[[5, 1]]
    gram = problem.kernel.gram(problem.landmarks)
    expected = torch.stack([whole[3], gram[2], whole[0], whole[19]])[:, [5, 1]]
    torch.testing.assert_close(given.block(rows, columns), expected)
    exchanged = given.block(columns, rows)
    torch.testing.assert_close(exchanged, expected.T)
    mixed = given.centres[[2, 4]]
    torch.testing.assert_close(given.block(mixed, rows), given.block(rows, mixed).T)
    with pytest.raises(ConfigError, match="fix the centres"):
        given.block(rows, rows)


def test_a_store_of_several_batches_is_handed_over():
    problem, source = made()
    (batch,) = source.energies
    chosen = torch.arange(20) < 8
    parts = [batch.take(chosen), batch.take(~chosen)]
    whole, found = indexed(problem, source), IndexedKernel.of(problem, parts)
    torch.testing.assert_close(found.rows, whole.rows)
    assert torch.equal(found.gram, whole.gram)
    assert len(found.structures) == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [({"reduce": "mean"}, "two columns"), ({"folds": True}, "does not cross-validate"), ({"ridges": 2}, "one ridge")],
)
def test_what_the_library_cannot_do_is_refused(options, message):
    problem, source = made(options.get("reduce", "sum"))
    if "folds" in options:
        problem = replace(problem, folds=assign_folds(source.energies, 3))
    with pytest.raises(ConfigError, match=message):
        FalkonLibrary((1e-5, 1e-4)[: options.get("ridges", 1)]).solve(problem, source)


@pytest.mark.skipif(INSTALLED, reason="the library is installed")
def test_absence_is_explained():
    problem, source = made("mean", 0.4, WholeStructures(5))
    with pytest.raises(ConfigError, match="not on PyPI"):
        library_kernel(indexed(problem, source))
    with pytest.raises(ConfigError, match="not on PyPI"):
        FalkonLibrary((1e-5,)).solve(problem, source)


@pytest.fixture(params=["stand-in", "installed"])
def falkon(request, monkeypatch):
    """The library, or what stands in for it and asks as it does."""
    if request.param == "stand-in":
        falkon_stand_in.install(monkeypatch)
    elif not INSTALLED:
        pytest.skip("the falkon library is not on PyPI; benchmarks/falkon_library.py builds it")
    return importlib.import_module("falkon")


def test_library_fit_agrees(falkon):
    problem, source = made()
    given = indexed(problem, source)
    target = torch.randn(20, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = falkon.Falkon(
        kernel=library_kernel(given, library_options()),
        penalty=1e-4,
        M=8,
        center_selection=falkon.center_selection.FixedSelector(given.centres),
        maxiter=50,
        options=library_options(),
    )
    model.fit(given.structures, target)
    rows, gram = given.block(given.structures, given.centres), problem.kernel.gram(problem.landmarks)
    c = torch.linalg.solve(rows.T @ rows + 20 * 1e-4 * gram, rows.T @ target)
    torch.testing.assert_close(model.predict(given.structures), rows @ c, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("parts", [1, 3])
def test_library_solver_agrees_with_direct(falkon, reduce, parts):
    """Weighted rows: the library's penalty is the total ridge over the number of structures."""
    problem, source = made(reduce, 1.0)
    (batch,) = source.energies
    source = Source([batch.take(torch.arange(20) % parts == part) for part in range(parts)])
    found, expected = (solver.solve(problem, source) for solver in (FalkonLibrary((1e-3,)), Direct((1e-3,))))
    test = problem.kernel.rows(reference.random_batch(7), problem.landmarks)
    torch.testing.assert_close(test @ found.value, test @ expected.value, rtol=1e-4, atol=1e-5)
    assert found.ridges == expected.ridges
    assert not found.value.is_inference()


def test_a_store_is_fitted_with_it(falkon, store, small_plan):
    plan = replace(
        small_plan, solver=FalkonLibrary((1e-3,)), validation=Validation(folds=0), rows=RowPlan(derivatives=False)
    )
    found, expected = fit(store, plan), fit(store, replace(plan, solver=Direct((1e-3,))))
    batch = next(iter(FeatureStore(store)))
    expected = expected.model.energies(batch)
    torch.testing.assert_close(found.model.energies(batch), expected, rtol=1e-5, atol=1e-4)

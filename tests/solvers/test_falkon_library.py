"""The adapter for the falkon library: its numbers here, the library itself where it is installed."""

import importlib
import importlib.util
from dataclasses import replace

import pytest
import torch

from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.kernels import KERNELS, Gaussian, SetKernel, SpeciesMixing, Transform
from mekrr_scale.landmarks import Uniform, WholeStructures
from mekrr_scale.models import fit_baseline
from mekrr_scale.pipeline import RowPlan, Validation, fit
from mekrr_scale.regression import Problem, Source, assign_folds
from mekrr_scale.solvers import Direct, FalkonLibrary, IndexedKernel, Result
from mekrr_scale.solvers.library_kernel import library_kernel, library_options
from mekrr_scale.store import FeatureStore
from tests import reference
from tests.solvers import falkon_stand_in
from tests.solvers import test_solver_conformance as dense

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
    rows, columns = torch.tensor([[3.0], [0.0], [19.0]]).double(), given.centres[[5, 1]]
    gram = problem.kernel.gram(problem.landmarks)
    expected = whole[[3, 0, 19]][:, [5, 1]]
    torch.testing.assert_close(given.block(rows, columns), expected)
    exchanged = given.block(columns, rows)
    torch.testing.assert_close(exchanged, expected.T)
    among = given.centres[[2, 4]]
    torch.testing.assert_close(given.block(among, columns), gram[[2, 4]][:, [5, 1]])
    whole_again = given.block(given.structures[3:9], given.centres)
    assert whole_again.data_ptr() == given.rows[3:9].data_ptr()  # nothing is copied
    with pytest.raises(ConfigError, match="fix the centres"):
        given.block(rows, rows)
    with pytest.raises(ConfigError, match="structures and landmarks in one list"):
        given.block(torch.cat([rows, columns]), given.centres)


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


def test_what_the_kernel_does_not_offer_the_library(falkon):
    kernel = library_kernel(indexed(*made()), library_options())
    points = torch.zeros(2, 1)
    with pytest.raises(ConfigError, match="the diagonal of the set kernel is not offered to the library"):
        kernel.compute(points, points, torch.zeros(2, 2), diag=True)
    with pytest.raises(ConfigError, match="the set kernel takes no sparse input"):
        kernel.compute_sparse(points, points, points)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, {"ZZ", "XZ"}),
        ({"max_cpu_mem": 2000}, {"ZZ", "XZ"}),
        ({"never_store_kernel": True}, {"ZZ", "ZX", "XZ"}),
        ({"max_cpu_mem": 480}, {"ZZ", "ZX", "XZ"}),  # too little to store
    ],
)
def test_what_the_library_asks(falkon, options, asked, monkeypatch):
    """The same of both, block by block: what the stand-in leaves out cannot be tested without the library."""
    problem, source = made()
    given, seen, sizes = indexed(problem, source), set(), []
    block = IndexedKernel.block

    def heard(self, rows, columns):
        assert torch.is_inference_mode_enabled()
        seen.add("".join("Z" if bool((part >= 20).all()) else "X" for part in (rows, columns)))
        sizes.append(len(rows) * len(columns))
        return block(self, rows, columns)

    monkeypatch.setattr(IndexedKernel, "block", heard)
    made_options = library_options(**options)
    model = falkon.Falkon(
        kernel=library_kernel(given, made_options),
        penalty=1e-4,
        M=8,
        center_selection=falkon.center_selection.FixedSelector(given.centres),
        maxiter=50,
        options=made_options,
    ).fit(given.structures, torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None])
    assert seen == asked
    assert max(sizes) <= options.get("max_cpu_mem", torch.inf) / 8
    assert model.alpha_.is_inference()
    if "ZX" not in asked:
        assert sizes == [64, 160]  # once
    rows = torch.cat([block.rows for block in problem.rows(source)])
    gram = problem.kernel.gram(problem.landmarks)
    y = torch.linspace(-1, 1, 20, dtype=torch.float64)
    c = torch.linalg.solve(rows.T @ rows + 20 * 1e-4 * gram, rows.T @ y)
    torch.testing.assert_close(model.predict(given.structures)[:, 0], rows @ c, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("reduce", "alpha"), [("sum", 0.4), ("sum", 1.0), ("mean", 1.0), ("mean", 0.0)])
def test_solutions_equal_dense_algebra(falkon, kernel, reduce, alpha):
    """The conformance suite's problem; ragged sets, weighted rows."""
    problem, source, rows = dense.made("direct", kernel, reduce, alpha)
    problem = replace(problem, folds=None).of_kinds(frozenset({RowKind.ENERGY}))
    rows = [row for row in rows if row["kind"] == RowKind.ENERGY]
    gram = reference.landmark_gram(problem.kernel, problem.landmarks)
    ridge = 1e-3 * float(torch.linalg.eigvalsh(gram)[-1])
    found = FalkonLibrary((ridge,), max_steps=300).solve(problem, Source(source.energies))
    expected, _ = reference.dense_fit(rows, gram, problem.weights[0], ridge)
    phi = torch.tensor([row["phi"] for row in rows], dtype=torch.float64)
    assert found.result is Result.SUCCESS
    scale = float((phi @ expected).abs().max())
    torch.testing.assert_close(phi @ found.value[:, 0], phi @ expected, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("parts", [1, 3])
def test_library_solver_agrees_with_direct(falkon, reduce, parts):
    """Weighted rows: the library's penalty is the total ridge over the sum of the weights."""
    problem, source = made(reduce, 1.0)
    problem = replace(problem, weights=(ByKind.of({RowKind.ENERGY: 1.0 if parts == 1 else 30.0}, 0.0),))
    (batch,) = source.energies
    source = Source([batch.take(torch.arange(20) % parts == part) for part in range(parts)])
    with torch.random.fork_rng():
        torch.manual_seed(problem.seed + 1)
        before = torch.get_rng_state()
        found, expected = (solver.solve(problem, source) for solver in (FalkonLibrary((1e-3,)), Direct((1e-3,))))
        assert torch.equal(torch.get_rng_state(), before)
    test = problem.kernel.rows(reference.random_batch(7), problem.landmarks)
    torch.testing.assert_close(test @ found.value, test @ expected.value, rtol=1e-4, atol=1e-5)
    assert found.ridges == expected.ridges
    assert found.weights == expected.weights
    assert found.result is Result.SUCCESS
    assert not found.value.is_inference()


@pytest.mark.parametrize("selection", [WholeStructures(), Uniform(20)])
def test_as_many_landmarks_as_structures(falkon, selection):
    """The library takes a stored K_nM for its transpose then: predictions were off by their own size."""
    problem, source = made("sum", 1.0, selection)
    assert problem.n_columns == 20
    found, expected = (s.solve(problem, source) for s in (FalkonLibrary((1e-2,), max_steps=300), Direct((1e-2,))))
    rows = torch.cat([block.rows for block in problem.rows(source)])
    assert found.result is Result.SUCCESS
    torch.testing.assert_close(rows @ found.value, rows @ expected.value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("label", [1e-9, 1e9])
def test_units_of_the_labels_do_not_matter(falkon, label):
    """The library's tolerance is an absolute number: labels below it were all left unexplained."""
    problem, source = made("sum", 1.0)
    (batch,) = source.energies
    small = replace(batch, energy=batch.energy * label)
    scaled = replace(problem, baseline=fit_baseline([small], "composition"))
    found = FalkonLibrary((1e-3,)).solve(scaled, Source([small])).value
    expected = FalkonLibrary((1e-3,)).solve(problem, source).value
    torch.testing.assert_close(found / label, expected, rtol=1e-5, atol=1e-7 * float(expected.abs().max()))


def test_large_sets(falkon):
    """The library's jitter is an absolute number: kernels between sets of many atoms are thousands."""
    batch = reference.random_batch(0, n_structures=40, most=200)
    kernel = SetKernel(Gaussian(30.0), SpeciesMixing(1.0), "sum", Transform.identity(4))
    problem = Problem(kernel, WholeStructures(30).select([batch], kernel), fit_baseline([batch], "composition"))
    source = Source([batch])
    found, expected = (s.solve(problem, source) for s in (FalkonLibrary((1e-1,), max_steps=300), Direct((1e-1,))))
    rows = torch.cat([block.rows for block in problem.rows(source)])
    scale = float((rows @ expected.value).abs().max())
    torch.testing.assert_close(rows @ found.value, rows @ expected.value, rtol=0, atol=1e-4 * scale)


def test_what_was_not_solved_is_said(falkon, monkeypatch):
    problem, source = made("sum", 1.0, Uniform(30))
    assert FalkonLibrary((1e-6,), max_steps=3).solve(problem, source).result is Result.MAX_STEPS
    indefinite = torch.diag(torch.tensor([2.0] + [-0.01] * (problem.n_columns - 1), dtype=torch.float64))
    monkeypatch.setattr(SetKernel, "gram", lambda *_: indefinite)
    with pytest.raises(SolverError, match="falkon library could not solve the system"):
        FalkonLibrary((1e-6,)).solve(problem, source)


def test_a_store_is_fitted_with_it(falkon, store, small_plan):
    solver = FalkonLibrary((1e-3,), max_steps=1000)
    plan = replace(small_plan, solver=solver, validation=Validation(folds=0), rows=RowPlan(derivatives=False))
    found, expected = fit(store, plan), fit(store, replace(plan, solver=Direct((1e-3,))))
    batch = next(iter(FeatureStore(store)))
    expected = expected.model.energies(batch)
    torch.testing.assert_close(found.model.energies(batch), expected, rtol=1e-5, atol=1e-4)
    few = fit(store, replace(plan, solver=replace(solver, max_steps=1)))
    assert any("maximum number of iterations" in warning for warning in few.warnings)

"""Extraction, reading and fitting as stages: labels, units, rejects, parts, resumption, memory."""

import shutil
from dataclasses import replace

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.distributed import Checkpoint
from mekrr_scale.errors import ConfigError, StoppedError, StructureError
from mekrr_scale.kernels import SpeciesMixing
from mekrr_scale.models import Model, Potential, fit_baseline
from mekrr_scale.pipeline import (
    BaselinePlan,
    ExtractPlan,
    FitPlan,
    KernelPlan,
    LandmarkPlan,
    LengthScale,
    RowPlan,
    Validation,
    compare,
    evaluate_store,
    extract,
    fit,
    predict,
)
from mekrr_scale.pipeline import evaluate as evaluate_structures
from mekrr_scale.pipeline.fitting import FitData
from mekrr_scale.pipeline.fitting.data import Choice
from mekrr_scale.progress import Silent
from mekrr_scale.regression import Basis, Execution, Problem, Source, assign_folds
from mekrr_scale.solvers import Direct, Exact, Falkon
from mekrr_scale.store import FeatureStore, finalize
from tests.conftest import toy_energy

RIDGES = (1e-8, 1e-6, 1e-4)


def test_evaluation_and_prediction(model_file, fitted, toy_structures, store, tmp_path):
    potential = Potential(Model.load(model_file), dtype=torch.float64)
    found = evaluate_structures(potential, toy_structures)
    stored = evaluate_store(fitted.model, FeatureStore(store))
    assert found.metrics()["energy_rmse"] == pytest.approx(stored.metrics()["energy_rmse"], rel=1e-5)
    assert set(found.force_errors_by_species()) == {"H", "C", "O"}
    error = np.concatenate([p.get_forces() for p in predict(potential, toy_structures)]) - found.forces
    assert found.metrics()["force_rmse"] == pytest.approx(1e3 * np.sqrt((error**2).mean()))
    out = list(predict(potential, toy_structures))
    ase.io.write(tmp_path / "p.xyz", out, format="extxyz")
    back = ase.io.read(tmp_path / "p.xyz", ":")
    assert back[0].get_potential_energy() == pytest.approx(found.energy_predicted[0])
    with pytest.raises(StructureError, match="no structure could be evaluated"):
        evaluate_structures(potential, [molecule("H2O")])


def test_cross_validation_is_honest(store, small_plan):
    """The out-of-fold predictions are those of refits, baseline included, that never saw the structure."""
    plan = replace(small_plan, rows=RowPlan(derivatives=False))
    report = fit(store, plan)
    model, best, batches = report.model, report.solution.path.best(), list(FeatureStore(store))
    n = torch.cat([b.n_atoms for b in batches]).double()
    counts = torch.cat([b.counts(model.species) for b in batches]).double()
    energy = torch.cat([b.energy for b in batches])
    folds = torch.cat([FitData.open(store, plan).folds().of(b) for b in batches])
    values, vectors = torch.linalg.eigh(model.kernel.gram(model.landmarks))
    kept = values > plan.rows.cut * values.max()
    rows = torch.cat([model.kernel.rows(b, model.landmarks) for b in batches])
    rows = rows @ vectors[:, kept] / values[kept].sqrt() / n[:, None]
    expected = torch.zeros_like(energy)
    for fold in range(3):
        inside = folds != fold
        references = torch.linalg.pinv(counts[inside]) @ energy[inside]
        target = (energy - counts @ references) / n
        gram = rows[inside].T @ rows[inside] + best.ridge * torch.eye(rows.shape[1], dtype=torch.float64)
        found = rows @ torch.linalg.solve(gram, rows[inside].T @ target[inside]) + counts @ references / n
        expected[~inside] = found[~inside]
    baseline = counts @ model.baseline.energies / n
    torch.testing.assert_close(report.reference, energy / n - baseline)
    torch.testing.assert_close(report.predicted, expected - baseline, rtol=1e-4, atol=1e-6)
    error = report.predicted - report.reference
    assert float(error.square().mean().sqrt()) == pytest.approx(best.rmse[RowKind.ENERGY], rel=1e-6)
    assert report.chosen.rmse == best.rmse


def test_several_alphas_cost_one_pass(store, small_plan, monkeypatch):
    """Passes over the store are counted; without room for the sweep's matrices every alpha costs some."""
    passes, begin = [], FeatureStore.__iter__
    monkeypatch.setattr(FeatureStore, "__iter__", lambda self: (passes.append(self.path), begin(self))[1])

    def counted(*alphas, **execution):
        passes.clear()
        fit(store, replace(small_plan, kernel=KernelPlan(length_scales="2x", alphas=alphas), **execution))
        return len(passes)

    assert counted(0.5, 1.0) == counted(0.5, 0.8, 1.0)
    small = {"execution": Execution(memory=0)}
    assert counted(0.5, 1.0, **small) < counted(0.5, 0.8, 1.0, **small)


def test_several_alphas_in_one_sweep_change_nothing(store, small_plan):
    """The sweep gives what a fit of each alpha gives; without room for its matrices each is fitted alone."""
    plan = replace(small_plan, kernel=KernelPlan(length_scales="2x", alphas=(0.0, 0.5, 0.8, 1.0)))
    swept = fit(store, plan)
    alone = fit(store, replace(plan, execution=Execution(memory=0)))
    assert swept.model.kernel.mixing == alone.model.kernel.mixing
    for a, b in zip(swept.tried, alone.tried, strict=True):
        assert a.alpha == b.alpha
        assert a.rmse[RowKind.ENERGY] == pytest.approx(b.rmse[RowKind.ENERGY], rel=1e-3)
    energies = [evaluate_store(r.model, FeatureStore(store)).energy_predicted for r in (swept, alone)]
    assert np.allclose(energies[0], energies[1], atol=1e-3)


@pytest.mark.parametrize("mixing", [None, "learn"])
def test_candidates_are_compared_as_a_fit_compares_them(store, small_plan, mixing):
    kernel = KernelPlan(length_scales="2x,4x", mixing=mixing, standardize=("centre", "none"))
    plan = replace(small_plan, kernel=kernel, validation=Validation(3))
    found, report = compare(store, plan), fit(store, plan)
    assert [line.header() for line in found.tried] == [line.header() for line in report.tried]
    assert found.chosen.header() == report.chosen.header()
    assert found.compared == report.compared


@pytest.fixture(scope="module")
def fresh(spec, tmp_path_factory):
    """Structures like those of the store, of other draws."""
    generator, listed = np.random.default_rng(77), []
    for i in range(24):
        atoms = [molecule("H2O"), molecule("CH4"), bulk("C", "diamond", 3.6).repeat(2), molecule("CO")][i % 4]
        atoms.rattle(0.08, rng=generator)
        energy, _ = toy_energy(atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, free_energy=energy)
        listed.append(atoms)
    folder = tmp_path_factory.mktemp("fresh") / "s"
    extract(listed, folder, ExtractPlan(spec, dtype="float64"))
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {"solver": Exact(RIDGES)},
        {
            "solver": Falkon((1e-5, 1e-3)),
            "landmarks": LandmarkPlan(count=30),
            "rows": RowPlan(weights={"force": 1e-3}),
        },
        {"landmarks": LandmarkPlan(method="farthest", count=60)},
        {"landmarks": LandmarkPlan(method="leverage", count=60)},
        {"landmarks": LandmarkPlan(method="structures", count=12)},
        {"kernel": KernelPlan(name="gaussian-sum", length_scales="1x,3x")},
        {"kernel": KernelPlan(name="linear", length_scales="2x", parameters={"offset": 1.0})},
        {"rows": RowPlan(whitening="cholesky")},
        {"baseline": BaselinePlan(kinds="isolated", isolated={"H": -1.5, "C": -1.5, "O": -1.5})},
        {"validation": Validation(folds=0), "solver": Direct((1e-5,))},
        {"kernel": KernelPlan(length_scales="2x", reduce="mean", alphas=0.4)},
    ],
    ids=lambda change: "-".join(f"{k}={v}" for k, v in change.items())[:40],
)
def test_every_way_to_fit_learns(store, small_plan, fresh, change):
    """On structures that were not fitted a tenth of what the baseline leaves at most."""
    report = fit(store, replace(small_plan, **change))
    assert report.plan.solver.name == report.model.provenance["solver"]
    found = evaluate_store(report.model, FeatureStore(fresh))
    left = 1e3 * np.sqrt((((found.energy - found.baseline) / found.n_atoms) ** 2).mean())
    assert found.metrics()["energy_rmse"] < 0.1 * left


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FitPlan(kernel="gausian"), "Do you mean 'gaussian'"),
        (lambda: FitPlan(kernel=KernelPlan(alphas=(2.0,))), "alpha is 2.0"),
        (lambda: FitPlan(solver=Direct(ridges=())), "ridges is empty"),
        (lambda: FitPlan(validation=1), "at least 2"),
        (lambda: FitPlan(validation=0), "several candidates"),
        (lambda: LengthScale.parse("-3x"), "length scale"),
        (lambda: LengthScale.parse("wide"), "length scale"),
        (lambda: ExtractPlan(part=(4, 3)), "part 4/3"),
        (lambda: ExtractPlan(derivatives=0), "positive number"),
        (lambda: ExtractPlan(shard_bytes=0), "must be positive"),
    ],
)
def test_refused_plans(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_kept_sums_take_new_shards_alone(toy_file, spec, tmp_path, small_plan, monkeypatch):
    """A store in two parts: the second fit reads the second part alone and equals one fit to both."""
    for part, shard in ((1, 30_000), (2, 30_000)):
        plan = ExtractPlan(spec, derivatives=4, strain=True, dtype="float64", shard_bytes=shard, part=(part, 2))
        extract(toy_file, tmp_path / f"part{part}", plan)
        finalize(tmp_path / f"part{part}", allow_incomplete=True)
    first, both = tmp_path / "part1", [tmp_path / "part1", tmp_path / "part2"]
    fit(both[1], replace(small_plan, landmarks=LandmarkPlan(count=30)), sums=tmp_path / "sums")
    for path in (tmp_path / "sums").glob("sums*"):
        path.unlink()  # as if killed between the frame and the first sums: that frame counts for nothing
    begun = fit(first, small_plan, sums=tmp_path / "sums")
    assert torch.equal(Model.load(tmp_path / "sums" / "frame.mekrr").landmarks.features, begun.model.landmarks.features)
    assert begun.model.posterior is None
    read = []
    opened = FeatureStore.open
    monkeypatch.setattr(
        FeatureStore, "open", lambda self, info: (read.append((self, info.path)), opened(self, info))[1]
    )
    grown = fit(both, small_plan, sums=tmp_path / "sums")
    passed_over = {path for store, path in read if store.owned is not None}
    assert passed_over == {info.path for info in FeatureStore(both[1]).shards}
    monkeypatch.undo()
    again = fit(both, small_plan, sums=tmp_path / "sums")
    assert torch.equal(again.model.coefficients, grown.model.coefficients)
    frame = Model.load(tmp_path / "sums" / "frame.mekrr")
    stores = [replace(FeatureStore(path), tangents=True) for path in both]
    batches = [batch for store in stores for batch in store]
    baseline = fit_baseline(batches, "composition")
    problem = Problem(
        frame.kernel,
        frame.landmarks,
        baseline,
        assign_folds((), 3, exact=False),
        weights=tuple(ByKind.from_list([1.0, force, 1e-3], 0.0) for force in (1e-4, 1e-3, 1e-2, 1e-1)),
        basis=Basis(1e-11),
    )
    whole = Direct(RIDGES).solve(problem, Source(batches, batches))
    assert grown.solution.ridges == whole.ridges
    assert grown.solution.weights == whole.weights
    for mine, other in zip(grown.solution.path.points, whole.path.points, strict=True):
        assert (mine.ridge, mine.weights) == (other.ridge, other.weights)
        assert mine.rmse[RowKind.ENERGY] == pytest.approx(other.rmse[RowKind.ENERGY], rel=1e-5)
        assert mine.rmse[RowKind.FORCE] == pytest.approx(other.rmse[RowKind.FORCE], rel=1e-5)
    torch.testing.assert_close(grown.model.baseline.energies, baseline.energies, rtol=1e-9, atol=1e-9)
    for batch in batches:
        expected = frame.kernel.rows(batch, frame.landmarks) @ whole.value[:, 0]
        found = frame.kernel.rows(batch, frame.landmarks) @ grown.model.coefficients
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    (tmp_path / "third").mkdir()
    shutil.copy(tmp_path / "sums" / "frame.mekrr", tmp_path / "third")
    (tmp_path / "third" / "sums.safetensors").write_bytes(b"torn")
    with pytest.raises(ConfigError, match="damaged"):
        fit(both, small_plan, sums=tmp_path / "third")
    with pytest.raises(ConfigError, match="no longer have"):
        fit(first, small_plan, sums=tmp_path / "sums")
    with pytest.raises(ConfigError, match="another fit"):
        fit(both, replace(small_plan, landmarks=LandmarkPlan(count=50)), sums=tmp_path / "sums")
    several = KernelPlan(length_scales="2x", alphas=(0.5, 1.0))
    with pytest.raises(ConfigError, match="one length scale"):
        fit(both, replace(small_plan, kernel=several), sums=tmp_path / "new")


def test_precision_of_energy_rows_is_the_plans(store, small_plan):
    """Elements of float32 in energy rows move the energies; those of derivative rows are float32 unless asked."""
    plans = {
        name: replace(small_plan, rows=RowPlan(weights={"force": 1e-3}, **given))
        for name, given in (
            ("default", {}),
            ("same", {"energy_precision": "float64", "derivative_precision": "float32"}),
            ("single", {"energy_precision": "float32"}),
            ("double", {"derivative_precision": "float64"}),
        )
    }
    found = {name: fit(store, plan).model.coefficients for name, plan in plans.items()}
    assert torch.equal(found["same"], found["default"])
    assert not torch.equal(found["single"], found["default"])
    assert not torch.equal(found["double"], found["default"])
    data = FitData.open(store, plans["single"])
    (problem,) = data.family(Choice("scale-per-species", "composition", LengthScale(2.0)), None)
    for batch, block in zip(data.energies, problem.rows(data.source, {RowKind.ENERGY}), strict=True):
        expected = problem.kernel.rows(batch, problem.landmarks, torch.float32)
        assert torch.equal(block.rows, expected)
        assert not torch.equal(block.rows, problem.kernel.rows(batch, problem.landmarks))


class Iterations(Silent):
    """Steps that a solver tells of, after some of which it asks the job to stop."""

    def __init__(self, stop=None, after=3):
        self.stop, self.after, self.stage_now, self.steps = stop, after, "", []

    def stage(self, name, total=None, unit=""):
        self.stage_now = name

    def advance(self, steps=1):
        if self.stage_now == "iterations":
            self.steps.append(steps)
            if self.stop is not None and len(self.steps) > self.after:
                self.stop.asked = True


def test_a_fit_with_a_mixing_matrix_goes_on_from_its_state(store, small_plan, tmp_path):
    """Its state was refused as another fit's: the matrix stood in it as an alpha that is not a number."""
    matrix = {"H": (1.0, 0.3, 0.2), "C": (0.3, 1.0, 0.5), "O": (0.2, 0.5, 1.0)}
    plan = replace(
        small_plan,
        kernel=KernelPlan(length_scales="2x", mixing=matrix),
        rows=RowPlan(weights={"force": 1e-2}),
        solver=Falkon((1e-6,), max_steps=30),
    )
    whole = fit(store, plan)
    assert whole.model.kernel.mixing == SpeciesMixing(0.0, (1, 6, 8), tuple(matrix.values()))
    assert whole.chosen.alpha is None
    first = Checkpoint(tmp_path / "kept", {}, interval=0.0)
    with pytest.raises(StoppedError):
        fit(store, plan, Iterations(first.stop), checkpoint=first)
    seen = Iterations()
    again = fit(store, plan, seen, checkpoint=Checkpoint(tmp_path / "kept", {}, interval=0.0))
    assert seen.steps[0] >= 3
    assert torch.equal(again.model.coefficients, whole.model.coefficients)
    changed = {**matrix, "H": (1.0, 0.3, 0.1), "O": (0.1, 0.5, 1.0)}
    other = replace(plan, kernel=KernelPlan(length_scales="2x", mixing=changed))
    with pytest.raises(ConfigError, match="another fit .*mixing"):
        fit(store, other, checkpoint=Checkpoint(tmp_path / "kept", {}))


def test_a_finished_candidate_is_not_solved_again(store, small_plan, tmp_path):
    """Its solution is taken from the checkpoint, with the weights that were chosen."""
    plan = replace(small_plan, kernel=KernelPlan(length_scales="2x", alphas=(0.0, 1.0)))
    kept = Checkpoint(tmp_path / "kept", {}, interval=0.0)
    first = fit(store, plan, checkpoint=kept)
    names = sorted(path.name for path in (tmp_path / "kept").glob("*solution.safetensors"))
    assert names == ["trial0-alpha0-solution.safetensors", "trial0-alpha1-solution.safetensors"]
    second = fit(store, plan, checkpoint=Checkpoint(tmp_path / "kept", {}, interval=0.0))
    assert second.solution.weights == first.solution.weights
    assert second.solution.effort == first.solution.effort  # seconds too: nothing was solved
    assert torch.equal(second.model.coefficients, first.model.coefficients)
    torch.testing.assert_close(second.model.posterior.factor, first.model.posterior.factor)

"""Calibration against refits without each fold, by dense algebra."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.models import Calibration, RawVariance, mean_factor
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan, RowPlan, fit
from mekrr_scale.pipeline.fitting import FitData, calibrate
from mekrr_scale.pipeline.fitting.data import Choice
from mekrr_scale.pipeline.fitting.origins import bases_without_own
from mekrr_scale.regression import Precision, Problem, Run
from mekrr_scale.solvers import Direct
from mekrr_scale.store import FeatureStore, FeatureWriter
from tests import reference

ENERGY, FORCE = RowKind.ENERGY, RowKind.FORCE


@pytest.fixture(scope="module")
def parts(store, small_plan):
    """Problem and solution of the shared fit at one ridge and one force weight."""
    plan = replace(
        small_plan, landmarks=25, solver=Direct((1e-5,)), rows=RowPlan(weights={"force": 0.01, "stress": 0.0})
    )
    data = FitData.open(store, plan)
    choice = Choice("scale-per-species", "composition", plan.kernel.length_scales[0])
    (problem,) = data.family(choice, data.folds())
    problem = replace(problem, precision=Precision(derivative=torch.float64))
    solution = plan.solver.solve(problem, data.source)
    return data, problem, solution


def refit(problem: Problem, rows, fold):
    """Gram matrix in the whitened basis, coefficients and reference energies without a fold."""
    weights = ByKind.of({ENERGY: 1.0, FORCE: 0.01}, 0.0)
    gram = reference.landmark_gram(problem.kernel, problem.landmarks)
    coefficients, references = reference.dense_fit(rows, gram, weights, 1e-5, fold)
    kept = [row for row in rows if row["fold"] != fold]
    root = torch.tensor([weights[row["kind"]] * row["weight"] for row in kept], dtype=torch.float64).sqrt()
    weighted = torch.tensor([row["phi"] for row in kept], dtype=torch.float64) * root[:, None]
    phi = problem.whitening().rows(weighted)
    return phi.T @ phi, coefficients, references, weighted.T @ weighted


def dense(problem, data):
    """All rows, structure by structure, from the problem's own blocks (which other tests compare with loops)."""
    rows = []
    for block in problem.rows(data.source, {ENERGY, FORCE}):
        residual = block.target + (block.counts @ problem.baseline.energies) * block.scale
        rows += [
            {
                "kind": block.kind, "phi": block.rows[i].tolist(), "label": float(residual[i] / block.scale[i]),
                "counts": block.counts[i], "scale": float(block.scale[i]), "weight": float(block.weight[i]),
                "share": float(block.share[i]), "fold": int(block.fold[i]),
            }
            for i in range(len(block.target))
        ]  # fmt: skip
    return rows


def folds_of(problem, batches):
    """For each landmark the fold of the atom that it is."""
    found = []
    for feature, z in zip(problem.landmarks.features, problem.landmarks.species.tolist(), strict=True):
        for batch in batches:
            for run in (run for run in batch.runs if run.z == z):
                for i, fold in enumerate(problem.fold_of(batch).tolist()):
                    own = run.features[int(run.ptr[i]) : int(run.ptr[i + 1])]
                    found += [fold] if bool((own == feature).all(1).any()) else []
    return torch.tensor(found)


def test_calibration_is_that_of_refits(parts):
    """Errors and variances of every structure are those of a model that was fitted without its fold, landmarks too."""
    data, problem, solution = parts
    found = calibrate(problem, solution, data, Run())
    rows, whitening = dense(problem, data), problem.whitening()
    batches = list(FeatureStore(data.stores[0].path, tangents=True))
    errors = {ENERGY: [], FORCE: []}
    variances, ordered = {ENERGY: [], FORCE: []}, {ENERGY: [], FORCE: []}
    priors = {ENERGY: torch.cat([problem.kernel.diagonal(batch) for batch in batches])}
    known = torch.cat([(b.directions.kind == int(FORCE)) & ~b.directions.label.isnan() for b in batches])
    priors[FORCE] = torch.cat([problem.kernel.derivative_diagonal(batch) for batch in batches])[known]
    grams = []
    gram_of_all, origin = reference.landmark_gram(problem.kernel, problem.landmarks), folds_of(problem, batches)
    assert len(origin) == problem.landmarks.n_sets, "some landmark is an atom of two structures, or of none"
    for fold in range(3):
        others = origin != fold
        gram, coefficients, references, normal = refit(problem, rows, fold)
        grams.append(gram)
        inner = gram_of_all[others][:, others]
        opened = torch.linalg.pinv(normal[others][:, others] + 1e-5 * inner, hermitian=True, rtol=1e-14)
        for kind in (ENERGY, FORCE):
            of_kind = [row for row in rows if row["kind"] == kind]
            places = [i for i, row in enumerate(of_kind) if row["fold"] == fold]
            phi = torch.tensor([of_kind[i]["phi"] for i in places], dtype=torch.float64)
            residual = [reference.dense_residual(of_kind[i], references) for i in places]
            errors[kind].append(torch.tensor(residual, dtype=torch.float64) - phi @ coefficients)
            inverse = torch.linalg.pinv(inner, hermitian=True, rtol=1e-11)
            explained, left_open = (((phi[:, others] @ m) * phi[:, others]).sum(1) for m in (inverse, 1e-5 * opened))
            ordered[kind].append(priors[kind][places])
            variances[kind].append(RawVariance(priors[kind][places] - explained, left_open))
    for kind, calibration in ((ENERGY, found.energy), (FORCE, found.force)):
        raw = RawVariance(torch.cat([v.outside for v in variances[kind]]), torch.cat([v.open for v in variances[kind]]))
        expected = Calibration.of(
            torch.cat(errors[kind]), raw, float((raw.outside / torch.cat(ordered[kind])).median())
        )
        for name in ("within_68", "within_95", "outside_weight", "gaussian_68"):
            assert getattr(calibration, name) == pytest.approx(getattr(expected, name), rel=1e-4), (kind, name)
        assert calibration.count == expected.count
    total = sum(grams) / 2  # each row is in two of three
    shares = [(total, 0.5), *((gram, 0.5 / 3) for gram in grams)]
    probe = torch.tensor([row["phi"] for row in rows[:10]], dtype=torch.float64)
    expected = (probe @ mean_factor(shares, 1e-5, whitening)).square().sum(1)
    torch.testing.assert_close((probe @ found.factor).square().sum(1), expected, rtol=1e-5, atol=1e-12)


def test_variances_of_rows_in_single_precision_are_no_rounding(tmp_path):
    """A smooth kernel, whose values the landmarks explain nearly in full: what is left is below float32's rounding."""
    rng = np.random.default_rng(0)
    with FeatureWriter(tmp_path / "s", "own 1.0", dim=6, dtype="float64") as writer:
        for _ in range(120):
            features = rng.normal(size=(6, 6))
            writer.add(np.full(6, 6), features, energy=float(np.sin(features).sum()))
    found = {}
    for precision in ("float32", "float64"):
        plan = FitPlan(
            KernelPlan(length_scales="16x"), LandmarkPlan(count=120), solver=Direct((1e-6,)),
            rows=RowPlan(energy_precision=precision),
        )  # fmt: skip
        found[precision] = fit(FeatureStore(tmp_path / "s"), plan).model.posterior.energy
    for name in ("within_68", "within_95", "outside_weight"):
        assert getattr(found["float32"], name) == pytest.approx(
            getattr(found["float64"], name), rel=0.3
        )  # their errors differ, too


def test_a_fit_keeps_what_calibration_found(store, small_plan):
    plan = FitPlan(**{**vars(small_plan), "solver": Direct((1e-5,)), "rows": RowPlan(weights={"force": 0.01})})
    report = fit(store, plan)
    posterior = report.model.posterior
    assert posterior.energy.count == 24
    assert posterior.force.count == sum(int((b.directions.kind == 1).sum()) for b in FeatureStore(store, tangents=True))
    assert 0 < posterior.energy.within_68 <= posterior.energy.within_95


@pytest.mark.parametrize("kernel", [{"reduce": "sum", "alphas": 0.5}, {"reduce": "mean", "alphas": 0.5}])
def test_bases_without_the_landmarks_of_a_fold(store, small_plan, kernel):
    """Copies that are displaced go with their atoms, and both channels of ``mean`` with their landmarks."""
    plan = replace(
        small_plan, kernel=KernelPlan(length_scales="2x", **kernel),
        landmarks=LandmarkPlan(count=2 * FeatureStore(store).n_atoms, method="displaced"),
    )  # fmt: skip
    data = FitData.open(store, plan)
    (problem,) = data.family(Choice("scale-per-species", "composition", plan.kernel.length_scales[0]), data.folds())
    batches = list(FeatureStore(store))
    own = torch.cat([problem.kernel.rows(batch, problem.landmarks).double() for batch in batches])
    fold = torch.cat([problem.fold_of(batch) for batch in batches])
    gram = problem.kernel.gram(problem.landmarks)
    common = problem.whitening()
    found = list(bases_without_own(problem, data, common))
    columns = set()
    for number, basis in enumerate(found):
        kept = torch.cat([block.columns for block in basis.whitening.blocks]).sort().values
        inverse = torch.linalg.pinv(gram[kept][:, kept], hermitian=True, rtol=1e-11)
        explained = ((own[:, kept] @ inverse) * own[:, kept]).sum(1)
        torch.testing.assert_close(basis.whitening.rows(own).square().sum(1), explained, rtol=1e-3, atol=0)
        within = common.rows(own) @ basis.within
        torch.testing.assert_close(within.square().sum(1), explained, rtol=1e-3, atol=0)
        left_out = fold == number
        missed = 1 - basis.whitening.rows(own).square().sum(1) / common.rows(own).square().sum(1)
        assert missed[left_out].median() > 10 * missed[~left_out].median()
        columns |= set(range(problem.n_columns)) - set(kept.tolist())
    assert columns == set(range(problem.n_columns)), "each landmark is left out with one fold"

"""Transfer in the kernel: weights of stores, learned mixing of elements, landmarks of a source, tables."""

import json
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch

from mekrr_scale.arrays import RowKind
from mekrr_scale.errors import ConfigError, ModelError
from mekrr_scale.kernels import Transform
from mekrr_scale.landmarks import Uniform, Warm
from mekrr_scale.models import Model
from mekrr_scale.pipeline import (
    ExtractPlan,
    FitPlan,
    KernelPlan,
    LandmarkPlan,
    RowPlan,
    Validation,
    extract,
    fit,
    shifted_rmse,
)
from mekrr_scale.pipeline.fitting import FitData
from mekrr_scale.pipeline.fitting.mixing import learn_mixing
from mekrr_scale.progress import Silent
from mekrr_scale.regression import Problem
from mekrr_scale.solvers import Direct, Falkon
from mekrr_scale.store import FeatureStore, FeatureWriter

PLAN = FitPlan(
    kernel=KernelPlan(length_scales="2x", standardize="scale-per-species"),
    landmarks=LandmarkPlan(count=60),
    baseline="composition",
    solver=Direct((1e-8, 1e-6, 1e-4)),
    validation=3,
)


def test_weights_of_stores_multiply_rows(store, small_plan, fitted):
    """Rows of the second store count ten times, in the sums and in the cross-validated means."""
    problem = Problem(fitted.model.kernel, fitted.model.landmarks, fitted.model.baseline)
    plain = FitData.open([store, store], small_plan)
    weighted = FitData.open([store, store], replace(small_plan, rows=RowPlan(store_weights=(1.0, 10.0))))
    for kinds in ({RowKind.ENERGY}, {RowKind.FORCE, RowKind.STRESS}):
        pairs = [list(problem.rows(data.source, kinds)) for data in (plain, weighted)]
        half = len(pairs[0]) // 2
        for place, (before, after) in enumerate(zip(*pairs, strict=True)):
            assert after.kind in kinds
            factor = 1.0 if place < half else 10.0
            torch.testing.assert_close(after.weight, factor * before.weight)
            torch.testing.assert_close(after.share, factor * before.share)
            assert torch.equal(after.target, before.target)
    with pytest.raises(ConfigError, match="3 weights for 2 stores"):
        FitData.open([store, store], replace(small_plan, rows=RowPlan(store_weights=(1.0, 1.0, 1.0))))
    with pytest.raises(ConfigError, match="positive"):
        replace(small_plan, rows=RowPlan(store_weights=(0.0, 1.0)))


@pytest.fixture(scope="module")
def two_elements(tmp_path_factory):
    """Many structures of Si and few of Ge, whose energies are the same function of their features."""
    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("elements")

    def energy(features):
        return float(np.sin(2 * features[:, 0]).sum() + (features[:, 1] * features[:, 2]).sum())

    for z, count in ((14, 80), (32, 9)):
        with FeatureWriter(folder / str(z), "own 1.0", dim=3, dtype="float64") as writer:
            for _ in range(count):
                features = generator.normal(size=(4, 3))
                writer.add(np.full(4, z), features, energy=energy(features) + 4 * z)
    return folder / "14", folder / "32"


def test_mixing_is_learned(two_elements):
    kernel = KernelPlan(length_scales="2x", standardize="none")
    plan = replace(
        PLAN, kernel=kernel, landmarks=LandmarkPlan(count=150), rows=RowPlan(store_weights=(0.01, 1.0)),
        validation=Validation(folds=3, uncertainty=False),
    )  # fmt: skip
    apart = fit(two_elements, plan)
    learned = fit(two_elements, replace(plan, kernel=replace(kernel, mixing="learn")))
    matrix = np.array(learned.model.kernel.mixing.matrix)
    assert learned.model.kernel.mixing.species == (14, 32)
    assert matrix[0, 1] >= 0.7
    weighted = [min(line.rmse[RowKind.ENERGY] for line in report.tried) for report in (learned, apart)]
    assert weighted[0] < 0.7 * weighted[1], weighted
    loaded = FeatureStore(two_elements[1])
    assert np.isfinite(learned.model.energies(next(iter(loaded))).numpy()).all()


def test_search_for_a_matrix():
    """A known optimum is found within the last step; matrices that are not semi-definite are not tried."""
    target = torch.tensor([[1.0, 0.8, -0.3], [0.8, 1.0, 0.1], [-0.3, 0.1, 1.0]], dtype=torch.float64)

    def score(mixing):
        values = torch.tensor(mixing.matrix, dtype=torch.float64)
        assert float(torch.linalg.eigvalsh(values)[0]) > -1e-12
        return float((values - target).square().sum())

    found, reached = learn_mixing((1, 6, 8), 0.5, 10.0, score, Silent())
    assert np.abs(np.array(found.matrix) - target.numpy()).max() < 0.2
    assert reached == score(found)
    with pytest.raises(ConfigError, match="2 to 6 species"):
        learn_mixing((6,), 0.5, 1.0, score, Silent())
    learned = {"kernel": KernelPlan(length_scales="2x", mixing="learn")}
    wrong = (
        {"validation": Validation(folds=0), "solver": Direct((1e-6,))},
        {"kernel": KernelPlan(length_scales="2x", mixing="learn", reduce="mean")},
        {"solver": Falkon((1e-8, 1e-6, 1e-4))},
    )
    for change in wrong:
        with pytest.raises(ConfigError, match="mixing matrix is learned"):
            replace(PLAN, **{**learned, **change})


def test_warm_landmarks(store, model_file, tmp_path):
    """Those of the source, and new ones beside them; the source alone for none."""
    source = Model.load(model_file)
    data = FitData.open(store, PLAN)
    new = Uniform(20, seed=5).select(data.energies, source.kernel)
    both = Warm(source.landmarks, Uniform(20, seed=5)).select(data.energies, source.kernel)
    assert both.n_sets == source.landmarks.n_sets + 20
    rows = {tuple(row) for row in both.features.tolist()}
    for part in (source.landmarks, new):
        assert {tuple(row) for row in part.features.tolist()} <= rows
    assert (both.species.diff() >= 0).all()
    report = fit(store, replace(PLAN, landmarks=LandmarkPlan(count=0, model=model_file)))
    assert torch.equal(report.model.landmarks.features, source.landmarks.features)
    ten = replace(PLAN, landmarks=LandmarkPlan(count=10, model=model_file))
    assert fit(store, ten).model.landmarks.n_sets == both.n_sets - 10
    with FeatureWriter(tmp_path / "own", "own 1.0", dim=3) as writer:
        for i in range(4):
            writer.add(np.array([1]), np.full((1, 3), float(i)), energy=float(i))
    with pytest.raises(ModelError, match="another backbone"):
        fit(tmp_path / "own", replace(PLAN, landmarks=LandmarkPlan(count=60, model=model_file)))
    with pytest.raises(ConfigError, match="not by whole structures"):
        replace(PLAN, landmarks=LandmarkPlan(method="structures", model=model_file))


def test_warm_landmarks_of_other_elements(model_file, toy_structures, spec, tmp_path):
    """What the data have no statistics of is left out, and told if nothing is left."""
    source = Model.load(model_file)
    dim = source.landmarks.features.shape[1]

    def kernel(z):
        ones = torch.ones(1, dim, dtype=torch.float64)
        return replace(source.kernel, transform=Transform((z,), 0 * ones, ones))

    found = Warm(source.landmarks, None).select([], kernel(6))
    assert found.species.unique().tolist() == [6]
    assert torch.equal(found.features, source.landmarks.features[source.landmarks.species == 6])
    with pytest.raises(ConfigError, match="none can be taken"):
        Warm(source.landmarks, None).select([], kernel(14))
    dry = [atoms for atoms in toy_structures if 6 not in atoms.numbers]
    extract(dry, tmp_path / "dry", ExtractPlan(spec))
    plan = replace(
        PLAN, landmarks=LandmarkPlan(count=8, model=model_file), validation=Validation(folds=0), solver=Direct((1e-6,))
    )
    model = fit(tmp_path / "dry", plan).model
    others = int((source.landmarks.species != 6).sum())
    assert model.landmarks.n_sets == others + 8


def test_shifted_errors(fitted, toy_structures):
    """What is left when energies per element are fitted to the difference."""
    from mekrr_scale.models import Potential
    from mekrr_scale.pipeline import evaluate

    found = evaluate(Potential(fitted.model), toy_structures)
    counts = np.array([[(atoms.numbers == z).sum() for z in fitted.model.species] for atoms in toy_structures])
    assert np.array_equal(found.counts, counts)
    moved = replace(found, energy=found.energy + counts @ np.array([1.0, -2.0, 3.0]))
    assert shifted_rmse(moved) == pytest.approx(shifted_rmse(found), rel=1e-6)
    assert shifted_rmse(found) <= found.metrics()["energy_rmse"] + 1e-9


def test_commands(run, store, spec, toy_structures, toy_file, model_file, two_elements, tmp_path):
    code, out, err = run(
        "fit", "--store", two_elements[0], "--store", two_elements[1], "-o", "m.mekrr", "--store-weight", "0.01,1",
        "--mixing", "learn", "--landmarks", 60, "--standardize", "none", "--validate", 3,
    )  # fmt: skip
    assert code == 0, err
    assert "species mixing learned" in err
    assert run("fit", "--store", store, "-o", "w.mekrr", "--landmarks", 20, "--landmarks-from", model_file)[0] == 0
    waters = [atoms for atoms in toy_structures if set(atoms.get_chemical_symbols()) == {"H", "O"}]
    ase.io.write(tmp_path / "water.xyz", waters)
    extract("water.xyz", "f", ExtractPlan(spec, derivatives=4))
    fitting = ("fit", "--store", "f", "-o", "water.mekrr", "--landmarks", 15, "--validate", 2)
    assert run(*fitting)[0] == 0
    code, out, err = run(
        "evaluate", "water.mekrr", "water.xyz", "--transfer", f"{model_file}:{toy_file}", "--json", "t.json",
        "--transfer-plot", "t.png",
    )  # fmt: skip
    assert code == 0, err
    assert "Transfer: models (rows) on data (columns)" in out
    table = json.loads((tmp_path / "t.json").read_text())["transfer"]
    assert table["sources"] == ["water.mekrr", model_file.name]
    assert np.array(table["force_rmse"], dtype=float).shape == (2, 2)
    assert (tmp_path / "t.png").stat().st_size > 5000
    for arguments, message in (
        (("--transfer", "nonsense"), "write MODEL:DATA"),
        (("--transfer", f"{model_file}:none.xyz"), "there is no none.xyz"),
        (("--transfer-plot", "t.png"), "name others"),
    ):
        code, _, err = run("evaluate", "water.mekrr", "water.xyz", *arguments)
        assert code == 2
        assert message in err

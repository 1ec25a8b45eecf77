"""Whole sets: their shift, the interval of their mean error, and whether they are like what was fitted."""

import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.io import write

from mekrr_scale.models import Model, Posterior, Potential, SetCalibration, SetSums, Variances
from mekrr_scale.pipeline import Evaluation, evaluate, evaluate_store
from mekrr_scale.pipeline.evaluation import Shift
from mekrr_scale.store import FeatureStore


def evaluation(error, counts, **more):
    """Of errors per atom (eV) on structures of some composition."""
    n_atoms = counts.sum(1)
    nothing = np.empty((0, 3))
    return Evaluation(
        n_atoms=n_atoms, energy=np.zeros(len(error)), energy_predicted=error * n_atoms, baseline=np.zeros(len(error)),
        forces=nothing, forces_predicted=nothing, species=np.empty(0, np.int64), stress=np.empty((0, 6)),
        stress_predicted=np.empty((0, 6)), counts=counts, **more,
    )  # fmt: skip


def dense_shift(error, fractions):
    """The definition: least squares, and degrees of freedom by the rank."""
    solution, _, rank, _ = np.linalg.lstsq(fractions, error, rcond=1e-10)
    left = error - fractions @ solution
    return (
        rank,
        math.sqrt((left**2).sum() / (len(error) - rank)),
        np.abs(left).mean() * math.sqrt(len(error) / (len(error) - rank)),
    )


@pytest.mark.parametrize("elements", [1, 2, 3])
def test_a_shift_is_least_squares_on_the_composition(elements):
    generator = np.random.default_rng(elements)
    counts = generator.integers(1, 9, (40, elements))
    if elements == 3:
        counts[:, 2] = counts[:, 0]  # C and O of CO: two numbers, not three
    error = generator.normal(size=40)
    found = Shift.of(error, counts)
    rank, rmse, mae = dense_shift(error, counts / counts.sum(1, keepdims=True))
    assert found.parameters == rank == min(elements, 2)
    assert found.errors.rmse == pytest.approx(rmse, rel=1e-10)
    assert found.errors.mae == pytest.approx(mae, rel=1e-10)
    assert found.mean == pytest.approx(error.mean(), rel=1e-12)


def test_noise_is_no_shift():
    """Taken off noise, a shift lowers its RMSE in one set or another, but not on average."""
    generator = np.random.default_rng(7)
    squares = []
    for _ in range(400):
        counts = generator.integers(1, 9, (10, 2))
        squares.append(Shift.of(generator.normal(size=10), counts).errors.rmse ** 2)
    assert np.mean(squares) == pytest.approx(1.0, abs=4 * math.sqrt(2 / 8 / 400))


def test_few_structures_have_a_constant_shift_or_none():
    counts = np.array([[1, 2], [2, 1], [3, 1], [1, 1], [4, 1], [5, 1], [2, 3], [1, 5], [2, 5], [3, 7]])
    error = np.linspace(-1.0, 1.0, 10) + 3.0
    assert Shift.of(error[:4], counts[:4]) is None
    assert Shift.of(error[:9], counts[:9]).parameters == 1
    assert Shift.of(error, counts).parameters == 2
    assert Shift.of(error).errors.rmse == pytest.approx(error.std(ddof=1), rel=1e-12)
    assert "energy_shift" not in evaluation(error[:4], counts[:4]).metrics()


def test_each_set_has_its_shift():
    counts = np.full((12, 1), 2)
    error = np.where(np.arange(12) % 2, 0.004, -0.002) + 1e-4 * np.sin(np.arange(12.0))
    found = evaluation(error, counts, places=np.arange(12) % 2, set_names=("flat", "stepped"))
    flat, stepped = found.sets()
    assert flat.shift.mean == pytest.approx(error[::2].mean(), rel=1e-12)
    assert stepped.shift.mean == pytest.approx(error[1::2].mean(), rel=1e-12)
    assert stepped.shift.errors.rmse < 0.05 * stepped.errors.rmse
    assert found.metrics()["energy_rmse_beyond_shift"] > 20 * 1e3 * flat.shift.errors.rmse  # one shift does not do
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert list(told["sets"]) == ["flat", "stepped"]
    assert told["sets"]["flat"]["shift"]["energy"] == pytest.approx(1e3 * flat.shift.mean)
    assert told["set"]["structures"] == 12
    assert told["set"]["unlike"] is None  # without uncertainties nothing is said
    names, *rows = [line.split() for line in found.set_table().text().splitlines()[1:-1]]
    assert [row[0] for row in rows] == ["all", "flat", "stepped"]
    assert names[0] == "set"
    label = found.plot()[0].get_legend().get_texts()[0].get_text()
    count, errors, shift, left = label.splitlines()
    assert count == "evaluated, N = 12:"
    assert errors == f"MAE {1e3 * abs(error).mean():.3g}, RMSE {1e3 * (error**2).mean() ** 0.5:.3g} meV/atom"
    assert shift == f"without a shift of {1e3 * error.mean():.3g} meV/atom:"
    assert left.startswith("MAE ")
    assert left.endswith(" meV/atom")
    many = evaluation(
        np.arange(40.0), np.full((40, 1), 2), places=np.arange(40) // 2, set_names=[*"abcdefghijklmnopqrst"]
    )
    assert len(many.set_table().rows) == 13
    assert "8 sets" in many.set_table().caption


def test_the_interval_of_a_mean_is_that_of_the_dense_posterior(fitted, store):
    """|r A|^2 is the mean of all covariances, structure by structure."""
    model = fitted.model
    variances = Variances(model.kernel, model.landmarks, model.posterior)
    sums, rows, parts = SetSums.none(2, len(model.coefficients)), [], []
    for batch in FeatureStore(store):
        _, found = variances.with_rows(batch)
        sums.add(found, torch.zeros(len(found), dtype=torch.int64))
        size = batch.n_atoms.double()
        rows.append(model.kernel.rows(batch, model.landmarks) / size[:, None])
        parts.append(torch.stack([found.outside, found.open], 1))
    weight, factor = model.posterior.energy.outside_weight, model.posterior.factor
    phi, (outside, opened) = torch.cat(rows) @ factor, torch.cat(parts).T
    n = len(phi)
    covariance = phi @ phi.T + weight * outside.sqrt()[:, None] * outside.sqrt()
    torch.testing.assert_close(covariance.diagonal(), weight * outside + opened, rtol=1e-9, atol=0.0)
    expected = (1 - 1 / n) * covariance.mean() + covariance.diagonal().mean() / n
    assert float(sums.raw_deviations([factor], weight)[0]) == pytest.approx(float(expected.sqrt()), rel=1e-9)
    again = SetSums.of_table(sums.table).raw_deviations([factor], weight)
    assert float(again[0]) == pytest.approx(float(expected.sqrt()), rel=1e-12)
    assert bool(again[1].isnan())  # of no structure


def test_one_structure_is_a_set_of_its_own(model_file, toy_structures):
    found = evaluate(model_file, toy_structures[:1], uncertainty=True)
    posterior = Model.load(model_file).posterior
    own = float(found.energy_uncertainty[0] / found.n_atoms[0]) / posterior.energy.within_68
    assert found.mean_within_95[0] == pytest.approx(posterior.sets.within_95 * own, rel=1e-9)


def test_limits_come_from_what_folds_left_out():
    deviations = torch.tensor([1.0] * 50 + [9.0] * 50, dtype=torch.float64)
    fold = torch.tensor([0] * 50 + [1] * 50)
    found = SetCalibration.of(deviations, fold, torch.tensor([0.5, -3.0], dtype=torch.float64), 2.0)
    assert (found.within_95, found.limit, found.sets) == (3.0, 9.0, 2)
    few = torch.tensor([0] * 97 + [1] * 3)
    alike = SetCalibration.of(torch.where(few == 1, 9.0, 1.0).double(), few, torch.zeros(2).double(), 2.0)
    assert alike.limit == 9.0  # a group that was left out as a whole is no surprise, however small
    assert alike.within_95 == 2.0


def test_what_is_far_away_is_unlike_and_what_was_fitted_is_not(fitted, model_file, toy_structures, store, caplog):
    caplog.set_level(logging.WARNING, "mekrr_scale")
    like = evaluate(model_file, toy_structures, uncertainty=True)
    assert like.whole().unlike is False
    squeezed = []
    for atoms in toy_structures:
        copy = atoms.copy()
        copy.set_cell(atoms.cell * 0.7)
        copy.positions = atoms.positions * 0.7
        copy.calc = atoms.calc
        squeezed.append(copy)
    far = evaluate(model_file, squeezed, uncertainty=True)
    whole = far.whole()
    assert whole.unlike is True
    assert whole.sure.deviation > whole.sure.limit
    (line,) = far.warnings()
    assert "unlike the training data" in line
    assert "unlike the training data" in repr(far)
    assert line in far.to_dict()["remarks"]
    assert far.to_dict()["set"]["unlike"] is True
    assert evaluate(model_file, squeezed[:4], uncertainty=True).whole().unlike is None  # too few to say
    stored = evaluate_store(fitted.model, FeatureStore(store), uncertainty=True)
    assert stored.whole().unlike is False
    assert stored.mean_within_95[0] == pytest.approx(like.mean_within_95[0], rel=1e-3)


def test_labels_of_another_kind_are_told_from_foreign_structures(model_file, toy_structures):
    found = evaluate(model_file, toy_structures, uncertainty=True)
    other = replace(found, energy=found.energy + 1.0 * found.n_atoms)
    (line,) = other.warnings()
    assert "labels of another kind" in line
    assert other.whole().unlike is False


def test_files_of_one_name_are_sets_of_their_own(model_file, toy_structures, tmp_path):
    files = [tmp_path / "a" / "test.xyz", tmp_path / "b" / "test.xyz", tmp_path / "b" / "bulk.xyz"]
    for path, atoms in zip(files, toy_structures[:3], strict=True):
        path.parent.mkdir(exist_ok=True)
        write(path, atoms, format="extxyz")
    found = evaluate(model_file, files)
    assert found.set_names == (str(files[0]), str(files[1]), "bulk.xyz")
    assert [one.errors.count for one in found.sets()] == [1, 1, 1]


def test_files_and_groups_are_sets(run, model_file, toy_structures, tmp_path):
    for name, part in (("a", slice(0, 12)), ("b", slice(12, 24))):
        write(tmp_path / f"{name}.xyz", toy_structures[part], format="extxyz")
    potential = Potential(Model.load(model_file), dtype=torch.float64)
    found = evaluate(potential, [tmp_path / "a.xyz", tmp_path / "b.xyz"], uncertainty=True)
    assert found.set_names == ("a.xyz", "b.xyz")
    for one, part in zip(found.sets(), (slice(0, 12), slice(12, 24)), strict=True):
        alone = evaluate(potential, toy_structures[part], uncertainty=True)
        assert one.errors.rmse == pytest.approx(
            alone.errors()["energy"].rmse, rel=1e-4
        )  # positions in files are rounded
        assert one.sure.mean_within_95 == pytest.approx(alone.mean_within_95[0], rel=1e-4)
    code, out, err = run("evaluate", model_file, tmp_path / "a.xyz", "--group-key", "trajectory", "--json", "e.json")
    assert code == 0, err
    told = json.loads((tmp_path / "e.json").read_text())
    assert set(told["sets"]) == {f"run{i}" for i in range(6)}
    assert sum(one["structures"] for one in told["sets"].values()) == 12
    assert "run3" in out + err


def test_models_of_the_first_version_say_nothing_of_sets(fitted):
    posterior = fitted.model.posterior
    header = posterior.header()
    assert Posterior.of(header, posterior.factor).sets == posterior.sets
    del header["sets"]
    old = Posterior.of(header, posterior.factor)
    assert old.sets is None
    assert "sets" not in old.header()


def test_an_old_model_has_an_interval_of_the_mean_but_no_limits(fitted, store):
    old = replace(fitted.model, posterior=replace(fitted.model.posterior, sets=None))
    found = evaluate_store(old, FeatureStore(store), uncertainty=True)
    assert found.whole().unlike is None
    assert found.to_dict()["set"]["limit"] is None
    assert found.mean_within_95[0] > 0

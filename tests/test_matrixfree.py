"""Force rows as maps against the same rows made of stored tangents."""

import pytest
import torch
from ase.build import molecule

from mekrr_scale.arrays import RowKind
from mekrr_scale.backbones import load_backbone
from mekrr_scale.baselines import fit_baseline
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing
from mekrr_scale.landmarks import Uniform
from mekrr_scale.matrixfree import FreeForceRows
from mekrr_scale.pipeline import ExtractPlan, FitPlan, LengthScale, extract, fit
from mekrr_scale.potential import Potential
from mekrr_scale.progress import Silent
from mekrr_scale.rows import DerivativeRows, EnergyRows, Rows, assign_folds
from mekrr_scale.solvers import Direct, Falkon
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import LabelKeys, read_labels, read_structures
from mekrr_scale.transforms import fit_transform
from mekrr_scale.whitening import whiten


@pytest.fixture(scope="module")
def all_directions(toy_file, spec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores") / "all"
    extract(toy_file, folder, ExtractPlan(spec, derivatives="all", dtype="float64", shard_bytes=200_000))
    return FeatureStore(folder)


def problem(all_directions, spec, toy_file, reduce="sum", alpha=0.5):
    moved = FeatureStore(all_directions.path, tangents=True)
    kernel = SetKernel(Gaussian(3.0), SpeciesMixing(alpha), reduce, fit_transform(all_directions, "scale-per-species"))
    landmarks = Uniform(40).select(all_directions, kernel)
    baseline = fit_baseline(all_directions, "composition")
    folds = assign_folds(all_directions, 3)
    energies = EnergyRows(all_directions, kernel, landmarks, baseline, folds)
    stored = DerivativeRows(moved, kernel, landmarks, baseline, folds, torch.float64)
    backbone = load_backbone(spec).to(dtype=torch.float64)
    labelled = [(atoms, read_labels(atoms, LabelKeys())) for atoms in read_structures(toy_file)]
    free = FreeForceRows(labelled, backbone, kernel, landmarks, baseline, folds)
    return kernel, landmarks, baseline, energies, stored, free


def joined(rows):
    blocks = [block for block in rows if block.kind is RowKind.FORCE]
    matrix = torch.cat([block.matrix[torch.ones(len(block.target), dtype=torch.bool)] for block in blocks])
    return matrix, {
        name: torch.cat([getattr(block, name) for block in blocks])
        for name in ("target", "weight", "share", "scale", "fold")
    }


@pytest.mark.parametrize(("reduce", "alpha"), [("sum", 0.5), ("sum", 1.0), ("mean", 0.5)])
def test_maps_equal_stored_rows(all_directions, spec, toy_file, reduce, alpha):
    _, _, _, _, stored, free = problem(all_directions, spec, toy_file, reduce, alpha)
    expected, labels = joined(stored)
    made, others = joined(free)
    torch.testing.assert_close(made, expected, rtol=1e-7, atol=1e-10)
    for name, values in labels.items():
        torch.testing.assert_close(others[name], values, rtol=1e-9, atol=1e-12)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(expected.shape[1], 2, generator=generator, dtype=torch.float64)
    moves = torch.randn(expected.shape[0], 2, generator=generator, dtype=torch.float64)
    products = torch.cat([block.matrix @ vectors for block in free])
    torch.testing.assert_close(products, expected @ vectors, rtol=1e-7, atol=1e-9)
    start, pulled = 0, torch.zeros(expected.shape[1], 2, dtype=torch.float64)
    for block in free:
        stop = start + len(block.target)
        assert block.matrix.shape == (stop - start, expected.shape[1])
        pulled += block.matrix.T @ moves[start:stop]
        start = stop
    torch.testing.assert_close(pulled, expected.T @ moves, rtol=1e-7, atol=1e-9)


def test_falkon_gives_the_same_model(all_directions, spec, toy_file):
    """Stored float64 tangents and none at all: the same predictions to 1e-6."""
    kernel, landmarks, baseline, energies, stored, free = problem(all_directions, spec, toy_file)
    whitening = whiten(kernel.gram_blocks(landmarks))
    solver = Falkon((1e-5,), (1.0, 1e-2, 0.0), subset=0.5, rtol=1e-10, max_steps=200)
    first = solver.solve(Rows((energies, stored)), whitening, baseline)
    second = solver.solve(Rows((energies, free)), whitening, baseline)
    rows, _ = joined(stored)
    for matrix in (rows, next(iter(energies)).matrix):
        a, b = matrix @ first.value, matrix @ second.value
        assert float((a - b).abs().max() / a.abs().max()) < 1e-6
    direct = Direct((1e-5,), ((1.0, 1e-2, 0.0),)).solve(Rows((energies, stored)), whitening, baseline)
    a, b = rows @ direct.value, rows @ second.value
    assert float((a - b).abs().max() / a.abs().max()) < 1e-6


def test_cross_validated_errors_are_the_same(all_directions, spec, toy_file):
    kernel, landmarks, baseline, energies, stored, free = problem(all_directions, spec, toy_file)
    whitening = whiten(kernel.gram_blocks(landmarks))
    solver = Falkon((1e-4, 1e-3), (1.0, 1e-2, 0.0), subset=1.0, rtol=1e-8, max_steps=100)
    first = solver.solve(Rows((energies, stored)), whitening, baseline, 3)
    second = solver.solve(Rows((energies, free)), whitening, baseline, 3)
    for a, b in zip(first.path.points, second.path.points, strict=True):
        assert b.energy_rmse == pytest.approx(a.energy_rmse, rel=1e-5)
        assert b.force_rmse == pytest.approx(a.force_rmse, rel=1e-5)


def test_solvers_that_need_rows_say_so(all_directions, spec, toy_file):
    kernel, landmarks, baseline, energies, _, free = problem(all_directions, spec, toy_file)
    whitening = whiten(kernel.gram_blocks(landmarks))
    with pytest.raises(ConfigError, match="solve with Falkon"):
        Direct((1e-5,), ((1.0, 1e-2, 0.0),)).solve(Rows((energies, free)), whitening, baseline)


def test_fit_without_tangents(toy_file, spec, all_directions, tmp_path):
    """The whole job: a store of features alone, and the structures beside it."""
    folder = tmp_path / "plain"
    extract(toy_file, folder, ExtractPlan(spec, dtype="float64"))
    plan = FitPlan(
        n_landmarks=40, length_scales=(LengthScale(2.0),), baselines=("composition",), folds=0, solver="falkon",
        ridges=(1e-5,), force_weights=(1e-2,), falkon={"rtol": 1e-9, "subset": 0.5},
    )  # fmt: skip
    notes = []

    class Notes(Silent):
        def note(self, text):
            notes.append(text)

    free = fit(folder, plan, Notes(), read_structures(toy_file)).model
    assert "matrix-free" in notes[0]
    stored = fit(all_directions.path, plan).model
    atoms = next(read_structures(toy_file))
    predictions = [Potential(model, dtype=torch.float64).predict(atoms) for model in (free, stored)]
    # the pipeline makes stored rows with float32 elements
    torch.testing.assert_close(predictions[0].forces, predictions[1].forces, rtol=1e-3, atol=1e-4)
    with pytest.raises(ConfigError, match="without tangents"):
        fit(all_directions.path, plan, structures=read_structures(toy_file))
    with pytest.raises(ConfigError, match="none of the structures"):
        fit(folder, plan, structures=[molecule("H2O")])

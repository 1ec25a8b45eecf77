"""Fits on compressed stores: predictions from structures, kernels in coordinates and in the full space, refusals."""

from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch

from mekrr_scale.arrays import Compression, Landmarks, RowKind
from mekrr_scale.backbones import Directions, check_backbone, load_backbone, tangents, with_compression
from mekrr_scale.errors import BackboneError, ConfigError, ModelError
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, Transform, fit_transform
from mekrr_scale.landmarks import median_distance
from mekrr_scale.models import Model, Potential
from mekrr_scale.pipeline import (
    ExtractPlan,
    KernelPlan,
    LandmarkPlan,
    RowPlan,
    Validation,
    evaluate_store,
    extract,
    fit,
)
from mekrr_scale.pipeline.fitting.coordinates import Restored, restored
from mekrr_scale.simulation import Bounds, MdPlan, run_md
from mekrr_scale.solvers import Direct, Falkon
from mekrr_scale.store import Reduction, repack


@pytest.fixture(scope="module")
def small(toy_structures, spec, tmp_path_factory):
    """The toy structures along nine axes of each species."""
    plan = ExtractPlan(spec, derivatives=4, strain=True, dtype="float64", compress=9, group_key="trajectory")
    return extract(toy_structures, tmp_path_factory.mktemp("stores") / "small", plan).store


@pytest.fixture(scope="module")
def common(store, tmp_path_factory):
    """The toy store along nine common axes."""
    return repack(store, tmp_path_factory.mktemp("stores") / "common", reduction=Reduction(9, basis="common"))


@pytest.fixture(scope="module")
def small_model(small, small_plan):
    rows = RowPlan(weights={"force": 1e-2, "stress": 1e-2})
    return fit(small, replace(small_plan, rows=rows, validation=Validation(folds=3))).model


def full_space(run, axes):
    """What the coordinates of a run stand for, tangents too, without the code that is tested."""
    at = axes.species.index(run.z) if run.z in axes.species else 0
    basis, mean = axes.basis[at].numpy(), axes.mean[at].numpy()
    features = torch.from_numpy(run.features.numpy() @ basis.T + mean)
    moved = replace(run.tangents, features=torch.from_numpy(run.tangents.features.numpy() @ basis.T))
    return replace(run, features=features, tangents=moved)


@pytest.mark.parametrize(
    ("basis", "alpha", "standardize"),
    [("species", 1.0, k) for k in ("none", "centre", "centre-per-species", "scale-per-species")]
    + [("common", a, k) for a in (0.0, 0.4, 1.0) for k in ("none", "centre-per-species", "scale")],
)
def test_kernel_rows_are_those_of_what_the_coordinates_stand_for(small, common, basis, alpha, standardize):
    opened = replace(small if basis == "species" else common, tangents=True)
    axes, batches = opened.compression, list(opened)
    transform = fit_transform(batches, standardize, compression=axes)
    whole = [replace(batch, runs=tuple(full_space(run, axes) for run in batch.runs)) for batch in batches]
    slow = fit_transform(whole, standardize.replace("scale", "centre"))
    if standardize.startswith("scale"):
        spread = axes.spread[[axes.species.index(z) for z in slow.species]]
        slow = Transform(slow.species, slow.mean, spread)
    kernels = [SetKernel(Gaussian(3.0), SpeciesMixing(alpha), "sum", t) for t in (transform, slow)]
    first, landmarks = batches[0], []
    for batch in (first, whole[0]):
        features = torch.cat([run.features[:5] for run in batch.runs])
        species = torch.cat([torch.full((len(run.features[:5]),), run.z) for run in batch.runs])
        landmarks.append(Landmarks(features, species, torch.arange(len(species)), len(species)))
    for make in ("rows", "derivative_rows"):
        fast, expected = (
            getattr(kernel, make)(batch, at, torch.float64)
            for kernel, batch, at in zip(kernels, (first, whole[0]), landmarks, strict=True)
        )
        torch.testing.assert_close(fast, expected, rtol=1e-9, atol=1e-10)
    if basis == "species":  # length scales relative to the median of all pairs, whatever their species
        found = median_distance(Restored(batches, axes), restored(transform, axes), 0)
        assert found == pytest.approx(median_distance(whole, slow, 0), rel=1e-9)


def test_predictions_from_structures_are_those_of_the_store(small, small_model, toy_structures, tmp_path):
    small_model.save(tmp_path / "m.mekrr")
    model = Model.load(tmp_path / "m.mekrr")
    assert model.compression.hash == small.header.compression["hash"] == small_model.compression.hash
    potential = Potential(model, dtype="float64")
    batch = next(iter(replace(small, tangents=True)))
    ids = {int(n) for n in batch.ids}
    assert len(ids) == len(toy_structures)
    by_store = model.energies(batch)
    found = potential.predict(toy_structures, forces=True, stress=False)
    torch.testing.assert_close(found.energy, by_store, rtol=1e-7, atol=0)
    moved = toy_structures[0].copy()
    moved.positions[1, 2] += 1e-4
    up = float(potential.predict(moved, forces=False).energy[0])
    moved.positions[1, 2] -= 2e-4
    down = float(potential.predict(moved, forces=False).energy[0])
    assert float(found.forces[1, 2]) == pytest.approx(-(up - down) / 2e-4, rel=1e-5, abs=1e-7)
    cell = toy_structures[2]
    strained = cell.copy()
    energies = []
    for sign in (1, -1):
        strained.set_cell(cell.cell @ (np.eye(3) + sign * 1e-4 * np.diag([1, 0, 0])), scale_atoms=True)
        strained.positions[:] = cell.positions @ (np.eye(3) + sign * 1e-4 * np.diag([1, 0, 0]))
        energies.append(float(potential.predict(strained, forces=False).energy[0]))
    stress = potential.predict(cell, stress=True).stress[0, 0, 0]
    assert float(stress) == pytest.approx((energies[0] - energies[1]) / 2e-4 / cell.get_volume(), rel=1e-4, abs=1e-8)


def test_uncertainties_and_evaluation(small, store, small_model, toy_structures):
    potential = Potential(small_model, dtype="float64")
    sure = potential.uncertainty(toy_structures[:2], forces=True)
    assert bool((sure.energy > 0).all())
    assert bool(torch.isfinite(sure.forces).all())
    assert evaluate_store(small_model, small).metrics()["energy_rmse"] < 10
    with pytest.raises(ModelError, match=r"along other axes .* --compress and the folder of the"):
        evaluate_store(small_model, store)


def test_dynamics_and_landmarks_of_a_compressed_model(small, store, small_model, small_plan, toy_structures, tmp_path):
    small_model.save(tmp_path / "m.mekrr")
    start = toy_structures[0].copy()
    run_md(
        start, tmp_path / "m.mekrr", tmp_path / "run.xyz", MdPlan("nve", 2, 0.5, 50.0, interval=1, bounds=Bounds(None))
    )
    path = ase.io.read(tmp_path / "run.xyz", ":")
    own = Potential(small_model).predict([atoms.copy() for atoms in path], forces=False).energy
    np.testing.assert_allclose([atoms.info["predicted_energy"] for atoms in path], own.numpy(), rtol=1e-5)
    warm = replace(small_plan, landmarks=LandmarkPlan(count=5, model=tmp_path / "m.mekrr"))
    assert fit(small, warm).model.landmarks.n_sets > small_model.landmarks.n_sets
    with pytest.raises(ModelError, match="along other axes"):
        fit(store, warm)


def test_rows_of_stored_tangents_and_matrix_free_ones_are_one(toy_structures, spec, small_plan, tmp_path):
    molecules = [atoms for atoms in toy_structures if not atoms.pbc.any()][:4]
    first = ExtractPlan(spec, derivatives="all", dtype="float64", compress=9)
    moved = extract(molecules, tmp_path / "moved", first).store
    plain = extract(molecules, tmp_path / "plain", replace(first, derivatives="none", compress=str(moved.path))).store
    assert plain.compression.hash == moved.compression.hash
    plan = replace(
        small_plan,
        kernel=KernelPlan(length_scales="3"),
        landmarks=LandmarkPlan(count=8),
        rows=RowPlan(weights={"force": 1e-2}),
        solver=Falkon((1e-6,)),
    )
    plan = replace(plan, validation=Validation(folds=0))
    by_tangents = fit(moved, plan).model
    by_sweeps = fit(plain, plan, structures=molecules).model
    batch = next(iter(plain))
    torch.testing.assert_close(by_sweeps.energies(batch), by_tangents.energies(batch), rtol=0, atol=2e-4)


def test_tangents_of_coordinates(small, common, spec, toy_structures):
    check_backbone(with_compression(load_backbone(spec), common.compression), ("C", "O"))
    inner = load_backbone(spec).to(dtype=torch.float64)
    backbone = with_compression(inner, small.compression)
    assert with_compression(backbone, None) is inner
    graph = backbone.graph(toy_structures[1])
    moves = Directions.of_displacements(torch.eye(15, dtype=torch.float64)[:2].reshape(2, 5, 3))
    ahead, back = (tangents(backbone, graph, moves, mode).features for mode in ("forward", "reverse"))
    torch.testing.assert_close(ahead, back, rtol=1e-9, atol=1e-11)
    at = small.compression
    other = Compression(at.species, at.mean[:, :9], at.basis[:, :9], at.spread[:, :9])
    with pytest.raises(BackboneError, match="has 16 features, the compression takes 9"):
        with_compression(inner, other)


def test_kernels_that_compare_species_need_a_common_basis(small, common, store, small_plan, toy_structures):
    mixed = replace(small_plan, kernel=KernelPlan(length_scales="2x", alphas=(0.5,), standardize="centre-per-species"))
    with pytest.raises(ConfigError, match=r"axes of each species.* alpha = 0.5; take alpha = 1, or .*--basis common"):
        fit(small, mixed)
    learned = replace(small_plan, kernel=KernelPlan(length_scales="2x", mixing="learn"))
    with pytest.raises(ConfigError, match="the kernel has a mixing of species"):
        fit(small, learned)
    with pytest.raises(ConfigError, match="'scale-per-species' has no meaning along common axes; take 'scale' or"):
        fit(common, small_plan)
    with pytest.raises(ConfigError, match="'scale' has no meaning along each species' own axes"):
        fit(small, replace(small_plan, kernel=KernelPlan(standardize="scale")))
    model = fit(common, mixed).model
    assert model.compression.common
    batch = next(iter(common))
    found = Potential(model, dtype="float64").predict(toy_structures, forces=False).energy
    torch.testing.assert_close(found, model.energies(batch), rtol=1e-7, atol=0)


def test_little_is_lost(store, small_plan, tmp_path):
    """The cross-validated error is that of the whole features, where little of them is left out."""
    plan = replace(small_plan, solver=Direct((1e-6,)))
    few = repack(store, tmp_path / "few", reduction=Reduction(residual=1e-5))
    assert few.header.dim < 16
    errors = [fit(path, plan).tried[0].rmse[RowKind.ENERGY] for path in (store, few)]
    assert errors[1] == pytest.approx(errors[0], rel=0.05)

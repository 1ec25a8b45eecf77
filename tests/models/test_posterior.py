"""Variances against the dense Gaussian process, calibration, and what users get of both."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from mekrr_scale.arrays import ByKind, alone
from mekrr_scale.errors import ModelError
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, Transform
from mekrr_scale.landmarks import Uniform, WholeStructures
from mekrr_scale.models import (
    Calibration,
    MekrrCalculator,
    Model,
    Posterior,
    Potential,
    RawVariance,
    Variances,
    Whitening,
    WhiteningBlock,
    fit_baseline,
    mean_factor,
    posterior_factor,
    raw_variance,
    whiten,
)
from mekrr_scale.pipeline import ExtractPlan, FitPlan, RowPlan, Validation, extract, fit
from mekrr_scale.regression import Basis, Precision, Problem, Run, Source
from mekrr_scale.solvers import Direct
from mekrr_scale.store import FeatureStore
from tests import reference
from tests.crystals import crystals


@pytest.mark.parametrize(("reduce", "alpha"), [("sum", 0.0), ("sum", 0.4), ("mean", 0.4), ("mean", 1.0)])
def test_variance_equals_the_dense_gaussian_process(reduce, alpha):
    """With all training structures as landmarks: K(x,x) - k (K + lambda W^-1)^-1 k'."""
    batch, test = reference.random_batch(0, n_structures=20), reference.random_batch(9, n_structures=6)
    kernel = SetKernel(Gaussian(1.6), SpeciesMixing(alpha), reduce, Transform.identity(4))
    landmarks = WholeStructures().select([batch], kernel)
    structures, others = reference.structures_of(batch), reference.structures_of(test)
    gram, cross = (reference.dense_gram(kernel, s, structures) for s in (structures, others))
    ridge = 1e-3
    weight = torch.ones(20, dtype=torch.float64) if reduce == "mean" else batch.n_atoms.double() ** -2
    noisy = gram + ridge * torch.diag(1 / weight)
    own = torch.tensor([reference.set_kernel_value(kernel, x, x) for x in others], dtype=torch.float64)
    expected = own - (cross * torch.linalg.solve(noisy, cross.T).T).sum(1)
    whitening = whiten(kernel.gram_blocks(landmarks), 1e-12)
    phi = whitening.rows(gram)
    factor = posterior_factor((phi * weight[:, None]).T @ phi, ridge, whitening)
    found = raw_variance(kernel.rows(test, landmarks), kernel.diagonal(test), whitening, factor).total(1.0)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_variances_of_forces_in_the_basis_of_the_landmarks():
    """The same without whitening: k_uu - k K_ZZ^-1 k' + lambda k (K_Zn W K_nZ + lambda K_ZZ)^-1 k'."""
    batch, _ = reference.with_tangents(reference.random_batch(0, n_structures=12), 1)
    kernel = SetKernel(Gaussian(1.2), SpeciesMixing(0.4), "sum", Transform.identity(4))
    landmarks = Uniform(9).select([batch], kernel)
    ridge, weights = 1e-3, ByKind.from_list([1.0, 0.3, 0.2], 0.0)
    problem = Problem(
        kernel,
        landmarks,
        fit_baseline([batch], "composition"),
        weights=(weights,),
        basis=Basis(1e-13),
        precision=Precision(derivative=torch.float64),
    )
    rows = problem.rows(Source([batch], [batch]))
    inner = ridge * kernel.gram(landmarks)
    for block in rows:
        inner += (block.matrix * (weights[block.kind] * block.weight)[:, None]).T @ block.matrix
    moved = kernel.derivative_rows(batch, landmarks, torch.float64)
    outside = kernel.derivative_diagonal(batch)
    outside = outside - (moved * torch.linalg.solve(kernel.gram(landmarks), moved.T).T).sum(1)
    opened = ridge * (moved * torch.linalg.solve(inner, moved.T).T).sum(1)
    whitening = problem.whitening()
    moments = Direct().accumulate(problem, rows, whitening, Run())
    gram = sum(weights[kind] * parts[0].gram for kind, parts in moments.items() if parts[0].rows)
    factor = posterior_factor(gram, ridge, whitening)
    found = raw_variance(moved, kernel.derivative_diagonal(batch), whitening, factor)
    torch.testing.assert_close(found.outside, outside, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.open, opened, rtol=1e-6, atol=1e-10)


def test_posterior_factor_where_cholesky_fails():
    """A singular Gram matrix under a vanishing ridge: the projector on what no row has seen."""
    phi = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    eye, ones = torch.eye(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    identity = Whitening((WhiteningBlock(torch.arange(6), eye, ones),), 6)
    expected = eye - torch.linalg.pinv(phi) @ phi
    factor = posterior_factor(phi.T @ phi, 1e-13, identity)
    torch.testing.assert_close(factor @ factor.T, expected, rtol=0, atol=0.1)


def test_factors_where_cholesky_breaks_down():
    """An eigenvalue below zero by more than the ridge is taken for zero: ridge / (s + ridge) of each."""
    q, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    spectrum, ridge = torch.tensor([-1e-12, 1e-3, 1.0, 4.0], dtype=torch.float64), 1e-13
    gram, eye = q @ torch.diag(spectrum) @ q.T, torch.eye(4, dtype=torch.float64)
    assert int(torch.linalg.cholesky_ex(gram + ridge * eye).info) > 0
    identity = Whitening((WhiteningBlock(torch.arange(4), eye, torch.ones(4).double()),), 4)
    expected = q @ torch.diag(ridge / (spectrum.clamp_min(0.0) + ridge)) @ q.T
    factor = posterior_factor(gram, ridge, identity)
    torch.testing.assert_close(factor @ factor.T, expected, rtol=0, atol=1e-2)
    mean = mean_factor([(gram, 0.25), (eye, 0.75)], ridge, identity)
    torch.testing.assert_close(mean @ mean.T, 0.25 * expected, rtol=0, atol=1e-2)


def test_mean_of_variances():
    """The factor of a mean gives the mean of the variances of its parts."""
    generator = torch.Generator().manual_seed(1)
    batch = reference.random_batch(3, n_structures=6)
    kernel = SetKernel(Gaussian(1.5), SpeciesMixing(0.0), "sum", Transform.identity(4))
    landmarks = Uniform(5).select([batch], kernel)
    whitening = whiten(kernel.gram_blocks(landmarks), 1e-12)
    grams = []
    for rows in (2, 9):
        phi = torch.randn(rows, whitening.rank, generator=generator, dtype=torch.float64)
        grams.append(phi.T @ phi)
    rows, prior = kernel.rows(batch, landmarks), kernel.diagonal(batch)
    parts = [raw_variance(rows, prior, whitening, posterior_factor(g, 1e-3, whitening)).open for g in grams]
    mean = mean_factor([(grams[0], 0.3), (grams[1], 0.7)], 1e-3, whitening)
    found = raw_variance(rows, prior, whitening, mean).open
    torch.testing.assert_close(found, 0.3 * parts[0] + 0.7 * parts[1], rtol=1e-8, atol=1e-12)


def test_calibration_by_hand():
    """Of 99 ratios, the cubes of 1 to 99, the 68th and the 95th; 71 and 90 of them lie within 1 and 1.96 times their
    root mean square, 99^3 / sqrt(7) and a little."""
    spread = torch.tensor([1.0, 2.0, 0.5]).double().repeat(33)
    ratio = torch.arange(1.0, 100.0, dtype=torch.float64) ** 3
    found = Calibration.of(spread * ratio, RawVariance(torch.zeros(99).double(), spread.square()))
    assert (found.within_68, found.within_95) == (pytest.approx(68.0**3), pytest.approx(95.0**3))
    scale = float(ratio.square().mean().sqrt())
    assert 71**3 < scale < 72**3
    assert 90**3 < 1.96 * scale < 91**3
    assert (found.gaussian_68, found.gaussian_95) == (pytest.approx(71 / 99), pytest.approx(90 / 99))
    assert found.count == 99


def test_energies_and_forces_have_weights_of_their_own():
    """Of the outside part, each from its own calibration; forces without one take that of energies."""
    batch, _ = reference.with_tangents(reference.random_batch(0), 1)
    kernel = SetKernel(Gaussian(1.2), SpeciesMixing(0.4), "sum", Transform.identity(4))
    landmarks = Uniform(5).select([batch], kernel)
    whitening = whiten(kernel.gram_blocks(landmarks), 1e-11)
    factor = posterior_factor(torch.eye(whitening.rank, dtype=torch.float64), 1e-2, whitening)
    energy = Calibration(1.0, 2.0, 0.25, 100, 0.5, 0.68, 0.95)
    posterior = Posterior(factor, 1e-11, "eigen", energy, replace(energy, outside_weight=0.75), {})
    moved = kernel.derivative_rows(batch, landmarks, torch.float64)
    raw = raw_variance(moved, kernel.derivative_diagonal(batch), whitening, factor)
    assert float(raw.outside.max()) > 0.1 * float(raw.open.max())
    own = Variances.on(kernel, landmarks, posterior, "cpu")
    torch.testing.assert_close(own.directions(batch), raw.total(0.75))
    energies = Variances.on(kernel, landmarks, replace(posterior, force=None), "cpu")
    torch.testing.assert_close(energies.directions(batch), raw.total(0.25))
    raw = raw_variance(kernel.rows(batch, landmarks), kernel.diagonal(batch), whitening, factor)
    torch.testing.assert_close(own.structures(batch), raw.total(0.25))


def test_calibration_finds_the_quantiles():
    """Errors of known spread: intervals cover what they say, also where errors are not Gaussian."""
    generator = np.random.default_rng(0)
    for draw in (generator.normal, generator.laplace):
        spread = np.exp(generator.normal(size=4000))
        error = torch.from_numpy(3.0 * spread * draw(size=4000))
        raw = RawVariance(torch.full((4000,), 1e-9, dtype=torch.float64), torch.from_numpy(spread**2))
        found = Calibration.of(error[:2000], RawVariance(raw.outside[:2000], raw.open[:2000]))
        ratio = (error[2000:].abs() / raw.total(found.outside_weight)[2000:].sqrt()).numpy()
        assert np.mean(ratio < found.within_68) == pytest.approx(0.68, abs=0.04)
        assert np.mean(ratio < found.within_95) == pytest.approx(0.95, abs=0.02)
        assert found.spearman > 0.5
    assert Calibration.of(error[:19], RawVariance(raw.outside[:19], raw.open[:19])) is None


def test_the_outside_part_is_a_tenth_of_a_typical_variance_and_never_more_than_it_is():
    open_ = torch.linspace(1.0, 3.0, 21, dtype=torch.float64)
    for outside, weight in ((100.0, 0.002), (0.2, 1.0), (0.0, 1.0)):
        found = Calibration.of(open_.square(), RawVariance(torch.full_like(open_, outside), open_))
        assert found.outside_weight == pytest.approx(weight)


def test_uncertainty_of_structures(fitted, model_file, toy_structures):
    """Training structures are known, others less, strange ones least; the file keeps it all."""
    assert fitted.model.posterior is not None
    potential = Potential(Model.load(model_file), dtype=torch.float64)
    torch.testing.assert_close(potential.model.posterior.factor, fitted.model.posterior.factor)
    assert potential.model.posterior.thresholds == fitted.model.posterior.thresholds
    known = [atoms for atoms in toy_structures if len(atoms) < 10]
    strange = []
    for atoms in known:
        squeezed = atoms.copy()
        squeezed.positions *= 0.75
        strange.append(squeezed)
    inside, outside = potential.uncertainty(known), potential.uncertainty(strange)
    assert inside.energy.shape == (len(known),)
    assert inside.energies.shape == inside.grade.shape == (sum(map(len, known)),)
    assert float(outside.energy.median()) > 3 * float(inside.energy.median())
    assert float((inside.grade > 1).double().mean()) < 0.1
    assert float(outside.grade.max()) > 1
    assert inside.energy_ratio_95 > 1
    with_forces = potential.uncertainty(known[:2], forces=True)
    assert with_forces.forces.shape == (len(known[0]) + len(known[1]), 3)
    assert bool((with_forces.forces > 0).all())
    torch.testing.assert_close(with_forces.energy, inside.energy[:2])


@pytest.mark.parametrize("forces", [False, True])
def test_both_by_one_pass_are_those_of_two(model_file, toy_structures, forces):
    """Predictions and their intervals; features are made once."""
    potential = Potential(model_file)
    passes = []
    first, *_ = potential.backbone.blocks().values()
    first[0].register_forward_hook(lambda *_: passes.append(1))
    given = [atoms for atoms in toy_structures if atoms.pbc.any() or not forces]
    expected, sure = potential.predict(given, forces, stress=forces), potential.uncertainty(given)
    before = len(passes)
    found, judged = potential.predict_with_uncertainty(given, forces, stress=forces)
    assert len(passes) - before == before // 2 == 1
    for one, other in ((expected, found), (sure, judged)):
        for name in ("energy", "energies", "forces", "stress", "grade"):
            left, right = getattr(one, name, None), getattr(other, name, None)
            assert (left is None) == (right is None)
            if left is not None:
                torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-9)
    assert judged.energy_ratio_95 == sure.energy_ratio_95
    torch.testing.assert_close(judged.per_atom.outside, sure.per_atom.outside, rtol=1e-6, atol=1e-12)


def test_grades_of_few_data_tell_the_strange_from_the_new(crystal_store):
    """Where every atom is a landmark, too: what is new is not beyond, what is squeezed is."""
    plan = FitPlan(landmarks=500, baseline="composition", solver=Direct((1e-8,)), rows=RowPlan({"force": 0.01}))
    report = fit(crystal_store, plan)
    assert report.model.landmarks.n_sets > FeatureStore(crystal_store).n_atoms
    potential = Potential(report.model, dtype=torch.float64)
    new = crystals(20, 1)
    squeezed = [atoms.copy() for atoms in new]
    for atoms in squeezed:
        atoms.set_cell(0.8 * atoms.cell, scale_atoms=True)
    assert float((potential.uncertainty(new).grade > 1).double().mean()) < 0.05
    assert float(potential.uncertainty(squeezed).grade.min()) > 1


def test_force_uncertainty_of_structures_is_that_of_their_rows(fitted, toy_structures, spec, tmp_path):
    """Tangents made anew give the variances that those of a store give, component by component."""
    listed = [atoms for atoms in toy_structures if len(atoms) < 6][:3]
    extract(listed, tmp_path / "s", ExtractPlan(spec, derivatives="all", dtype="float64"))
    (batch,) = FeatureStore(tmp_path / "s", tangents=True)
    potential = Potential(fitted.model, dtype=torch.float64)
    raw = Variances(fitted.model.kernel, fitted.model.landmarks, fitted.model.posterior).directions(batch)
    expected = fitted.model.posterior.force.within_68 * raw.sqrt().reshape(-1, 3)
    found = potential.uncertainty(listed, forces=True)
    torch.testing.assert_close(found.forces, expected, rtol=1e-6, atol=1e-9)
    force = fitted.model.posterior.force
    assert found.force_ratio_95 == force.within_95 / force.within_68 > 1
    # a displacement of everything costs nothing and has no variance
    whole = Atoms("CO", positions=[(0, 0, 0), (0, 0, 1.15)])
    components = potential.uncertainty(whole, forces=True).forces
    assert float(components[:, :2].max()) < 1e-3 * float(components[:, 2].max())


def test_the_calculator_gives_the_potentials_uncertainty(fitted, toy_structures):
    atoms = toy_structures[1].copy()
    atoms.calc = MekrrCalculator(fitted.model, uncertainty=True, dtype="float64")
    atoms.get_potential_energy()
    expected = Potential(fitted.model, dtype=torch.float64).uncertainty(atoms)
    results = atoms.calc.results
    assert results["energy_uncertainty"] == pytest.approx(float(expected.energy[0]), rel=1e-6)
    np.testing.assert_allclose(results["energies_uncertainty"], expected.energies.numpy(), rtol=1e-6)
    np.testing.assert_allclose(results["extrapolation"], expected.grade.numpy(), rtol=1e-6)


def test_atoms_alone():
    features = torch.randn(5, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    species = torch.tensor([8, 1, 8, 1, 1])
    batch = alone(features, species)
    assert batch.n_structures == 5
    kernel = SetKernel(Gaussian(1.5), SpeciesMixing(0.3), "sum", Transform.identity(4))
    landmarks = Uniform(3).select([reference.random_batch(0, n_structures=4)], kernel)
    rows = kernel.rows(batch, landmarks)
    for i in range(5):
        single = kernel.rows(alone(features[i : i + 1], species[i : i + 1]), landmarks)
        torch.testing.assert_close(rows[i : i + 1], single)


def test_models_without_a_posterior_say_so(fitted, store, small_plan):
    bare = Potential(fit(store, replace(small_plan, validation=Validation(folds=3, uncertainty=False))).model)
    with pytest.raises(ModelError, match="uncertainty = true"):
        bare.uncertainty(molecule("H2O"))
    energies = Potential(fit(store, replace(small_plan, rows=RowPlan(derivatives=False))).model)
    with pytest.raises(ModelError, match="without forces"):
        energies.uncertainty(molecule("H2O"), forces=True)


def test_a_species_that_the_calibration_has_not_met_is_extrapolation():
    calibration = Calibration(1.0, 2.0, 1.0, 100, 0.5, 0.68, 0.95)
    kernel = SetKernel(Gaussian(1.5), SpeciesMixing(0.3), "sum", Transform.identity(4))
    landmarks = Uniform(3).select([reference.random_batch(0, n_structures=4)], kernel)
    posterior = Posterior(torch.zeros(3, 1).double(), 1e-11, "eigen", calibration, None, {1: 4.0, 6: 0.25})
    found = Variances(kernel, landmarks, posterior).grades(
        torch.tensor([1.0, 1.0, 1e-9, 0.0, 9.0]).double(), torch.tensor([1, 6, 8, 92, 1])
    )
    assert found.tolist() == [0.5, 2.0, torch.inf, torch.inf, 1.5]

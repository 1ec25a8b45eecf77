"""The parts of predictions add up, similarities are kernels, and users see both."""

import json

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.models import Model, Potential
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, evaluate, evaluate_store, extract, fit
from mekrr_scale.simulation import explain, totals
from mekrr_scale.solvers import Direct
from mekrr_scale.store import FeatureStore
from tests import reference
from tests.conftest import toy_energy


@pytest.fixture(scope="module")
def potential(model_file):
    return Potential(Model.load(model_file), dtype=torch.float64)


def test_parts_add_up_to_the_energy(potential, toy_structures):
    for atoms in toy_structures[:4]:
        found = explain(potential, atoms)
        whole = potential.predict(atoms, forces=False)
        assert float(found.energies.sum()) == pytest.approx(float(whole.energy[0]), rel=1e-12)
        rows = found.by_species()
        assert sum(count for count, _, _ in rows.values()) == len(atoms)
        parts = sum(total for _, total, _ in rows.values())
        assert parts == pytest.approx(float(found.contributions.sum()), abs=1e-9)


def test_similarities_are_normalised_kernels(potential, toy_structures):
    kernel, landmarks = potential.model.kernel, potential.model.landmarks
    atoms = toy_structures[1]
    found = explain(potential, atoms, nearest=4)
    features = potential.backbone.features(atoms)
    for a in (0, len(atoms) - 1):
        z = int(atoms.numbers[a])
        h = kernel.transform.apply(z, features[a : a + 1], torch.float64)[0]
        values = []
        for species, feature in zip(landmarks.species.tolist(), landmarks.features, strict=True):
            g = kernel.transform.apply(species, feature[None], torch.float64)[0]
            mixing = float(kernel.mixing.table([z], [species])[0, 0])
            norm = (
                reference.atom_kernel_value(kernel.atom, h, h) * reference.atom_kernel_value(kernel.atom, g, g)
            ) ** 0.5
            values.append(mixing * reference.atom_kernel_value(kernel.atom, h, g) / norm)
        expected = torch.tensor(values, dtype=torch.float64)
        torch.testing.assert_close(
            found.similarity[a], expected.sort(descending=True).values[:4], rtol=1e-8, atol=1e-10
        )
        torch.testing.assert_close(expected[found.landmarks[a]], found.similarity[a], rtol=1e-8, atol=1e-10)
    assert float(found.similarity.max()) <= 1 + 1e-9


def test_totals_over_structures(potential, toy_structures):
    found = [explain(potential, atoms) for atoms in toy_structures[:4]]
    rows = totals(found)
    parts = np.concatenate([f.contributions.numpy()[f.species.numpy() == 1] for f in found])
    assert rows["H"] == (len(parts), pytest.approx(parts.mean()), pytest.approx(parts.std()))


def test_evaluation_reports_coverage(potential, toy_structures, store):
    by_structures = evaluate(potential, toy_structures, uncertainty=True)
    by_store = evaluate_store(potential.model, FeatureStore(store), uncertainty=True)
    np.testing.assert_array_equal(by_store.energy, by_structures.energy)  # a store keeps the order of its input
    np.testing.assert_allclose(by_store.energy_uncertainty, by_structures.energy_uncertainty, rtol=1e-5)
    error = np.abs(by_structures.energy_predicted - by_structures.energy)
    held, ratio = by_structures.coverage(), by_structures.energy_ratio_95
    assert held["within_68"] == np.mean(error <= by_structures.energy_uncertainty)
    assert held["within_95"] == np.mean(error <= ratio * by_structures.energy_uncertainty)
    assert evaluate(potential, toy_structures[:3]).coverage() == {}


def test_mean_models_give_uncertainties_of_whole_energies(store, small_plan, toy_structures):
    from dataclasses import replace

    model = fit(store, replace(small_plan, kernel=KernelPlan(length_scales="2x", reduce="mean"))).model
    by_store = evaluate_store(model, FeatureStore(store), uncertainty=True)
    by_structures = evaluate(Potential(model, dtype=torch.float64), toy_structures, uncertainty=True)
    np.testing.assert_array_equal(by_store.energy, by_structures.energy)
    np.testing.assert_allclose(by_store.energy_uncertainty, by_structures.energy_uncertainty, rtol=1e-5)


def test_intervals_hold_what_they_say_on_fresh_structures(spec, tmp_path):
    """68 % and 95 % of the errors of structures that nothing was fitted to or calibrated on."""
    generator = np.random.default_rng(5)
    listed = []
    for i in range(330):
        atoms = molecule(["CH4", "H2O", "NH3"][i % 3])
        atoms.rattle(0.1, rng=generator)
        energy, _ = toy_energy(atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, free_energy=energy)
        listed.append(atoms)
    extract(listed[:150], tmp_path / "s", ExtractPlan(spec, dtype="float64"))
    plan = FitPlan(
        kernel={"length_scales": "2x", "standardize": "scale-per-species"},
        landmarks=120,
        baseline="composition",
        solver=Direct((1e-7, 1e-6, 1e-5)),
    )
    model = fit(tmp_path / "s", plan).model
    held = evaluate(Potential(model, dtype=torch.float64), listed[150:], uncertainty=True).coverage()
    assert held["within_68"] == pytest.approx(0.68, abs=0.1)
    assert held["within_95"] == pytest.approx(0.95, abs=0.05)


def test_command_line(run, model_file, toy_file, tmp_path):
    def done(*arguments):
        code, out, err = run(*arguments)
        assert code == 0, err
        return out

    shown = done("explain", model_file, toy_file, "-o", tmp_path / "parts.xyz", "--plot", tmp_path / "parts.png")
    assert "Contributions" in shown
    frame = ase.io.read(tmp_path / "parts.xyz", "0")
    assert frame.arrays["similarity"].shape == (len(frame), 3)
    assert frame.arrays["contribution"].shape == (len(frame),)
    assert (tmp_path / "parts.png").stat().st_size > 5000
    done("predict", model_file, toy_file, "-o", tmp_path / "predicted.xyz", "--uncertainty")
    frame = ase.io.read(tmp_path / "predicted.xyz", "0")
    assert frame.info["energy_uncertainty_95"] > frame.info["energy_uncertainty"] > 0
    assert frame.arrays["extrapolation"].shape == (len(frame),)
    shown = done("evaluate", model_file, toy_file, "--json", tmp_path / "errors.json")
    assert "68 % intervals" in shown
    assert json.loads((tmp_path / "errors.json").read_text())["uncertainty"]["within_95"] > 0.5

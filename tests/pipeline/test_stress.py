"""Fits to analytic virials: what a weight of stress buys, and that errors of stress are what a user would measure."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.models import Potential
from mekrr_scale.pipeline import ExtractPlan, RowPlan, Validation, evaluate, extract, fit
from mekrr_scale.pipeline.fitting import FitData
from mekrr_scale.pipeline.fitting.data import Choice
from mekrr_scale.solvers import Direct
from mekrr_scale.store import FeatureStore
from tests import reference
from tests.crystals import crystals, labelled

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


@pytest.fixture(scope="module")
def fresh():
    return crystals(10, 1)


def stress_by_differences(potential, atoms, step=1e-4):
    """dE/d(strain)/V of energies alone, in Voigt order."""
    found = []
    for a, b in VOIGT:
        ends = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += sign * step / 2
            strain[b, a] += sign * step / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            ends.append(float(potential.predict(moved, forces=False).energy[0]))
        found.append((ends[0] - ends[1]) / (2 * step * atoms.get_volume()))
    return np.array(found)


def test_a_weight_of_stress_lowers_its_error(crystal_store, crystal_plan, crystal_model, fresh):
    """On cells that were not fitted; by default stress is weighed, too, where there are labels."""

    def error(weights):
        plan = replace(crystal_plan, rows=RowPlan(weights=weights), validation=Validation(3, uncertainty=False))
        return evaluate(fit(crystal_store, plan).model, fresh).metrics()["stress_rmse"]

    left = 1e3 * np.sqrt(np.mean([atoms.get_stress() ** 2 for atoms in fresh]))  # by no stress at all
    without, usual = error({"force": 1e-2, "stress": 0.0}), error({"force": 1e-2})
    much = evaluate(crystal_model, fresh).metrics()["stress_rmse"]
    assert much < 0.6 * usual < 0.6 * without
    assert much < 0.02 * left


def test_errors_of_stress_are_those_of_the_energys_slopes(crystal_model, fresh):
    """Signs, order of components and units, by differences of energies, beside a molecule and a cell without labels."""
    potential = Potential(crystal_model, dtype=torch.float64)
    bare = fresh[0].copy()
    bare.calc = labelled(bare).calc
    del bare.calc.results["stress"]
    found = evaluate(potential, [bare, *fresh[:3]])
    slopes = np.stack([stress_by_differences(potential, atoms) for atoms in fresh[:3]])
    np.testing.assert_allclose(found.stress_predicted, slopes, atol=1e-7)
    difference = slopes - np.stack([labelled(atoms).get_stress() for atoms in fresh[:3]])
    assert found.metrics()["stress_rmse"] == pytest.approx(1e3 * np.sqrt((difference**2).mean()), rel=1e-4)
    assert found.metrics()["stress_mae"] == pytest.approx(1e3 * np.abs(difference).mean(), rel=1e-4)


def test_the_weights_of_the_plan_are_those_of_a_dense_fit(crystal_store, crystal_plan):
    """Energies, forces and stress, none with weight 1, by dense algebra."""
    weights = {"energy": 0.3, "force": 0.02, "stress": 0.5}
    plan = replace(
        crystal_plan, rows=RowPlan(weights=weights, derivative_precision="float64"), landmarks=20,
        solver=Direct((1e-6,)), validation=Validation(folds=0),
    )  # fmt: skip
    fitted = fit(crystal_store, plan)
    data = FitData.open(crystal_store, plan)
    (problem,) = data.family(Choice("scale-per-species", "composition", plan.kernel.length_scales[0]), None)
    rows = []
    for block in problem.rows(data.source, set(RowKind)):
        residual = block.target + (block.counts @ problem.baseline.energies) * block.scale
        rows += [
            {
                "kind": block.kind, "phi": block.rows[i].tolist(), "label": float(residual[i] / block.scale[i]),
                "counts": block.counts[i], "scale": float(block.scale[i]), "weight": float(block.weight[i]),
                "fold": 0,
            }
            for i in range(len(block.target))
        ]  # fmt: skip
    assert {row["kind"] for row in rows} == set(RowKind) - {RowKind.ELASTIC}
    gram = reference.landmark_gram(problem.kernel, problem.landmarks)
    told = ByKind.of({RowKind.ENERGY: 0.3, RowKind.FORCE: 0.02, RowKind.STRESS: 0.5}, 0.0)
    expected, references = reference.dense_fit(rows, gram, told, 1e-6)
    torch.testing.assert_close(fitted.model.baseline.energies, references, rtol=1e-9, atol=1e-9)
    for batch in FeatureStore(crystal_store):
        rows_of = problem.kernel.rows(batch, problem.landmarks)
        torch.testing.assert_close(rows_of @ fitted.model.coefficients, rows_of @ expected, rtol=1e-5, atol=1e-7)


def test_files_of_molecules_and_cells_keep_the_rows_of_stress(spec, toy_structures, tmp_path):
    """One molecule in a file took the stress of all its cells."""
    cells = crystals(3, 2)
    plan = ExtractPlan(spec, derivatives=1, strain=True, dtype="float64")
    extract([cells[0], toy_structures[0], *cells[1:], toy_structures[1]], tmp_path / "s", plan)
    labels = torch.cat([batch.directions.label[batch.directions.kind == int(RowKind.STRESS)]
                        for batch in FeatureStore(tmp_path / "s", tangents=True)])  # fmt: skip
    virials = np.concatenate([atoms.get_volume() * atoms.get_stress() for atoms in cells])
    np.testing.assert_allclose(labels.numpy(), virials, rtol=1e-9)

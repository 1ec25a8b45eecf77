"""Errors in one place: their definition, sums of streams, units, and the JSON in which users find them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mekrr_scale.models import Model, Potential
from mekrr_scale.pipeline import evaluate, evaluate_store, transfer_table
from mekrr_scale.regression import UNITS, Errors
from mekrr_scale.store import FeatureStore


def test_errors_are_their_definition():
    found = np.random.default_rng(0).normal(size=(7, 3))
    errors = Errors.of(found)
    assert errors.count == 21
    assert errors.mae == pytest.approx(sum(abs(x) for x in found.ravel()) / 21, rel=1e-14)
    assert errors.rmse == pytest.approx(math.sqrt(sum(x * x for x in found.ravel()) / 21), rel=1e-14)
    sums = Errors.of_sums(21, float(np.abs(found).sum()), float((found**2).sum()))
    assert sums.mae == pytest.approx(errors.mae, rel=1e-14)
    assert sums.rmse == pytest.approx(errors.rmse, rel=1e-14)
    for nothing in (Errors.of(np.empty((0, 3))), Errors.of_sums(0, 0.0, 0.0)):
        assert nothing.count == 0
        assert math.isnan(nothing.mae)
        assert math.isnan(nothing.rmse)


def test_units():
    assert {
        "energy": "meV/atom", "force": "meV/angstrom", "stress": "meV/angstrom^3", "virial": "meV/atom",
    }.items() <= {name: unit.text for name, unit in UNITS.items()}.items()  # fmt: skip
    assert (UNITS["stress"].short, UNITS["stress"].symbol) == ("meV/A^3", "meV/Å³")
    assert Errors.of(np.array([0.002])).scaled(UNITS["force"].factor) == Errors(1, 2.0, 2.0)


def test_an_evaluation_in_ev_and_as_shown(model_file, toy_structures, store):
    found = evaluate(Potential(Model.load(model_file), dtype=torch.float64), toy_structures)
    errors, metrics = found.errors(), found.metrics()
    assert set(errors) == {"energy", "force", "stress"}
    for name, value in errors.items():
        assert metrics[f"{name}_rmse"] == 1e3 * value.rmse
        assert metrics[f"{name}_mae"] == 1e3 * value.mae
    stored = evaluate_store(Model.load(model_file), FeatureStore(store))
    assert stored.errors()["energy"].rmse == pytest.approx(errors["energy"].rmse, rel=1e-5)
    assert stored.metrics()["energy_mae"] == pytest.approx(1e3 * stored.errors()["energy"].mae, rel=1e-14)
    listed = replace(stored, totals=None)
    assert listed.metrics() == pytest.approx(stored.metrics(), rel=1e-12)


def test_the_json_has_one_schema(run, model_file, toy_file, store, tmp_path):
    """The keys that docs/cli.md promises, of structures and stores alike."""
    common = {"schema", "metrics", "uncertainty", "forces_by_species", "isolated_atoms", "units", "rejected", "remarks"}
    common |= {"set", "sets"}
    for data, more in ((toy_file, ("--transfer", f"{model_file}:{toy_file}")), (store, ())):
        code, _, err = run("evaluate", model_file, data, "--json", "e.json", *more)
        assert code == 0, err
        found = json.loads((tmp_path / "e.json").read_text(), parse_constant=pytest.fail)
        assert set(found) == common | ({"transfer"} if more else set())
        assert found["schema"] == "mekrr-scale evaluation 1.0"
        units = {"energy": "meV/atom", "force": "meV/angstrom", "stress": "meV/angstrom^3"}
        assert units.items() <= found["units"].items()
        assert {"structures", "energy_mae", "energy_rmse"} <= set(found["metrics"])
        assert set(found["uncertainty"]) == {"within_68", "within_95", "rank_correlation"}
    assert found["forces_by_species"] == {}


def test_the_json_of_a_table(model_file, toy_structures):
    found = evaluate(Potential(Model.load(model_file)), toy_structures[:3])
    table = transfer_table(["a", "b"], ["x"], {(0, 0): found}).to_dict()
    assert table["energy_rmse"] == [[found.metrics()["energy_rmse"]], [None]]
    assert table["units"] == {"energy": "meV/atom", "force": "meV/angstrom"}
    assert json.loads(json.dumps(table, allow_nan=False)) == table

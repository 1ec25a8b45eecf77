"""A fit is known by what is in the files that its plan names, not by their names."""

from dataclasses import replace

import pytest
import torch

from mekrr_scale.backbones import load_backbone
from mekrr_scale.errors import ConfigError
from mekrr_scale.pipeline import ExtractPlan, FitPlan, LandmarkPlan, extract, fit
from mekrr_scale.pipeline.fitting.data import FitData
from mekrr_scale.pipeline.fitting.identity import identity
from mekrr_scale.store import FeatureStore


def changed(before, after):
    return {key for key in {*before, *after} if before.get(key) != after.get(key)}


def test_landmarks_of_another_model_under_the_same_name(store, fitted, tmp_path):
    path = tmp_path / "warm.mekrr"
    plan = FitPlan(landmarks=LandmarkPlan(model=path))
    fitted.model.save(path)
    before = identity(FitData.open(store, plan))
    fitted.model.save(path)
    assert identity(FitData.open(store, plan)) == before
    coefficients = fitted.model.coefficients + torch.ones(1, dtype=torch.float64)
    replace(fitted.model, coefficients=coefficients).save(path)
    assert changed(before, identity(FitData.open(store, plan))) == {"warm_content"}
    assert not any(key.endswith("_content") for key in identity(FitData.open(store, FitPlan())))  # as 0.1.0's


def test_sums_are_those_of_one_exponential(store, small_plan, tmp_path, monkeypatch):
    monkeypatch.setenv("MEKRR_SCALE_EXP", "torch")
    begun = fit(store, small_plan, sums=tmp_path / "sums")
    monkeypatch.setenv("MEKRR_SCALE_EXP", "numpy")
    with pytest.raises(ConfigError, match='exponential was "torch", now "numpy'):
        fit(store, small_plan, sums=tmp_path / "sums")
    other = fit(store, small_plan, sums=tmp_path / "other")
    assert not torch.equal(other.model.coefficients, begun.model.coefficients)
    for batch in FeatureStore(store):
        torch.testing.assert_close(begun.model.energies(batch), other.model.energies(batch), rtol=1e-6, atol=1e-6)


def test_structures_of_a_matrix_free_fit(toy_structures, spec, tmp_path):
    frames = toy_structures[:8]
    extract(frames, tmp_path / "s", ExtractPlan(spec), load_backbone(spec))
    plan = FitPlan(solver="falkon", baseline="composition")
    before = identity(FitData.open(tmp_path / "s", plan, frames))
    assert {"structures_content", "backbone_content"} <= before.keys()
    assert changed(before, identity(FitData.open(tmp_path / "s", plan, frames[:7]))) == {"structures_content"}

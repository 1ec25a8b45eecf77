"""A fit is known by what is in the files that its plan names, not by their names."""

from dataclasses import replace

import torch

from mekrr_scale.backbones import load_backbone
from mekrr_scale.pipeline import ExtractPlan, FitPlan, LandmarkPlan, extract
from mekrr_scale.pipeline.fitting.data import FitData
from mekrr_scale.pipeline.fitting.identity import identity


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


def test_structures_of_a_matrix_free_fit(toy_structures, spec, tmp_path):
    frames = toy_structures[:8]
    extract(frames, tmp_path / "s", ExtractPlan(spec), load_backbone(spec))
    plan = FitPlan(solver="falkon", baseline="composition")
    before = identity(FitData.open(tmp_path / "s", plan, frames))
    assert {"structures_content", "backbone_content"} <= before.keys()
    assert changed(before, identity(FitData.open(tmp_path / "s", plan, frames[:7]))) == {"structures_content"}

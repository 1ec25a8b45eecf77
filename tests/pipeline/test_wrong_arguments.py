"""Arguments of another kind are told in words, with what was expected and which part may have been meant."""

from __future__ import annotations

import jaxtyping
import pytest

import mekrr_scale as ms
from mekrr_scale.config import load_config
from mekrr_scale.pipeline import evaluate_store, resources


@pytest.fixture(autouse=True)
def as_users_call():
    """Without the type checks of the tests, which say it first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def given(fitted, store, toy_structures):
    potential = ms.Potential(fitted.model)
    return {
        "report": fitted,
        "model": fitted.model,
        "potential": potential,
        "calculator": ms.MekrrCalculator(fitted.model),
        "extraction": ms.ExtractReport(store=ms.open_store(store)),
        "store": ms.open_store(store),
        "atoms": toy_structures[0],
        "none": None,
        "number": 3,
    }


MODELS = {
    "load_model": ms.load_model,
    "Potential": ms.Potential,
    "MekrrCalculator": ms.MekrrCalculator,
    "check": ms.check,
    "evaluate": lambda model: ms.evaluate(model, []),
    "predict": lambda model: next(ms.predict(model, [])),
    "select": lambda model: ms.select(model, [], 1),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("report", "not FitReport; give its .model"),
        ("none", "not None$"),
        ("number", "not int$"),
        ("atoms", "not Atoms$"),
        ("store", "not FeatureStore$"),
    ],
)
def test_what_is_no_model(given, name, kind, said):
    with pytest.raises(ms.ModelError, match=f"^a model or the path of its file is expected, {said}"):
        MODELS[name](given[kind])


def test_what_holds_a_model(given):
    for called in (ms.MekrrCalculator, ms.check, lambda it: ms.relax(given["atoms"], it)):
        with pytest.raises(ms.ModelError, match=r"not Potential; give its \.model"):
            called(given["potential"])
    with pytest.raises(ms.ModelError, match=r"not MekrrCalculator; give its \.potential"):
        ms.evaluate(given["calculator"], [given["atoms"]])


def test_structure_and_model_the_other_way_round(given, tmp_path):
    for called in (ms.relax, lambda *both: ms.run_md(*both, tmp_path / "run.xyz")):
        with pytest.raises(ms.ModelError, match="not Atoms"):
            called(given["model"], given["atoms"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "said"),
    [("extraction", r"not ExtractReport; give its \.store"), ("none", "not None"), ("number", "not int")],
)
def test_what_is_no_store(given, kind, said):
    for called in (ms.fit, ms.open_store):
        with pytest.raises(ms.StoreError, match=said):
            called(given[kind])


def test_structures_are_no_store(given):
    with pytest.raises(ms.StoreError, match="a store or its folder is expected, not Atoms"):
        ms.fit([given["atoms"]])


@pytest.mark.parametrize("wrong", [3, None, [3], [None]])
def test_what_is_no_structure(given, spec, tmp_path, wrong):
    plan = ms.ExtractPlan(backbone=spec)
    calls = {
        "extract": lambda: ms.extract(wrong, tmp_path / "store", plan),
        "evaluate": lambda: ms.evaluate(given["potential"], wrong),
        "predict": lambda: list(ms.predict(given["potential"], wrong)),
        "tune": lambda: ms.tune(wrong, tmp_path / "tuned", ms.TunePlan(backbones=(spec,))),
    }
    for name, called in calls.items():
        with pytest.raises(ms.StructureError, match="a file or a structure .* is expected, not (int|None)"):
            pytest.fail(f"{name} took it: {called()}")
    assert not list(tmp_path.iterdir())


def test_what_is_no_plan(given, store, tmp_path):
    calls = {
        "FitPlan": lambda: ms.fit(store, {"seed": 1}),
        "ExtractPlan": lambda: ms.extract([given["atoms"]], tmp_path / "store", "chgnet"),
        "TunePlan": lambda: ms.tune([given["atoms"]], tmp_path / "tuned", "5m"),
        "MdPlan": lambda: ms.run_md(given["atoms"], given["model"], tmp_path / "run.xyz", 300),
        "TrainPlan": lambda: ms.finetune("schnet", [given["atoms"]], [given["atoms"]], 300),
    }
    for kind, called in calls.items():
        with pytest.raises(ms.ConfigError, match=f"a plan of the kind {kind} is expected, not (dict|str|int): "):
            called()
    with pytest.raises(ms.ConfigError, match="a LearnPlan or the path of its file is expected, not dict"):
        ms.learn({"seed": 1}, tmp_path)
    with pytest.raises(ms.ConfigError, match="a plan of the kind SamplePlan is expected, not int: 3"):
        ms.distill(given["model"], [given["atoms"]], folder=tmp_path / "student", sample=3)
    with pytest.raises(ms.ConfigError, match="the path of a configuration file is expected, not dict"):
        load_config({"seed": 1})
    assert not list(tmp_path.iterdir())


def test_what_is_no_backbone(given, spec, tmp_path):
    for wrong in (3, None, given["model"]):
        with pytest.raises(ms.BackboneError, match="a backbone's name or a BackboneSpec is expected"):
            ms.load_backbone(wrong)
    calls = (
        lambda: ms.Potential(given["model"], "schnet"),
        lambda: ms.extract([given["atoms"]], tmp_path / "store", ms.ExtractPlan(backbone=spec), "schnet"),
    )
    for called in calls:
        with pytest.raises(ms.BackboneError, match="a backbone, as load_backbone makes it, is expected, not str"):
            called()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ms.BackboneError, match=r"not Potential; give its \.backbone"):
        ms.Potential(given["model"], given["potential"])


def computing(given, folder, device):
    """All that is told where to compute."""
    model, store, atoms = given["model"], given["store"], given["atoms"]
    plan = ms.FitPlan(execution=ms.Execution(device=device))
    return {
        "Potential": lambda: ms.Potential(model, device=device),
        "MekrrCalculator": lambda: ms.MekrrCalculator(model, device=device),
        "check": lambda: ms.check(model, device=device),
        "evaluate": lambda: ms.evaluate(model, [atoms], device=device),
        "evaluate_store": lambda: evaluate_store(model, store, device=device),
        "predict": lambda: next(iter(ms.predict(model, [atoms], device=device))),
        "extract": lambda: ms.extract([atoms], folder / "store", ms.ExtractPlan(device=device)),
        "fit": lambda: ms.fit(store, plan),
        "resources": lambda: resources(store, plan),
        "tune": lambda: ms.tune([atoms], folder / "tuned", ms.TunePlan(device=device)),
        "distill": lambda: ms.distill(model, [atoms], "schnet-small", folder / "student", device=device),
        "a backbone": lambda: ms.load_backbone(ms.BackboneSpec("chgnet")).to(device),
    }


@pytest.mark.parametrize("device", ["gpu", "meta", "mps", "cuda:-1", "", "cuda:99"])
def test_where_torch_cannot_compute(given, tmp_path, device):
    for compute in computing(given, tmp_path, device).values():
        with pytest.raises(ms.ConfigError, match=f"^device '{device}': (torch|there are)"):
            compute()
    assert not list(tmp_path.iterdir())

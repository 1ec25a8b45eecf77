"""A tuning from the outside: what it writes, how it goes on, what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.config import load_config
from mekrr_scale.errors import BackboneError, ConfigError, StoreError, StructureError
from mekrr_scale.models import Potential, load_model
from mekrr_scale.pipeline import evaluate, fit
from mekrr_scale.progress import Silent
from mekrr_scale.tuning import TunePlan, tune
from mekrr_scale.tuning.features import Amount


def raising(error):
    def fails(*given, **named):
        raise error

    return fails


def scores(folder):
    return {path.name: path.read_bytes() for path in (folder / "steps").glob("*.json")}


def test_the_model_is_that_of_the_configuration(tuned):
    """The fit alone, from the file that was written, gives the same coefficients to the bit."""
    config = load_config(tuned.config)
    again = fit([*config.store], config.plan).model
    model = load_model(tuned.model)
    assert torch.equal(again.coefficients, model.coefficients)
    assert torch.equal(again.landmarks.features, model.landmarks.features)
    assert again.validation == model.validation
    assert config.output.endswith("model-again.mekrr")


def test_errors_are_those_of_the_model_on_frames_that_it_has_not_seen(tuned, molecules):
    found = evaluate(Potential(load_model(tuned.model)), molecules[14:]).metrics()
    assert tuned.tested == len(molecules) - 14
    for name in ("energy_mae", "energy_rmse", "force_mae", "force_rmse"):
        assert tuned.metrics[name] == pytest.approx(found[name], rel=1e-9)
    trained = evaluate(Potential(load_model(tuned.model)), molecules[:14]).metrics()
    assert found["force_rmse"] < 10 * trained["force_rmse"] + 100  # it has learned something of use


def test_the_best_of_the_race_wins(tuned, two_layers):
    last = max(score.frames for score in tuned.scores)
    final = [score for score in tuned.scores if score.frames == last]
    assert {score.arm.spec for score in tuned.scores} == set(two_layers)
    leaders = [score.arm for score in tuned.finals]
    assert min(final, key=lambda score: score.value).arm in leaders
    assert tuned.arm == min(tuned.finals, key=lambda score: score.value).arm
    assert [score.value for score in tuned.finals] == sorted(score.value for score in tuned.finals)


@pytest.mark.parametrize(("share", "count"), [(0.5, 2), (0.0, 1)])
def test_what_chance_may_have_put_behind_is_tried_in_full(
    tuned, molecules, tune_plan, tmp_path, monkeypatch, share, count
):
    """Where there is time for it; the best of them is taken."""
    monkeypatch.setattr("mekrr_scale.tuning.race.CHANCE", 100.0)
    monkeypatch.setattr("mekrr_scale.tuning.final.ANOTHER", share)
    report = tune(molecules[:14], tmp_path / "t", tune_plan, molecules[14:], Silent())
    assert len(report.finals) == count
    assert report.arm == report.finals[0].arm == min(report.finals, key=lambda score: score.value).arm
    assert {(one.frames, one.directions) for one in report.finals} == {(report.amount.frames, "all")}
    assert ("(of 2 that were tried in full)" in report.words()) == (count == 2)
    assert report.plot().get_legend() is not None


def test_everything_that_is_written_can_be_read(tuned):
    document = json.loads((tuned.folder / "tune.json").read_text())
    assert document["schema"] == "mekrr-scale tune 1.0"
    assert document["winner"]["layer"] == tuned.arm.spec.layer
    assert document["test"]["metrics"] == tuned.metrics
    assert len(document["race"]) == len(tuned.scores)
    assert [line["network"] for line in document["finals"]] == [score.arm.name for score in tuned.finals]
    for name in ("race.png", "parity.png"):
        assert (tuned.folder / name).read_bytes().startswith(b"\x89PNG")
    assert (tuned.folder / "summary.txt").read_text().strip() == tuned.words()
    assert tuned.arm.name in repr(tuned)
    assert "<table>" in tuned._repr_html_()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"limited": True}, "Time was the limit: more than 60 landmarks were not tried"),
        ({"data": {"frames": 20, "with_forces": 20}}, "Time was the limit: 6 frames were not used"),
        ({"amount": Amount(4, 8, [0, 4], [4, 9, 14])}, "14 frames (directions: 8 of 4)"),
        ({"amount": Amount(4, 8, [0, 4], [4, 9, 14])}, "Time was the limit: of 10 frames energies alone were used"),
        ({"data": {"frames": 14, "with_forces": 0}}, "There were no forces"),
        (
            {"steps": [{"landmarks": m, "compared": c} for m, c in ((9, 2.0), (18, 1.0), (18, 0.99))], "scores": 1},
            "Landmarks are the limit: the last increase took 50 % off",
        ),
        ({"scores": 1}, "One subset alone was tried"),
        ({"coverage": {"within_95": 0.5}}, "hold 50 % of the test's errors"),
        ({"warnings": ["all: this set is unlike"]}, "Test, all: this set is unlike."),
        ({"warnings": [f"{name}: unlike" for name in "abcde"]}, "Test, c: unlike. So is it with 2 more of its sets"),
    ],
)
def test_words_say_what_limits_the_error(tuned, changed, said):
    few = {"scores": tuned.scores[:1]} if "scores" in changed else {}
    assert said in replace(tuned, **{**changed, **few}).words()


class Interrupting(Silent):
    """Dies at the n-th thing that it is told."""

    def __init__(self, after):
        self.left = after

    def advance(self, steps=1):
        self.left -= 1
        if self.left <= 0:
            raise KeyboardInterrupt


def test_a_tuning_that_is_killed_goes_on(tuned, molecules, tune_plan, tmp_path):
    """Three times: what was scored stays as it was, to the byte; and with time enough the model is the same."""
    before = {}
    for after in (8, 30, 30):
        with pytest.raises(KeyboardInterrupt):
            tune(molecules[:14], tmp_path / "t", tune_plan, molecules[14:], Interrupting(after))
        now = scores(tmp_path / "t")
        assert before.items() <= now.items()
        before = now
    report = tune(molecules[:14], tmp_path / "t", tune_plan, molecules[14:], Silent())
    now = scores(tmp_path / "t")
    assert before.items() <= now.items()
    assert report.arm == tuned.arm
    assert torch.equal(load_model(report.model).coefficients, load_model(tuned.model).coefficients)
    assert report.seconds > sum(json.loads(text)["seconds"] for text in now.values()) * 0.9  # all processes together


def test_a_tuning_that_is_done_is_not_done_again(tuned, molecules, tune_plan, monkeypatch):
    before = scores(tuned.folder)
    for module in ("race.compare", "final.compare", "run.fit", "state.extract"):
        monkeypatch.setattr(f"mekrr_scale.tuning.{module}", None)
    again = tune(molecules[:14], tuned.folder, tune_plan, molecules[14:])
    assert scores(tuned.folder) == before
    assert again.words().partition("made in")[0] == tuned.words().partition("made in")[0]


def test_parts_race_and_the_whole_goes_on(tuned, molecules, tune_plan, tmp_path):
    for index in (1, 2):
        part = replace(tune_plan, part=(index, 2))
        assert tune(molecules[:14], tmp_path / "t", part, molecules[14:], Silent()) is None
    raced = {name: text for name, text in scores(tmp_path / "t").items() if name.startswith("score-")}
    assert {json.loads(text)["chosen"]["baseline"] for text in raced.values()} == {"composition"}
    report = tune(molecules[:14], tmp_path / "t", tune_plan, molecules[14:], Silent())
    assert raced.items() <= scores(tmp_path / "t").items()
    assert torch.equal(load_model(report.model).coefficients, load_model(tuned.model).coefficients)


def test_another_tuning_is_refused(tuned, molecules, tune_plan):
    before = scores(tuned.folder)
    with pytest.raises(ConfigError, match="other frames, seed; name another folder"):
        tune(molecules[:14], tuned.folder, replace(tune_plan, seed=1), molecules[14:])
    with pytest.raises(ConfigError, match="other frames"):
        tune(molecules[:13], tuned.folder, tune_plan, molecules[14:])
    assert scores(tuned.folder) == before


def changed(atoms, energy=0.0, **info):
    copy = atoms.copy()
    results = dict(atoms.calc.results)
    results |= {name: results[name] + energy for name in ("energy", "free_energy") if name in results}
    copy.calc = SinglePointCalculator(copy, **results)
    copy.info.update(info)
    return copy


@pytest.mark.parametrize("change", [{"energy": 0.5}, {"trajectory": "another"}, {"energy_weight": 2.0}])
def test_labels_that_were_corrected_are_another_tuning(tuned, molecules, tune_plan, change):
    """At the same geometries: a report of the old labels, or of both, would be wrong."""
    before = scores(tuned.folder)
    with pytest.raises(ConfigError, match="other frames; name another folder"):
        tune([changed(molecules[0], **change), *molecules[1:14]], tuned.folder, tune_plan, molecules[14:])
    with pytest.raises(ConfigError, match="other frames; name another folder"):
        tune(molecules[:14], tuned.folder, tune_plan, [*molecules[14:-1], changed(molecules[-1], **change)])
    assert scores(tuned.folder) == before


def test_what_could_not_be_loaded_is_asked_again(tuned, molecules, tune_plan, tmp_path, monkeypatch):
    """A network that was named and cannot be loaded ends the tuning, which goes on once that is mended."""
    with monkeypatch.context() as patch:
        patch.setattr("mekrr_scale.tuning.arms.load_backbone", raising(BackboneError("install it")))
        with pytest.raises(BackboneError, match="install it"):
            tune(molecules[:14], tmp_path / "t", tune_plan, molecules[14:], Silent())
    assert not scores(tmp_path / "t")
    report = tune(molecules[:14], tmp_path / "t", tune_plan, molecules[14:], Silent())
    assert report.arm == tuned.arm


def test_a_full_disk_is_no_fault_of_a_candidate(tuned, molecules, tune_plan, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("mekrr_scale.tuning.state.extract", raising(StoreError("free some space")))
        with pytest.raises(StoreError, match="free some space"):
            tune(molecules[:14], tmp_path / "t", tune_plan, molecules[14:], Silent())
    report = tune(molecules[:14], tmp_path / "t", tune_plan, molecules[14:], Silent())
    assert len(report.scores) == len(tuned.scores)
    assert report.arm == tuned.arm


@pytest.mark.parametrize("name", ["model.mekrr", "config.toml", "summary.txt"])
def test_files_of_another_are_not_replaced(molecules, tune_plan, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"is no folder of a tuning, and {name} would be replaced"):
        tune(molecules[:14], tmp_path, tune_plan, molecules[14:], Silent())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_longer_budget_is_the_same_tuning(tuned, molecules, tune_plan):
    report = tune(molecules[:14], tuned.folder, replace(tune_plan, budget=20000.0), molecules[14:])
    assert report.arm == tuned.arm


def test_a_damaged_step_is_made_again(tuned, molecules, tune_plan, tmp_path):
    folder = shutil.copytree(tuned.folder, tmp_path / "t")
    path = next((folder / "steps").glob("score-*.json"))
    was = json.loads(path.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    again = tune(molecules[:14], folder, tune_plan, molecules[14:], Silent())
    assert json.loads(path.read_text())["errors"] == was["errors"]
    assert again.validation == tuned.validation


def test_a_model_that_was_exchanged_is_told(tuned, molecules, tune_plan, tmp_path, model_file):
    folder = shutil.copytree(tuned.folder, tmp_path / "t")
    (folder / "model.mekrr").write_bytes(model_file.read_bytes())
    with pytest.raises(ConfigError, match="is not the model of this tuning any more"):
        tune(molecules[:14], folder, tune_plan, molecules[14:], Silent())


def test_energies_alone(molecules, tune_plan, tmp_path):
    plan = replace(tune_plan, backbones=tune_plan.backbones[:1], landmarks=20)
    bare = []
    for atoms in molecules:
        copy = atoms.copy()
        copy.info["energy_of_mine"] = atoms.get_potential_energy()
        bare.append(copy)
    report = tune(bare, tmp_path / "t", replace(plan, keys=replace(plan.keys, energy="energy_of_mine")))
    assert set(report.validation) == {"energy_rmse"}
    assert report.amount.directions == "none"
    assert "There were no forces to learn from" in report.words()
    assert report.metrics == {}  # eighteen frames: none to spare
    assert "nothing was chosen by" not in report.words()


def test_stress_is_learned_where_most_frames_have_one(spec, tmp_path):
    from tests.crystals import crystals

    frames = crystals(14, 0)
    plan = TunePlan(budget=600, backbones=(spec,), folds=3, landmarks=30, derivatives=2)
    report = tune(frames[:11], tmp_path / "t", plan, frames[11:], Silent())
    assert set(report.validation) == {"energy_rmse", "force_rmse", "stress_rmse"}
    assert "stress_rmse" in report.metrics
    assert report.amount.directions == 2


def test_nothing_to_learn_from_is_refused_before_anything_is_written(two_layers, tmp_path):
    with pytest.raises(StructureError):
        tune([], tmp_path / "t", TunePlan(backbones=two_layers))
    with pytest.raises(StructureError, match="no file"):
        tune(tmp_path / "none.xyz", tmp_path / "t", TunePlan(backbones=two_layers))
    assert not (tmp_path / "t").exists()

"""What a newcomer types, and the examples do not show: one structure, a stream, a file in place of an object."""

from itertools import islice

import pytest

import mekrr_scale as ms
from mekrr_scale.config import load_config
from mekrr_scale.progress import Silent


def test_structures_come_in_any_form(toy_structures, toy_file, spec, tmp_path):
    plan = ms.ExtractPlan(spec)
    stores = [
        ms.extract(given, tmp_path / name, plan).store
        for name, given in {
            "one": toy_structures[0],
            "list": toy_structures[:2],
            "stream": islice(ms.read_structures(toy_file), 2),
            "file": toy_file,
            "files": [toy_file],
        }.items()
    ]
    assert [store.n_structures for store in stores] == [1, 2, 2, 24, 24]


def test_a_simulation_takes_a_model_or_its_file(model_file, toy_structures, tmp_path):
    atoms = toy_structures[0]
    by = {"file": str(model_file), "model": ms.load_model(model_file), "calculator": ms.MekrrCalculator(model_file)}
    ends = [
        ms.run_md(atoms, given, tmp_path / f"{name}.xyz", ms.MdPlan(steps=3)).atoms.positions.tolist()
        for name, given in by.items()
    ]
    assert ends[0] == ends[1] == ends[2]
    relaxed = [ms.relax(atoms, given, force=1.0).positions.tolist() for given in by.values()]
    assert relaxed[0] == relaxed[1] == relaxed[2]


def test_a_layer_may_stand_behind_a_backbones_name():
    assert ms.BackboneSpec.parse("dimenet++") == ms.BackboneSpec("dimenet++")
    assert ms.load_backbone("chgnet:conv4").layer == ms.load_backbone("chgnet", layer="conv4").layer == "conv4"
    with pytest.raises(ms.BackboneError, match="no backbone 'chgnett'"):
        ms.load_backbone("chgnett:conv4")


def test_landmarks_may_be_a_number(tmp_path):
    assert ms.FitPlan(landmarks=70).landmarks == ms.LandmarkPlan(count=70)
    with pytest.warns(DeprecationWarning, match="balance"):
        assert ms.FitPlan(landmarks=70, balance="equal").landmarks == ms.LandmarkPlan(count=70, balance="equal")
    path = tmp_path / "fit.toml"
    path.write_text('store = "features"\nlandmarks = 70\n')
    assert load_config(path, {"landmarks.method": "farthest"}).plan.landmarks == ms.LandmarkPlan("farthest", 70)


def test_what_shows_itself_is_short(fitted, toy_structures, model_file):
    potential = ms.Potential(model_file)
    shown = (fitted, fitted.model, fitted.solution, potential, potential.backbone, potential.predict(toy_structures[0]))
    for item in shown:
        text = repr(item)
        assert "object at" not in text
        assert "tensor(" not in text
        assert len(text.splitlines()) < 12
        assert max(map(len, text.splitlines())) < 500


def test_bars_reach_their_ends(store, small_plan):
    class Counted(Silent):
        def __init__(self):
            self.stages = []

        def stage(self, name, total=None, unit=""):
            self.stages.append([name, total, 0])

        def advance(self, steps=1):
            self.stages[-1][2] += steps

    told = Counted()
    ms.fit(store, small_plan, told)
    assert [name for name, _, _ in told.stages] == ["fit", "uncertainty", "outliers"]
    assert all(done == total for _, total, done in told.stages), told.stages

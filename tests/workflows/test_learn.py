"""The loop: it grows, goes on after kills to the same end, waits for labels, and refuses what cannot be."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.distributed import Steps
from mekrr_scale.errors import ConfigError, StructureError
from mekrr_scale.labelling.journal import LabelJournal
from mekrr_scale.models import load_model
from mekrr_scale.progress import Silent
from mekrr_scale.store import open_store
from mekrr_scale.structures import LabelKeys, read_labels, read_structures
from mekrr_scale.workflows import LearnReport, learn, load_learn_plan


@pytest.fixture(scope="session")
def learned(loop_plan, tmp_path_factory):
    return learn(loop_plan, tmp_path_factory.mktemp("loops") / "loop", Silent())


def contents(folder):
    """All that a loop leaves, by name; of models what they predict from."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix in (".xyz", ".json") and "store" not in path.parts:
            found[name] = path.read_bytes()
        elif path.suffix == ".mekrr":
            found[name] = load_model(path).coefficients.numpy().tobytes()
    return found


def test_a_loop_keeps_every_generation_with_its_figures(learned, loop_plan):
    assert learned.state == "budget"
    assert [figures["frames"] for figures in learned.generations] == [24, 28]
    for k, figures in enumerate(learned.generations):
        folder = learned.folder / f"generation-{k:03d}"
        names = {path.name for path in folder.iterdir()}
        assert names >= {"selected.xyz", "labelled.xyz", "store", "model.mekrr", "explored", "figures.json", "steps"}
        assert json.loads((folder / "figures.json").read_text()) == json.loads(json.dumps(figures))
        assert figures["exceeded"]
        assert {run["temperature"] for run in figures["explored"]} == {800.0, 2000.0}
    assert "new" in learned.generations[1]
    last = load_model(learned.folder / "generation-001" / "model.mekrr")
    assert learned.model is not None
    np.testing.assert_array_equal(load_model(learned.model).coefficients, last.coefficients)
    assert len(learned.tables()[0].rows) == 2
    assert "raise generations" in learned.headline()
    assert json.loads((learned.folder / "learn.json").read_text())["state"] == "budget"


def test_only_new_frames_are_labelled_and_extracted(learned):
    assert open_store(learned.folder / "generation-001" / "store").n_structures == 4
    frames = list(read_structures(learned.folder / "generation-001" / "labelled.xyz"))
    assert len(frames) == 4
    for atoms in frames:
        given = read_labels(atoms, LabelKeys())
        atoms.calc = EMT()
        assert given.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)


def test_nothing_but_the_reference_leaves_labels(learned):
    """Neither frames to label nor trajectories hold anything that extraction would take for a label."""
    paths = [path for path in learned.folder.rglob("*.xyz") if path.name != "labelled.xyz"]
    assert {path.name for path in paths} >= {"selected.xyz", "run-000.xyz"}
    for path in paths:
        for atoms in read_structures(path):
            labels = read_labels(atoms, LabelKeys())
            assert (labels.energy, labels.forces, labels.stress) == (None, None, None)
            assert atoms.calc is None
    for atoms in read_structures(learned.folder / "generation-001" / "selected.xyz"):
        assert not [key for key in (*atoms.info, *atoms.arrays) if "energy" in str(key) or "force" in str(key)]


class Killed(BaseException):
    """Nothing catches it."""


PLACES = [
    *("label", "fit", "select"),
    *("before " + name for name in ("extract", "explore-001")),
]


@pytest.mark.parametrize("place", PLACES)
def test_killed_between_and_within_steps_the_end_is_the_same(place, learned, loop_plan, tmp_path, monkeypatch):
    """Killed in the second generation (select: in the third's), after a step's work or before it, and begun again."""
    folder = tmp_path / "loop"
    name = place.removeprefix("before ")
    number = 2 if name == "select" else 1
    usual = Steps.step

    def killed(self, step, make, output=None):
        if step == name and f"generation-{number:03d}" in str(self.folder) and not self.has(step):
            if not place.startswith("before"):
                make()
            raise Killed
        return usual(self, step, make, output)

    monkeypatch.setattr(Steps, "step", killed)
    with pytest.raises(Killed):
        learn(loop_plan, folder, Silent())
    monkeypatch.undo()
    report = learn(loop_plan, folder, Silent())
    assert report.state == "budget"
    assert contents(folder) == contents(learned.folder)


def test_killed_within_the_labelling_the_end_is_the_same(learned, loop_plan, tmp_path, monkeypatch):
    usual, count = LabelJournal.add, []

    def killed(self, index, result):
        count.append(index)
        if len(count) == 26:  # the second of the second generation
            raise Killed
        usual(self, index, result)

    monkeypatch.setattr(LabelJournal, "add", killed)
    with pytest.raises(Killed):
        learn(loop_plan, tmp_path / "loop", Silent())
    monkeypatch.undo()
    learn(loop_plan, tmp_path / "loop", Silent())
    assert contents(tmp_path / "loop") == contents(learned.folder)


def test_called_again_it_does_nothing_and_more_generations_go_on(learned, loop_plan, tmp_path, monkeypatch):
    folder = tmp_path / "loop"
    shutil.copytree(learned.folder, folder)
    before = contents(folder)
    with monkeypatch.context() as patch:
        for name in ("fit", "extract", "evaluate", "label"):
            patch.setattr(f"mekrr_scale.workflows.generation.{name}", None)
        assert learn(loop_plan, folder, Silent()).state == "budget"
    assert contents(folder) == before
    report = learn(replace(loop_plan, generations=3), folder, Silent())
    assert [figures["frames"] for figures in report.generations] == [24, 28, 32]


def test_another_plan_or_changed_files_are_refused(learned, loop_plan, tmp_path):
    folder = tmp_path / "loop"
    shutil.copytree(learned.folder, folder)
    with pytest.raises(ConfigError, match="other count"):
        learn(replace(loop_plan, count=5), folder, Silent())
    (folder / "generation-000" / "labelled.xyz").write_text("")
    with pytest.raises(ConfigError, match="not what was left there"):
        learn(loop_plan, folder, Silent())


def test_it_converges_where_the_grade_is_never_exceeded(loop_plan, tmp_path):
    plan = replace(loop_plan, explore=replace(loop_plan.explore, grade=1e6, force=1e6, temperatures=(100.0,), steps=4))
    report = learn(plan, tmp_path / "loop", Silent())
    assert (report.state, len(report.generations)) == ("converged", 1)
    assert "no run exceeded the grade" in report.headline()


def test_few_frames_are_explored_blindly(loop_plan, start_file, tmp_path):
    """Ten energies give no posterior: frames are taken evenly from short runs."""
    ase.io.write(tmp_path / "few.xyz", ase.io.read(start_file, ":10"), format="extxyz")
    plan = replace(
        loop_plan, frames=(tmp_path / "few.xyz",), count=10, explore=replace(loop_plan.explore, blind_steps=20)
    )
    report = learn(plan, tmp_path / "loop", Silent())
    first, second = (figures["explored"][0] for figures in report.generations)
    assert (first["asked"], first["largest_grade"]) == (20, None)
    assert second["largest_grade"] is not None
    assert [figures["frames"] for figures in report.generations] == [10, 20]


def test_somebody_else_labels(loop_plan, tmp_path):
    plan = replace(loop_plan, calculator=None, labels="wait", generations=1, keys=LabelKeys("dft_energy", "dft_forces"))
    folder = tmp_path / "loop"
    report = learn(plan, folder, Silent())
    assert report.state == "waiting"
    assert report.selected == folder / "generation-000" / "selected.xyz"
    assert report.waits_for == folder / "generation-000" / "labelled.xyz"
    assert str(report.waits_for) in report.headline()
    frames = list(read_structures(report.selected))
    wrong = [atoms.copy() for atoms in frames[:1]]
    ase.io.write(report.waits_for, wrong, format="extxyz")
    with pytest.raises(StructureError, match="dft_energy"):
        learn(plan, folder, Silent())
    for atoms in frames:
        atoms.calc = EMT()
        atoms.info["dft_energy"], atoms.arrays["dft_forces"] = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
    ase.io.write(report.waits_for, frames[1:], format="extxyz")  # one did not converge
    done = learn(plan, folder, Silent())
    assert done.state in ("budget", "converged")
    assert (done.generations[0]["labelled"], done.generations[0]["failed"]) == (23, 1)


def test_frames_that_bring_their_labels_are_taken_as_they_are(loop_plan, start_file, tmp_path):
    frames = ase.io.read(start_file, ":")
    for atoms in frames:
        atoms.calc = EMT()
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy() + 1.0, forces=atoms.get_forces())
    ase.io.write(tmp_path / "labelled.xyz", frames, format="extxyz")
    plan = replace(loop_plan, frames=(tmp_path / "labelled.xyz",), labelled=True, generations=1)
    report = learn(plan, tmp_path / "loop", Silent())
    first = next(read_structures(report.folder / "generation-000" / "labelled.xyz"))
    assert first.get_potential_energy() == pytest.approx(frames[0].get_potential_energy())
    with pytest.raises(ConfigError, match="has no energy"):
        learn(replace(loop_plan, labelled=True), tmp_path / "other", Silent())


TOML = """
frames = "start.xyz"
calculator = "emt"
[explore]
temperatures = [300]
[features]
backbone = { name = "chgnet" }
[fit.landmarks]
count = 50
"""


def test_a_plan_of_a_file(tmp_path):
    (tmp_path / "loop.toml").write_text(TOML)
    plan = load_learn_plan(tmp_path / "loop.toml")
    assert plan.frames == (str(tmp_path / "start.xyz"),)
    assert (plan.explore.temperatures, plan.features.backbone.name) == ((300.0,), "chgnet")
    assert (plan.features.derivatives, plan.fit.landmarks.count) == (16, 50)


def test_features_of_a_file_name_what_lies_beside_it(tmp_path, model_file):
    shutil.copyfile(model_file, tmp_path / "low.mekrr")
    path = tmp_path / "loop.toml"
    path.write_text(TOML.replace("[fit", 'prior = "low.mekrr"\ncompress = "axes"\n[fit'))
    plan = load_learn_plan(path)
    assert plan.features.prior.path == str(tmp_path / "low.mekrr")
    assert plan.features.compress == str(tmp_path / "axes")
    path.write_text(path.read_text().replace("low.mekrr", "chgnet").replace('"axes"', '"64"'))
    plan = load_learn_plan(path)
    assert (plan.features.prior.backbone.name, plan.features.compress) == ("chgnet", "64")


def test_some_of_a_files_frames_are_what_a_loop_begins_with(loop_plan, start_file, tmp_path, monkeypatch):
    """And what it is known by: other frames of the file are another loop."""
    begun = []

    def looped(loop, first):
        begun.append(len(first))
        return LearnReport(loop.folder, "budget", [])

    monkeypatch.setattr("mekrr_scale.workflows.learning.looped", looped)
    chosen = replace(loop_plan, frames=f"{start_file}@::3")
    for _ in range(2):
        learn(chosen, tmp_path / "loop", Silent())
    assert begun == [8, 8]
    with pytest.raises(ConfigError, match="files of frames"):
        learn(replace(loop_plan, frames=f"{start_file}@::4"), tmp_path / "loop", Silent())
    with pytest.raises(StructureError, match="there is no file nowhere.xyz"):
        learn(replace(loop_plan, test="nowhere.xyz"), tmp_path / "other", Silent())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("calculator", "calculater", "unknown key 'calculater'. Do you mean 'calculator'"),
        ("temperatures", "temprature", "unknown key 'explore.temprature'. Do you mean 'temperatures'"),
        ("count", "cuont", "unknown key 'fit.landmarks.cuont'. Do you mean 'count'"),
        ("name", "nome", "unknown key 'features.backbone.nome'. Do you mean 'name'"),
        ("[300]", "[-1]", "give positive numbers"),
        ("[300]", '"hot"', "numbers"),
        ('"emt"', "3", "calculator"),
        ('calculator = "emt"', "", "calculator is missing"),
        ('"emt"', '"emt"\nlabels = "wait"', "write one of the two"),
        ('"emt"', '"emt"\ngenerations = 0', "generations"),
        ("count = 50", "count = 50\n[fit.validation]\nfolds = 0", "folds"),
        ("[300]", "[300", "not valid TOML"),
    ],
)
def test_files_that_are_refused(old, new, message, tmp_path, run):
    (tmp_path / "loop.toml").write_text(TOML.replace(old, new))
    code, _, err = run("learn", "loop.toml")
    assert code == 2
    assert message in err
    assert not (tmp_path / "loop").exists()


def test_a_class_in_a_file_runs_no_code_without_trust(tmp_path, run, start_file, monkeypatch):
    asked = []
    monkeypatch.setattr("mekrr_scale.workflows.learning.CalculatorSpec.make", lambda self: asked.append(self.text))
    monkeypatch.setattr("mekrr_scale.workflows.learning.load_backbone", lambda spec: None)
    shutil.copy(start_file, tmp_path / "start.xyz")
    (tmp_path / "loop.toml").write_text(TOML.replace('"emt"', '"os:getcwd"'))
    code, _, err = run("learn", "loop.toml")
    assert code == 2
    assert "--trust-code" in err
    assert not asked
    monkeypatch.setattr("mekrr_scale.workflows.learning.looped", None, raising=False)
    assert run("learn", "loop.toml", "--trust-code")[0] == 70  # it went past the question
    assert asked == ["os:getcwd"]


def test_there_is_no_such_file(run):
    code, _, err = run("learn", "nowhere.toml")
    assert (code, "there is no configuration file" in err) == (2, True)
    assert not Path("nowhere").exists()

"""Folders of transfers: whose they are is looked at first, and what lies in them of others stays."""

import csv
import json
from dataclasses import replace

import pytest
from ase.io import read

from mekrr_scale.backbones import load_backbone
from mekrr_scale.errors import ConfigError
from mekrr_scale.files import Lock
from mekrr_scale.pipeline import FitPlan, LandmarkPlan, Validation
from mekrr_scale.transfer import (
    CurvePlan,
    StudentSpec,
    TrainPlan,
    Variant,
    distill,
    fit_kernel,
    read_examples,
    run_curve,
)


@pytest.fixture(scope="module")
def examples(toy_structures):
    return read_examples(toy_structures)


@pytest.fixture
def plan(spec):
    return CurvePlan(sizes=(4,), variants=(Variant("kernel"),), backbone=spec, repeats=1)


def test_a_curve_keeps_out_of_other_folders(examples, plan, checkpoint, tmp_path):
    sets = examples[:8], examples[8:10], examples[10:12]
    (tmp_path / "curve.csv").write_text("a user's own")
    with pytest.raises(ConfigError, match=r"holds curve\.csv, but is no folder of a curve"):
        run_curve(*sets, tmp_path, plan)
    (tmp_path / "curve.csv").unlink()
    lock = Lock(tmp_path / ".lock", "it")
    with pytest.raises(ConfigError, match="is being written by another run"):
        run_curve(*sets, tmp_path, plan)
    lock.release()
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        run_curve(*sets, checkpoint, plan)
    assert list(tmp_path.iterdir()) == []


def test_runs_of_earlier_calls_stay_in_the_table(examples, plan, tmp_path):
    sets = examples[:8], examples[8:10], examples[10:12]
    kernel = FitPlan(landmarks=LandmarkPlan(count=5), validation=Validation(folds=2, uncertainty=False))
    train = TrainPlan(steps=1, stress_weight=0.0)
    plan = replace(plan, kernel=kernel, derivatives=2, train=train, rates=(1e-3,))
    first = run_curve(*sets, tmp_path / "c", replace(plan, variants=(Variant("finetune"),)))
    (tmp_path / "c" / "finetune-n5-r0.json").write_text("{torn")
    points = run_curve(*sets, tmp_path / "c", plan)
    assert [point.variant for point in points] == ["kernel", "finetune"]
    assert points[1:] == first
    with (tmp_path / "c" / "curve.csv").open() as stream:
        assert [row["variant"] for row in csv.DictReader(stream)] == ["kernel", "finetune"]


def test_a_curve_knows_the_weights_by_content(examples, plan, checkpoint, spec, tmp_path):
    """A finished run is read, not run again; another file of weights under the name is another curve."""
    sets = examples[:8], examples[8:10], examples[10:12]
    weights = tmp_path / "w.pt"
    weights.write_bytes(checkpoint.read_bytes())
    plan = replace(
        plan, backbone=replace(spec, checkpoint=str(weights)), derivatives=2,
        kernel=FitPlan(landmarks=LandmarkPlan(count=5), validation=Validation(folds=2, uncertainty=False)),
    )  # fmt: skip
    folder = tmp_path / "curve"
    first = run_curve(*sets, folder, plan)
    assert run_curve(*sets, folder, plan) == first
    assert sorted(path.name for path in folder.iterdir()) == ["curve.csv", "kernel-n4-r0.json", "plan.json", "work"]
    assert list((folder / "work").iterdir()) == []
    claim = json.loads((folder / "plan.json").read_text())
    del claim["backbone_content"], claim["seal"]  # as 0.1.0 wrote it
    (folder / "plan.json").write_text(json.dumps(claim))
    assert run_curve(*sets, folder, plan) == first
    (folder / "plan.json").unlink()
    (folder / "curve.csv").unlink()
    run_curve(*sets, folder, plan)
    with weights.open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(ConfigError, match="another folder|other backbone_content"):
        run_curve(*sets, folder, plan)


def test_a_users_features_and_labels_stay(examples, spec, toy_structures, tmp_path):
    mine = tmp_path / "features"
    mine.mkdir()
    (mine / "mine.txt").write_text("a store of years")
    how = FitPlan(landmarks=LandmarkPlan(count=5), validation=Validation(folds=2, uncertainty=False))
    fit_kernel(examples[:6], load_backbone(spec), tmp_path, how)
    assert [path.name for path in tmp_path.iterdir()] == ["features"]
    assert (mine / "mine.txt").exists()
    labels = tmp_path / "labelled.xyz"
    labels.write_text("1\nenergy=1\nH 0 0 0\n")
    with pytest.raises(ConfigError, match=r"labelled\.xyz is there already"):
        distill("m", toy_structures, StudentSpec.parse("schnet-tiny"), tmp_path)
    assert read(labels).get_potential_energy() == 1

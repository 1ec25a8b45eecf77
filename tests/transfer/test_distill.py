"""Students of teachers, and learning curves: what they report is what a user would measure."""

import csv
import json
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule

from mekrr_scale.backbones import BackboneEnergies, BackboneSpec, load_backbone, save_backbone
from mekrr_scale.errors import ConfigError, ModelError, SimulationError, StructureError
from mekrr_scale.models import Model, Potential
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan, Validation, evaluate, extract, fit
from mekrr_scale.solvers import Direct
from mekrr_scale.transfer import (
    CurvePlan,
    SamplePlan,
    StudentSpec,
    TrainPlan,
    Variant,
    distill,
    expanded,
    finetune,
    pretrain,
    rattled,
    read_examples,
    run_curve,
    sample_structures,
)
from tests.transfer.test_transfer import small

KERNEL = FitPlan(
    kernel=KernelPlan(length_scales="2x"),
    landmarks=LandmarkPlan(count=60),
    solver=Direct((1e-8, 1e-6)),
    validation=Validation(folds=3, uncertainty=False),
)


@pytest.fixture(scope="module")
def tuned(toy_structures, tmp_path_factory):
    """A SchNet trained on the toy structures, as a file."""
    path = tmp_path_factory.mktemp("weights") / "tuned.pt"
    examples = read_examples(toy_structures)
    plan = TrainPlan(steps=100, learning_rate=5e-3, stress_weight=0.0)
    save_backbone(pretrain(small(), examples[:16], examples[16:], plan).backbone, path)
    return path


def test_a_network_learns_from_a_kernel(fitted, toy_structures, tmp_path):
    teacher = Potential(fitted.model)
    unlabelled = [atoms.copy() for atoms in toy_structures]
    report = distill(
        teacher, unlabelled, StudentSpec.parse("schnet-tiny"), tmp_path, toy_structures[:6],
        TrainPlan(steps=150, learning_rate=5e-3), sample=SamplePlan(frames=1, every=2, rattle=0.02),
    )  # fmt: skip
    assert report.sampled > 24
    assert report.labelled == 24 + report.sampled
    labelled = ase.io.read(tmp_path / "labelled.xyz", ":")
    assert len(labelled) == report.labelled
    own = teacher.predict(labelled[3])
    np.testing.assert_allclose(labelled[3].get_forces(), own.forces.numpy(), atol=1e-6)
    zero = 1e3 * np.sqrt(np.mean(np.concatenate([atoms.get_forces().ravel() for atoms in labelled]) ** 2))
    assert report.to_teacher.force_rmse < 0.3 * zero
    truth = evaluate(teacher, toy_structures[:6]).metrics()
    assert report.teacher_to_truth.force_rmse == pytest.approx(truth["force_rmse"], rel=1e-6)
    assert report.to_truth.force_rmse <= report.to_teacher.force_rmse + report.teacher_to_truth.force_rmse + 1e-9
    assert min(report.seconds) > 0


def test_a_kernel_learns_from_a_network(tuned, toy_structures, spec, tmp_path):
    teacher = BackboneEnergies(load_backbone("schnet", checkpoint=str(tuned)))
    student = StudentSpec(kernel=spec)
    unlabelled = [atoms.copy() for atoms in toy_structures]
    report = distill(teacher, unlabelled, student, tmp_path, fit_plan=KERNEL, derivatives=6)
    assert isinstance(report.student, Model)
    assert report.to_truth is None  # nothing is known of these
    assert report.labelled == 21
    assert not (tmp_path / "features").exists()
    forces = np.concatenate([teacher.predict(atoms).forces.numpy() for atoms in unlabelled])
    assert report.to_teacher.force_rmse < 0.2 * 1e3 * np.sqrt((forces**2).mean())  # of what zero forces leave


def test_sampling_stops_where_the_teacher_fails(fitted):
    """Forces beyond the bound end a run; if no frame is left, that is told."""
    with pytest.raises(SimulationError, match="lower the temperature"):
        sample_structures(Potential(fitted.model), [molecule("H2O")], SamplePlan(2, 1, largest_force=1e-6))


def test_rattled(toy_structures):
    """A copy of each, displaced by as much as was asked for, the same for the same seed."""
    copies = rattled(toy_structures, 0.05, 3)
    moved = np.concatenate(
        [copy.positions - atoms.positions for copy, atoms in zip(copies, toy_structures, strict=True)]
    )
    assert moved.std() == pytest.approx(0.05, rel=0.15)
    assert abs(moved.mean()) < 0.01
    assert (copies[2].cell == toy_structures[2].cell).all()
    np.testing.assert_array_equal(rattled(toy_structures, 0.05, 3)[1].positions, copies[1].positions)
    with pytest.raises(ConfigError, match="angstrom"):
        SamplePlan(rattle=5.0)


@pytest.mark.parametrize("student", ["kernel:chgnet:conv2", "kernel:sevennet"])
def test_a_distilled_kernel_loads_with_its_own_backbone(fitted, toy_structures, tmp_path, student):
    """Not with that of the default plan, on whose features it was not fitted."""
    pytest.importorskip("sevenn" if "sevennet" in student else "chgnet")
    chosen = StudentSpec.parse(student)
    report = distill(
        Potential(fitted.model), [atoms.copy() for atoms in toy_structures], chosen, tmp_path,
        fit_plan=replace(KERNEL, landmarks=LandmarkPlan(count=20)), derivatives=2,
    )  # fmt: skip
    report.student.save(tmp_path / "student.mekrr")
    loaded = Potential(Model.load(tmp_path / "student.mekrr"))
    assert loaded.backbone.name == chosen.kernel.name
    water = toy_structures[0]
    expected = report.predictor.predict(water).energy
    torch.testing.assert_close(loaded.predict(water).energy, expected, rtol=0, atol=1e-6)


def test_a_trained_backbone_has_no_spec(tuned, toy_structures, tmp_path):
    """A store of its features says so, and so does whoever tries to load a model without it."""
    backbone = load_backbone("schnet", checkpoint=str(tuned))
    assert backbone.spec == {"name": "schnet", "checkpoint": str(tuned)}
    examples = read_examples(toy_structures)
    trained = finetune(backbone, examples[:12], examples[12:], TrainPlan(steps=2, stress_weight=0.0)).backbone
    assert backbone.spec == trained.spec == {}
    report = extract(toy_structures, tmp_path / "f", backbone=trained)
    assert report.store.header.spec == {}
    assert "nothing tells how to load the backbone" in report.warnings[0]
    model = fit(tmp_path / "f", KERNEL).model
    assert Potential(model, trained).predict(toy_structures[0]).energy.shape == (1,)
    with pytest.raises(ModelError, match="give the backbone"):
        Potential(model)


@pytest.mark.parametrize(
    ("text", "message"),
    [("schnet-smal", "Do you mean 'schnet-small'"), ("kernel:chgnt", "kernel:chgnet"), ("kernel", "kernel:")],
)
def test_refused_students(text, message):
    with pytest.raises(ConfigError, match=message):
        StudentSpec.parse(text)


def test_variants(spec, tuned):
    assert str(Variant.parse("frozen:interaction1")) == "frozen:interaction1"
    found = expanded([Variant.parse("frozen"), Variant.parse("kernel")], BackboneSpec("schnet", checkpoint=str(tuned)))
    assert list(map(str, found)) == ["frozen:embedding", "frozen:interaction1", "frozen:interaction2", "kernel"]
    for text, message in (("scrach", "'scratch'"), ("scratch:big", "schnet-small"), ("kernel:conv3", "no option")):
        with pytest.raises(ConfigError, match=message):
            Variant.parse(text)


def test_curve(tuned, toy_structures, tmp_path):
    """Every variant; an interrupted curve goes on; the folder is for one curve only."""
    examples = read_examples(toy_structures)
    variants = (
        "scratch:schnet-tiny", "finetune", "frozen:interaction1", "discriminative:0.5", "kernel", "kernel-finetuned",
    )  # fmt: skip
    plan = CurvePlan(
        sizes=(6, 12),
        variants=tuple(map(Variant.parse, variants)),
        backbone=BackboneSpec("schnet", checkpoint=str(tuned)),
        repeats=1,
        rates=(1e-4, 1e-3),
        train=TrainPlan(steps=4, stress_weight=0.0),
        kernel=KERNEL,
        derivatives=3,
    )
    sets = (examples[:12], examples[12:18], examples[18:])
    points = run_curve(*sets, tmp_path / "c", plan)
    assert len(points) == 2 * 6
    assert all(np.isfinite(point.force_rmse) and np.isfinite(point.energy_rmse) for point in points)
    assert {point.rate for point in points if point.variant == "finetune"} <= {1e-4, 1e-3}
    one = tmp_path / "c" / "kernel-n6-r0.json"
    before = json.loads(one.read_text())
    one.unlink()
    (tmp_path / "c" / "finetune-n6-r0.json").write_text("{torn")
    changed = tmp_path / "c" / "kernel-n12-r0.json"
    changed.write_text(json.dumps({**json.loads(changed.read_text()), "force_rmse": 0.125}))
    again = run_curve(*sets, tmp_path / "c", plan)
    strip = [(p.variant, p.size, p.repeat, p.force_rmse, p.energy_rmse) for p in points]
    assert [(p.variant, p.size, p.repeat, p.force_rmse, p.energy_rmse) for p in again] == strip
    assert json.loads(one.read_text())["force_rmse"] == before["force_rmse"]
    with (tmp_path / "c" / "curve.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[0]["force_rmse"]) == points[0].force_rmse
    claim = tmp_path / "c" / "plan.json"
    sealed = claim.read_text()
    claim.write_text(sealed.replace('"seed": "0"', '"seed": "1"'))
    with pytest.raises(ConfigError, match="is damaged"):
        run_curve(*sets, tmp_path / "c", plan)
    claim.write_text(sealed)
    repeated = replace(plan, sizes=(6,), variants=(Variant.parse("kernel"),), repeats=2)
    first, second = run_curve(*sets, tmp_path / "r", repeated)
    assert (first.repeat, second.repeat) == (0, 1)
    assert first.force_rmse == next(p.force_rmse for p in points if (p.variant, p.size) == ("kernel", 6))
    assert first.force_rmse != second.force_rmse  # of other structures
    with pytest.raises(ConfigError, match="other data"):
        run_curve(examples[:12], examples[12:19], examples[18:], tmp_path / "c", plan)
    with pytest.raises(ConfigError, match="size 12 asked for"):
        run_curve(examples[:8], *sets[1:], tmp_path / "d", plan)
    with pytest.raises(StructureError, match="validation set is empty"):
        run_curve(examples[:12], [], examples[18:], tmp_path / "d", plan)


def test_commands(run, model_file, toy_file, toy_structures, tuned, tmp_path):
    ase.io.write(tmp_path / "bare.xyz", [atoms.copy() for atoms in toy_structures])
    code, out, err = run(
        "distill", "--teacher", model_file, "--unlabelled", "bare.xyz", "--test", toy_file, "--student", "schnet-tiny",
        "--rattle", 0.02, "--huber", 0.2,
        "-o", "s.pt", "--steps", 20, "--json", "s.json",
    )  # fmt: skip
    assert code == 0, err
    assert "times as fast" in out
    told = json.loads((tmp_path / "s.json").read_text())
    assert told["student_to_truth"]["force_rmse"] > 0
    assert load_backbone("schnet", checkpoint=str(tmp_path / "s.pt")).has_energy
    code, out, err = run(
        "distill", "--teacher", "s.pt", "--unlabelled", "bare.xyz", "--student", "kernel:chgnet", "-o", "k.mekrr",
        "--landmarks", 30, "--derivatives", 2,
    )  # fmt: skip
    assert code == 0, err
    assert Model.load(tmp_path / "k.mekrr").landmarks.n_sets == 30
    for arguments, message in (
        (("--teacher", "labels"), "labels of a file are no teacher"),
        (("--teacher", model_file, "--student", "schnet"), "Do you mean"),
        (("--teacher", "nobody"), "give a file"),
    ):
        code, _, err = run("distill", *arguments, "--unlabelled", "bare.xyz", "-o", "x.pt")
        assert code == 2
        assert message in err
    curve = (
        "curve", toy_file, "--valid", toy_file, "--test", toy_file, "-o", "c", "--sizes", "6,9", "--repeats", 1,
        "--backbone", "schnet", "--checkpoint", tuned, "--steps", 3, "--lr", "1e-3", "--landmarks", 30,
        "--derivatives", 2,
    )  # fmt: skip
    code, out, err = run(*curve, "--variants", "finetune,kernel")
    assert code == 0, err
    assert (tmp_path / "c" / "curve.png").stat().st_size > 5000
    for arguments, message in (
        (("--variants", "frozen:interaction9"), "no block 'interaction9'"),
        (("--sizes", "0"), "positive whole numbers"),
        (("--lr", "fast"), "write numbers"),
    ):
        code, _, err = run(*curve, *arguments)
        assert code == 2
        assert message in err

"""Files as 0.1.0 wrote them (tests/stored) are read, used and gone on with by this version, with the same numbers.

The same bits, where the machine is like the one that they were made on; else what rounding leaves.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mekrr_scale import cli
from mekrr_scale.backbones import identity_of, load_backbone
from mekrr_scale.distributed import Checkpoint, State
from mekrr_scale.pipeline import FitPlan, KernelPlan
from mekrr_scale.store import FeatureStore
from tests.stored import make

STORED = Path(__file__).parent / "stored" / "0.1.0"
EXPECTED = json.loads((STORED / "expected.json").read_text(encoding="utf-8"))
ALIKE = make.machine() == EXPECTED["machine"]
LOOSE = 1e-5  # relative, on another machine
ROUNDED = 3e-4  # meV, there: float32 features of another processor, times coefficients


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """The command line in a copy of the stored files; returns all that was printed. No code: however it ends."""
    shutil.copytree(STORED, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", "/tmp")

    def call(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["mekrr-scale", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        output = capsys.readouterr()
        told = " ".join((output.out + output.err).split())
        assert code is None or (end.value.code or 0) == code, told
        return told

    return call


def same_coefficients(path, expected):
    with safe_open(path, "np") as archive:
        found = archive.get_tensor("coefficients")
    if ALIKE:
        assert hashlib.sha256(found.tobytes()).hexdigest() == expected["sha256"]
    values = np.array(expected["values"])
    np.testing.assert_allclose(found, values, rtol=0, atol=1e-2 * np.abs(values).max())


def same_weights(path, expected):
    assert not ALIKE or make.weights(path) == expected


def same(found, expected, place="", rel=1e-10, rounded=1e-12):
    """All that is expected is found; there may be more.

    Args:
        rounded: of numbers that a network is run for anew, on another machine.
    """
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert key in found, f"{place}/{key}"
            same(found[key], value, f"{place}/{key}", rel, rounded)
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for i, pair in enumerate(zip(found, expected, strict=True)):
            same(*pair, f"{place}[{i}]", rel, rounded)
    elif isinstance(expected, float):
        bounds = (rel, 1e-12) if ALIKE else (LOOSE, rounded)
        assert found == pytest.approx(expected, rel=bounds[0], abs=bounds[1], nan_ok=True), place
    else:
        assert found == expected, place


def tampered(path):
    """Let a state be that of another problem; its numbers stay."""
    renamed(path, {"version": "of another problem"})


def renamed(path, changes):
    """Let a state be of another identity, where it has such a part."""
    with safe_open(path, "pt") as archive:
        header = dict(archive.metadata())
    before = json.loads(header["identity"])
    identity = {**before, **{key: value for key, value in changes.items() if key in before}}
    tensors = load_file(path)
    if "seal" in header:  # by this version
        Checkpoint(Path(path).parent, identity).save(Path(path).stem, State(tensors, json.loads(header["values"])))
    else:
        save_file(tensors, path, {**header, "identity": json.dumps(identity)})


def brought_here(run, folder, *fit):
    """On another machine, let a fit's states be of this one, where they would be refused.

    Their identity holds hashes of numbers whose last bits are the processor's: of these, and of nothing else.
    """
    if ALIKE:
        return
    shutil.copytree(folder, "probe")
    told = run(*fit, "-o", "probe.mekrr", "--checkpoint", "probe", code=None)
    now = dict(re.findall(r'(\w+) was "[0-9a-f]{16}", now "([0-9a-f]{16})"', told))
    assert set(now) <= {"baseline", "transform"}
    assert bool(now) == ("is the state of another fit" in told), told
    for path in Path(folder).glob("*.safetensors"):
        renamed(path, now)


def training_brought_here(run, folder):
    """Likewise of a training: the reference energies that it begins with hold the rounding of a network in float32."""
    if ALIKE:
        return
    run(*make.TRAIN[:-1], 0, "-o", "start.pt")
    now = identity_of(load_backbone("schnet", checkpoint="start.pt"))
    path = Path(folder) / "training.safetensors"
    with safe_open(path, "pt") as archive:
        before = json.loads(archive.metadata()["identity"])["backbone"]
    assert {key for key in before if before[key] != now[key]} <= {"options"}
    options, others = dict(before["options"]), dict(now["options"])
    assert options.keys() == others.keys()
    assert {key for key in options if options[key] != others[key]} <= {"scaling_references"}
    renamed(path, {"backbone": now})


@pytest.mark.parametrize(("name", "structures"), [("h2co", 24), ("more", 4), ("si", 4), ("own", 8)])
def test_stores(run, name, structures):
    run("store", "verify", name)
    store = FeatureStore(Path(name))
    assert store.n_structures == structures
    if name in EXPECTED["priors"]:
        energies = [energy for batch in store for energy in batch.prior.tolist()]
        assert energies == EXPECTED["priors"][name]  # they are read, not made


def test_extraction_goes_on_with_a_store(run):
    """Shards of 0.1.0 are known by their names and not made again."""
    told = run("extract", "h2co.xyz", "-o", "h2co", "--derivatives", 2, "--shard-size", "24K", "--backbone", "chgnet")
    assert "0 structures written, 24 were there already" in told


@pytest.mark.parametrize("name", ["model", "delta", "student", "schema-1.0", "schema-1.1"])
def test_models(run, name):
    run("evaluate", f"{name}.mekrr", "more.xyz", "--json", "found.json")
    same(json.loads(Path("found.json").read_text()), EXPECTED["evaluate"][name], rounded=ROUNDED)
    if name != "delta":  # which corrects another prior than the store's
        run("evaluate", f"{name}.mekrr", "h2co", "--json", "found.json")
        same(json.loads(Path("found.json").read_text()), EXPECTED["evaluate"][f"{name} on the store"])


def test_predictions(run):
    run("predict", "model.mekrr", "more.xyz", "-o", "found.xyz", "--uncertainty")
    frames = zip(ase.io.iread("found.xyz"), ase.io.iread("predicted.xyz"), strict=True)
    for found, expected in frames:
        scale = 1e-10 if ALIKE else 1e-4
        assert found.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=scale)
        np.testing.assert_allclose(found.get_forces(), expected.get_forces(), atol=1e-7 if ALIKE else 1e-3)
        for key in ("energy_uncertainty", "energy_uncertainty_95"):
            assert found.info[key] == pytest.approx(expected.info[key], rel=1e-8 if ALIKE else 1e-2)
        for key in ("energies", "energies_uncertainty", "extrapolation"):
            given, wanted = ({**a.arrays, **a.calc.results}[key] for a in (found, expected))
            np.testing.assert_allclose(given, wanted, rtol=1e-6 if ALIKE else 1e-2, atol=1e-6)


def test_fits(run):
    """Stores are fitted to the same coefficients; what a model file says of itself is still said."""
    run("fit", "--store", "h2co", "-o", "again.mekrr", *make.FIT, *make.DIRECT)
    same_coefficients("again.mekrr", EXPECTED["model"])
    with safe_open("again.mekrr", "np") as archive:
        header = json.loads(archive.metadata()["mekrr_scale"])
    expected = json.loads(Path("model.header.json").read_text())
    free = {"schema", "checksum", "writer", "coefficients_sha256"}
    for told in (expected, expected["provenance"]):
        for key in free & told.keys():
            del told[key]
    for calibrated in (expected["posterior"]["energy"], expected["posterior"]["force"]):
        for key in ("within_68", "within_95", "outside_weight", "spearman", "gaussian_68", "gaussian_95"):
            del calibrated[key]  # 0.1.0 kept the landmarks of a left-out structure where most atoms are landmarks
    del expected["posterior"]["thresholds"]
    if not ALIKE:
        del expected["posterior"], expected["validation"]
    same(header, expected)
    run("fit", "--store", "own", "-o", "own.mekrr", *make.OWN)
    same_coefficients("own.mekrr", EXPECTED["own"])


@pytest.mark.parametrize("name", ["every-key", "stress"])
def test_configurations(run, name):
    """With 0.1.0's landmarks: of the six atoms of perfect crystals that it drew, some are copies of others."""
    run("fit", f"{name}.toml", *(["--method", "uniform", *make.SCALED] if name == "stress" else []))
    same_coefficients(f"{name}.mekrr", EXPECTED[name])


STOPPED = [
    ("direct", make.DIRECT, "trial0-alpha0-solution"),
    ("direct", make.DIRECT, "trial0-alpha1-sums-1of1"),
    ("falkon", make.FALKON, "trial0-alpha1-cg-falkon"),
]


@pytest.mark.parametrize(("name", "options"), [("direct", make.DIRECT), ("falkon", make.FALKON)])
def test_stopped_fits_go_on(run, name, options):
    """To the coefficients of a fit that was not stopped."""
    fit = ("fit", "--store", "h2co", *make.FIT, *options)
    brought_here(run, f"fit-{name}", *fit)
    run(*fit, "-o", "found.mekrr", "--checkpoint", f"fit-{name}")
    same_coefficients("found.mekrr", EXPECTED[f"fit-{name}"])
    assert not Path(f"fit-{name}").exists()


@pytest.mark.parametrize(("name", "options", "state"), STOPPED)
def test_states_are_looked_at(run, name, options, state):
    """That of another problem is refused: so the fit above did not just begin anew."""
    fit = ("fit", "--store", "h2co", *make.FIT, *options)
    brought_here(run, f"fit-{name}", *fit)
    tampered(f"fit-{name}/{state}.safetensors")
    told = run(*fit, "-o", "m.mekrr", "--checkpoint", f"fit-{name}", code=2)
    assert "of another problem" in told


def test_sums_grow(run):
    run("fit", "--store", "h2co", "-o", "found.mekrr", *make.FIT, *make.SUMS, "sums")
    same_coefficients("found.mekrr", EXPECTED["sums"][0])
    run("fit", "--store", "h2co", "--store", "more", "-o", "found.mekrr", *make.FIT, *make.SUMS, "sums")
    same_coefficients("found.mekrr", EXPECTED["sums"][1])
    tampered("sums/sums.safetensors")
    told = run("fit", "--store", "h2co", "-o", "found.mekrr", *make.FIT, *make.SUMS, "sums", code=2)
    assert "of another problem" in told


def test_simulations_go_on(run):
    assert "12 steps, 6 of them before" in run(*make.MD, "--steps", 12)
    found = json.loads(Path("run.restart.json").read_text())
    assert len(list(ase.io.iread("run.xyz"))) == 7
    for key in ("positions", "momenta"):
        np.testing.assert_allclose(found[key], EXPECTED["md"][key], rtol=0, atol=0 if ALIKE else 1e-3)


def test_trainings_go_on(run):
    """To the weights of a training that was not stopped; the state of another one is refused."""
    training_brought_here(run, "training")
    shutil.copytree("training", "other")
    run(*make.TRAIN, "-o", "found.pt", "--state", "training", "--json", "found.json")
    same_weights("found.pt", EXPECTED["schnet"]["sha256"])
    history = json.loads(Path("schnet.json").read_text())
    same(json.loads(Path("found.json").read_text()), history if ALIKE else {"steps": history["steps"]})
    tampered("other/training.safetensors")
    assert "of another problem" in run(*make.TRAIN, "-o", "other.pt", "--state", "other", code=2)


@pytest.mark.parametrize("name", ["schnet", "tuned", "student"])
def test_backbones(run, name):
    run("extract", "more.xyz", "-o", "found", "--backbone", "schnet", "--checkpoint", f"{name}.pt")
    energies = [energy for batch in FeatureStore(Path("found")) for energy in batch.prior.tolist()]
    np.testing.assert_allclose(energies, EXPECTED[name]["energies"], rtol=0, atol=0 if ALIKE else 1e-3)


def test_backbones_are_tuned(run):
    run(*make.TUNE, "-o", "found.pt")
    same_weights("found.pt", EXPECTED["tuned"]["sha256"])


@pytest.fixture
def as_before(monkeypatch):
    """Kernels that no option of a command describes are those of 0.1.0."""
    before = partial(FitPlan, kernel=KernelPlan(length_scales="2x,4x", alphas=1, standardize="scale-per-species"))
    for place in ("mekrr_scale.pipeline", "mekrr_scale.transfer.kernel_fit"):
        monkeypatch.setattr(f"{place}.FitPlan", before, raising=False)


def test_students(run, as_before):
    student = ("--student", "kernel:chgnet", "--landmarks", 8, "--derivatives", 2, "-o", "found.mekrr")
    unlabelled = ("--unlabelled", "h2co.xyz", "--test", "more.xyz", "--folder", "labelled")
    run("distill", "--teacher", "model.mekrr", *unlabelled, *student, "--json", "found.json")
    found, expected = (json.loads(Path(name).read_text()) for name in ("found.json", "student.json"))
    del expected["seconds"]
    if not ALIKE:  # structures are drawn by their labels too, of which the teacher's last bits are the processor's
        for key in ("student_to_teacher", "student_to_truth"):
            drawn = expected.pop(key)
            assert all(found[key][error] < 2 * drawn[error] for error in drawn), key
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13):  # trajectories of an older torch part
        same(found, expected, rel=1e-6, rounded=ROUNDED)  # tangents have other last bits
    assert Path("found.mekrr").exists()


def test_curves_are_known(run, as_before):
    """Runs that are there are read, not run again; a curve of another plan is refused."""
    path = Path("curve/kernel-n4-r0.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "energy_mae": 123456.0}))
    run(*make.CURVE, "--backbone", "chgnet")
    assert "123456.0" in Path("curve/curve.csv").read_text()
    plan = Path("curve/plan.json")
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "seed": "5"}))
    assert "holds a curve with other seed" in run(*make.CURVE, "--backbone", "chgnet", code=2)


def test_one_thread():
    """As the stored numbers were made."""
    assert torch.get_num_threads() == 1

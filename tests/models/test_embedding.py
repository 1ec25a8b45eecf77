"""A model's file alone predicts: what it brings along is what was there when it was fitted, to the bit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from mekrr_scale.backbones import BackboneSpec, Rescaled, Scaling, load_backbone, new_backbone, save_backbone
from mekrr_scale.errors import BackboneError, ModelError
from mekrr_scale.models import Model, Potential, PriorSpec, self_contained
from mekrr_scale.models.embedding import Weights
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, extract, fit
from mekrr_scale.solvers import Direct
from mekrr_scale.structures import Entry
from tests.backbones.test_backbones import ocp_checkpoint

PLAN = FitPlan(
    kernel=KernelPlan(length_scales="2x"), landmarks=LandmarkPlan(count=30), solver=Direct((1e-6,)), validation=0
)


def scaled_schnet(path):
    save_backbone(
        Rescaled(load_backbone("schnet", checkpoint=str(path)), Scaling(0.97, 1.1, {1: -13.6, 6: -38.0})), path
    )


def saved(name):
    return lambda path: save_backbone(load_backbone(name), path, overwrite=True)


MADE = {
    "own schnet": ("schnet", lambda path: None),
    "scaled schnet": ("schnet", scaled_schnet),
    "schnet of the Open Catalyst Project": ("schnet", lambda path: ocp_checkpoint(path, hidden=16)),
    "dimenet++": ("dimenet++", lambda path: save_backbone(new_backbone(BackboneSpec("dimenet++")), path, None, True)),
    "chgnet": ("chgnet", saved("chgnet")),
    "sevennet": ("sevennet", saved("sevennet")),
}


@pytest.fixture
def place(checkpoint, tmp_path):
    """A folder with a copy of the toy network in it, which may be taken away."""
    folder = tmp_path / "here"
    folder.mkdir()
    shutil.copy(checkpoint, folder / "net.pt")
    return folder


def fitted(structures, folder, spec, plan=PLAN, **more):
    store = extract(structures, folder / "store", ExtractPlan(spec, dtype="float64", **more)).store
    return fit(store, plan)


def predicted(model, structures):
    found = Potential(model, dtype=torch.float64).predict(structures, forces=True, stress=True)
    return [value.numpy() for value in (found.energy, found.energies, found.forces, found.stress)]


@pytest.mark.parametrize("kind", MADE)
def test_a_file_that_is_moved_alone_predicts_the_same(kind, place, toy_structures, tmp_path):
    name, make = MADE[kind]
    pytest.importorskip({"chgnet": "chgnet", "sevennet": "sevenn"}.get(name, "torch_geometric"))
    make(place / "net.pt")
    frames = toy_structures[:8]
    spec = BackboneSpec(name, checkpoint=str(place / "net.pt"))
    report = fitted(frames, place, spec)
    expected = predicted(replace(report.model, weights=None, spec=vars(spec) | {"sha256": None}), frames)
    (tmp_path / "there").mkdir()
    report.model.save(tmp_path / "there" / "m.mekrr")
    shutil.rmtree(place)
    moved = Model.load(tmp_path / "there" / "m.mekrr")
    assert "checkpoint" not in moved.spec
    for given, before in zip(predicted(moved, frames), expected, strict=True):
        np.testing.assert_array_equal(given, before)


def test_nothing_in_the_header_names_a_folder(place, toy_structures, tmp_path):
    report = fitted(toy_structures[:8], place, BackboneSpec("schnet", checkpoint=str(place / "net.pt")))
    report.model.save(tmp_path / "m.mekrr")
    assert str(tmp_path) not in _header(tmp_path / "m.mekrr")
    aside = replace(PLAN, embed=False)
    named = fit(place / "store", aside).model
    named.save(place / "named.mekrr")
    assert str(tmp_path) not in _header(place / "named.mekrr")
    frames = toy_structures[:3]
    expected = predicted(named, frames)
    place.rename(tmp_path / "elsewhere")  # the folder moves, and what stands beside the model with it
    moved = Model.load(tmp_path / "elsewhere" / "named.mekrr")
    assert moved.spec["checkpoint"] == str(tmp_path / "elsewhere" / "net.pt")
    np.testing.assert_array_equal(predicted(moved, frames)[0], expected[0])
    (tmp_path / "elsewhere" / "net.pt").unlink()
    with pytest.raises(BackboneError, match="there is no checkpoint .*elsewhere"):
        Potential(moved)


def test_a_link_to_a_model_finds_what_stands_beside_either(place, toy_structures, tmp_path):
    """The model's file says where its network is, from its own folder; through a link it is written so, too."""
    fitted(toy_structures[:8], place, BackboneSpec("schnet", checkpoint=str(place / "net.pt")))
    named = fit(place / "store", replace(PLAN, embed=False)).model
    links = tmp_path / "deep" / "links"
    links.mkdir(parents=True)
    link = links / "m.mekrr"
    link.symlink_to(place / "named.mekrr")
    for written in (place / "named.mekrr", link):
        named.save(written)
        for read in (place / "named.mekrr", link):
            assert Model.load(read).spec["checkpoint"] == str(place / "net.pt")
    (links / "net.pt").symlink_to(place / "net.pt")
    assert Model.load(link).spec["checkpoint"] == str(links / "net.pt")


def _header(path):
    with safe_open(path, "pt") as archive:
        return archive.metadata()["mekrr_scale"]


@pytest.mark.parametrize("kind", ["model", "backbone"])
def test_what_a_model_corrects_is_in_its_file(kind, place, checkpoint, toy_structures, tmp_path):
    frames = toy_structures[:8]
    spec = BackboneSpec("schnet", checkpoint=str(checkpoint))
    first = place / "first.mekrr"
    if kind == "model":
        fitted(frames, place / "first", BackboneSpec("schnet", checkpoint=str(place / "net.pt"))).model.save(first)
    prior = PriorSpec.parse(str(first if kind == "model" else place / "net.pt"), Entry(0.98))
    plan = replace(PLAN, baseline="prior", licence="CC BY 4.0")
    report = fitted(frames, place / "second", spec, plan, prior=prior)
    alone = fit(place / "second" / "store", replace(plan, embed=False)).model
    expected = predicted(alone, frames)
    report.model.save(tmp_path / "m.mekrr")
    shutil.rmtree(place)
    moved = Model.load(tmp_path / "m.mekrr")
    for given, before in zip(predicted(moved, frames), expected, strict=True):
        np.testing.assert_array_equal(given, before)
    with pytest.raises((ModelError, BackboneError), match="not there|no checkpoint"):
        Potential(alone)
    held = moved.inner.weights if kind == "model" else moved.prior_weights
    assert held is not None
    assert moved.weights.licence == "CC BY 4.0"


def test_a_flipped_bit_in_the_weights_is_refused(place, toy_structures, tmp_path):
    fitted(toy_structures[:8], place, BackboneSpec("schnet", checkpoint=str(place / "net.pt"))).model.save(
        tmp_path / "m.mekrr"
    )
    whole = (tmp_path / "m.mekrr").read_bytes()
    size = int.from_bytes(whole[:8], "little")
    entries = json.loads(whole[8 : 8 + size])
    begin, end = entries["weights.embedding.weight"]["data_offsets"]
    bad = bytearray(whole)
    bad[8 + size + (begin + end) // 2] ^= 1
    (tmp_path / "bad.mekrr").write_bytes(bad)
    with pytest.raises(ModelError, match="damaged"):
        Model.load(tmp_path / "bad.mekrr")
    model = Model.load(tmp_path / "m.mekrr")  # and other weights, however well sealed
    tensors = {name: tensor.clone() for name, tensor in model.weights.tensors.items()}
    tensors["embedding.weight"][0] += 1
    with pytest.raises(ModelError, match="made with another backbone than the model's: weight_hash"):
        Potential(replace(model, weights=Weights(model.weights.document, tensors)))


def test_a_fit_without_its_network_says_so(place, toy_structures, run, tmp_path):
    folder = place / "store"
    spec = BackboneSpec("schnet", checkpoint=str(place / "net.pt"))
    extract(toy_structures[:8], folder, ExtractPlan(spec, dtype="float64"))
    options = ("--landmarks", "20", "--validate", "0", "--ridge", "1e-6", "--length-scale", "2x", "--no-check")
    fits = ("fit", "--store", folder, *options, "--no-report", "-o")
    assert run(*fits, "a.mekrr", "--licence", "MIT")[0] == 0
    code, out, _ = run("info", "a.mekrr")
    assert code == 0
    assert "licence: MIT" in out
    assert "networks are the right ones" in out
    (place / "net.pt").unlink()
    code, _, err = run(*fits, "b.mekrr")
    assert code == 0
    assert "will not hold its network's weights" in err
    code, out, err = run("info", "b.mekrr")
    assert code == 5
    assert "which is not there" in " ".join(out.split())
    assert "there is no checkpoint" in err
    assert run("info", "b.mekrr", "--no-load")[0] == 0
    assert json.loads(run("info", "a.mekrr", "--json")[1])["weights"].startswith("in the file")


def test_another_network_under_the_same_name_is_not_taken_in(place, toy_structures):
    spec = BackboneSpec("schnet", checkpoint=str(place / "net.pt"))
    named = fitted(toy_structures[:8], place, spec, replace(PLAN, embed=False)).model
    (place / "net.pt").unlink()
    ocp_checkpoint(place / "net.pt", hidden=16)
    with pytest.raises(ModelError, match="another backbone than the model's"):
        self_contained(named)
    assert self_contained(replace(named, spec={})).weights is None


def test_weights_of_a_wheel_stay_there(toy_structures, tmp_path):
    pytest.importorskip("chgnet")
    report = fitted(toy_structures[:8], tmp_path, BackboneSpec("chgnet"))
    assert report.model.weights is None
    report.model.save(tmp_path / "m.mekrr")
    assert Path(tmp_path / "m.mekrr").stat().st_size < 300_000

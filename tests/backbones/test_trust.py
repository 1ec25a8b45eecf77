"""No file runs code, whatever it is called, in whatever way it was pickled, and whoever names it."""

import io
import json
import os
import pickle
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase.build import molecule
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mekrr_scale.backbones import BackboneSpec, UnsafeCheckpoint, code_is_trusted, load_backbone, trusting_code
from mekrr_scale.errors import BackboneError, MekrrError, ModelError
from mekrr_scale.files import file_hash
from mekrr_scale.models import Model, Potential, PriorSpec, load_prior
from mekrr_scale.structures import Entry


class Mine:
    """Touches a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


def raw(protocol):
    return lambda data, path: path.write_bytes(pickle.dumps(data, protocol))


def tarred(data, path):
    """The layout of torch before 0.1.10."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            text = pickle.dumps(data, 2)
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))


WAYS = {f"pickle {protocol}": raw(protocol) for protocol in range(6)} | {
    "torch": torch.save,
    "torch, old": lambda data, path: torch.save(data, path, _use_new_zipfile_serialization=False),
    "torch, protocol 0": lambda data, path: torch.save(data, path, pickle_protocol=0),
    "tar": tarred,
}
BACKBONES = ("sevennet", "schnet", "dimenet++", "chgnet")


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "was-here"


@pytest.fixture(params=WAYS)
def poisoned(request, marker, tmp_path):
    """A checkpoint that looks like SevenNet's and like the package's own."""
    path = tmp_path / "weights.pt"
    data = {"format": "mekrr-scale schnet 1", "config": {}, "state_dict": {}, "model_state_dict": {}, "x": Mine(marker)}
    WAYS[request.param](data, path)
    return path


def test_the_poison_works(marker, tmp_path):
    pickle.loads(pickle.dumps(Mine(marker)))
    assert marker.exists()


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_run_no_code(name, poisoned, marker):
    with pytest.raises(BackboneError):
        load_backbone(name, checkpoint=str(poisoned))
    assert not marker.exists()


def test_priors_run_no_code(poisoned, marker):
    with pytest.raises(MekrrError):
        load_prior(PriorSpec.parse(str(poisoned), Entry()).pinned())
    assert not marker.exists()


def written(path, target, **changes):
    """A model file with another header."""
    with safe_open(path, "pt") as archive:
        header = json.loads(archive.metadata()["mekrr_scale"])
    found = Model.load(path)
    for name, value in changes.items():
        found = replace(found, **{name: value})
    assert header["format"]
    found.save(target)
    return target


WHERE = {"name": "sevennet", "layer": "gate1", "version": None, "checkpoint": None, "max_neighbors": None}


@pytest.mark.parametrize("place", ["spec", "prior"])
@pytest.mark.parametrize(
    "command",
    ["predict {m} {d} -o o.xyz", "evaluate {m} {d}", "md {m} {d} -o o.xyz --steps 1", "relax {m} {d} -o o.xyz",
     "select {m} {d} -o o.xyz -n 1", "explain {m} {d} -o o.xyz", "extract {d} -o f --prior {m}",
     "distill --teacher {m} --unlabelled {d} -o s.pt"],
)  # fmt: skip
def test_headers_run_no_code(run, place, command, model_file, toy_file, marker, tmp_path):
    """What a model's header names is not read that way, sealed or not."""
    torch.save({"x": Mine(marker)}, tmp_path / "evil.pt")
    where = WHERE | {"checkpoint": str(tmp_path / "evil.pt")}
    model = Model.load(model_file)
    changes = {"spec": where, "weights": None}
    if place == "prior":
        prior = PriorSpec("backbone", backbone=BackboneSpec.of(where), hash="0" * 64).to_dict()
        changes = {"prior": prior, "baseline": replace(model.baseline, prior=True)}
    named = written(model_file, tmp_path / "named.mekrr", **changes)
    code, _, told = run(*command.format(m=named, d=toy_file).split())
    assert code == 5, told
    assert "--trust-code" in told
    assert not marker.exists()


def test_words_of_the_user(run, marker, toy_file, tmp_path):
    """With --trust-code the file is read; that word is kept nowhere."""
    path = tmp_path / "evil.pth"
    torch.save({"x": Mine(marker)}, path)
    options = ("extract", toy_file, "-o", "f", "--backbone", "sevennet", "--checkpoint", path)
    assert run(*options)[0] == 5
    assert not marker.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, _, told = run(*options, "--trust-code")
    assert (code, marker.exists()) == (5, True), told  # it was read, and is no checkpoint
    assert "warning: reading" in told
    assert "runs code" in told
    assert not code_is_trusted()


def test_trust_ends_where_it_was_given(tmp_path, marker):
    with trusting_code(), trusting_code(False):
        assert code_is_trusted()
    with trusting_code(False):
        assert not code_is_trusted()
    assert not code_is_trusted()


def test_another_file_is_not_even_opened(marker, tmp_path):
    """Before code of a checkpoint that a model names is run, its hash is looked at."""
    path = tmp_path / "coded.pth"
    torch.save({"x": Mine(marker)}, path)
    spec = BackboneSpec("sevennet", checkpoint=str(path), sha256="0" * 64)
    with pytest.raises(BackboneError, match="another file"):
        load_backbone(spec, trust_code=True)
    assert not marker.exists()
    with pytest.warns(UnsafeCheckpoint), pytest.raises(BackboneError, match="sevenn can read"):
        load_backbone(replace(spec, sha256=file_hash(path, "sha256")), trust_code=True)
    assert marker.exists()


def test_a_prior_that_is_another_file_is_not_opened(model_file, tmp_path):
    other = tmp_path / "other.mekrr"
    other.write_bytes(model_file.read_bytes() + b" ")
    spec = PriorSpec("model", path=str(other), hash=file_hash(model_file, "sha256"))
    with pytest.raises(ModelError, match="another file"):
        load_prior(spec)


class Held:
    """What a trusted file may hold beside tensors."""


def test_what_was_read_with_code_is_known_by_its_hash(tmp_path, monkeypatch):
    """A model of a coded checkpoint names it with its sha256, and is read with the user's word alone."""
    from sevenn.util import pretrained_name_to_path

    wheel = Path(pretrained_name_to_path("7net-0"))
    data = torch.load(wheel, map_location="cpu", weights_only=False)
    path = tmp_path / "coded.pth"
    torch.save({**data, "more": Held()}, path)
    with pytest.raises(BackboneError, match="--trust-code"):
        load_backbone("sevennet", checkpoint=str(path))
    with pytest.warns(UnsafeCheckpoint, match="runs code"):
        found = load_backbone("sevennet", checkpoint=str(path), trust_code=True)
    assert found.spec["sha256"] == file_hash(path, "sha256")
    plain = load_backbone("sevennet", checkpoint=str(wheel))
    assert "sha256" not in plain.spec
    assert torch.equal(found.features(molecule("H2O")), plain.features(molecule("H2O")))


def test_potentials_take_the_word(model_file, marker, tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"x": Mine(marker)}, path)
    named = written(model_file, tmp_path / "named.mekrr", weights=None, spec=WHERE | {"checkpoint": str(path)})
    with pytest.raises(BackboneError, match="--trust-code"):
        Potential(named)
    with pytest.warns(UnsafeCheckpoint), pytest.raises(BackboneError, match="sevenn can read"):
        Potential(named, trust_code=True)


def test_tensors_are_all_that_models_and_states_hold(model_file):
    """safetensors cannot hold code; the header is JSON."""
    save_file(load_file(model_file), model_file.with_suffix(".copy"))
    with pytest.raises(ModelError, match="not a mekrr-scale model"):
        Model.load(model_file.with_suffix(".copy"))

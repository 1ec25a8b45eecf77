"""Checkpoints: of other layouts, damaged, out of proportion."""

import zipfile

import numpy as np
import pytest
import torch

from mekrr_scale.backbones import (
    load_backbone,
    new_schnet,
)
from mekrr_scale.errors import BackboneError

pytest.importorskip("chgnet")


def test_damaged_checkpoints_are_refused(checkpoint, tmp_path):
    """Flips anywhere in a file of the package's own: an error, or the very same network."""
    original = checkpoint.read_bytes()
    path = tmp_path / "damaged.pt"
    expected = load_backbone("schnet", checkpoint=str(checkpoint)).identity()
    generator = np.random.default_rng(0)
    detected = 0
    for case in range(60):
        data = bytearray(original)
        data[int(generator.integers(len(data)))] ^= 1 << int(generator.integers(8))
        path.write_bytes(bytes(data[: int(generator.integers(len(data)))] if case % 6 == 0 else data))
        try:
            found = load_backbone("schnet", checkpoint=str(path)).identity()
        except BackboneError:
            detected += 1
            continue
        assert found == expected
    assert detected > 30


def test_a_changed_number_is_seen(checkpoint, tmp_path, caplog):
    """In the configuration, in the weights, in the training's record; files of 0.1.0 are read with a word."""
    path = tmp_path / "changed.pt"
    data = torch.load(checkpoint, weights_only=True)
    name = next(iter(data["state_dict"]))
    for changed in (
        {**data, "config": {**data["config"], "cutoff": 4.1}},
        {**data, "state_dict": {**data["state_dict"], name: data["state_dict"][name] + 1e-6}},
        {**data, "scaling": {"length": 1.0, "energy": 2.0, "references": {}, "species": []}},
        {**data, "seal": ""},
        {**data, "seal": "", "training": {"steps": torch.ones(1)}},  # no checksum can be told of it
    ):
        torch.save(changed, path)
        with pytest.raises(BackboneError, match="is damaged"):
            load_backbone("schnet", checkpoint=str(path))
    old = tmp_path / "old.pt"
    torch.save({key: value for key, value in data.items() if key != "seal"}, old)
    assert (
        load_backbone("schnet", checkpoint=str(old)).identity()
        == load_backbone("schnet", checkpoint=str(checkpoint)).identity()
    )
    assert "is of 0.1.0" in caplog.text


def test_networks_beyond_all_measure_are_not_built(checkpoint, tmp_path):
    data = torch.load(checkpoint, weights_only=True)
    for value in (10**9, "64", float("nan")):
        torch.save({"config": {**data["config"], "num_interactions": value}, "state_dict": {}}, tmp_path / "big.pt")
        with pytest.raises(BackboneError):
            load_backbone("schnet", checkpoint=str(tmp_path / "big.pt"))
    with pytest.raises(BackboneError, match="cutoff=1000000.0 is no size"):
        new_schnet({"cutoff": 1e6})


def test_archives_out_of_proportion_are_not_unpacked(checkpoint, tmp_path):
    """A zip bomb in the place of weights."""
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(200 * 1024**2))
    assert path.stat().st_size < 10**6
    with pytest.raises(BackboneError, match="would unpack to 0.2 GB"):
        load_backbone("schnet", checkpoint=str(path))
    with pytest.raises(BackboneError, match="would unpack to 0.2 GB"):
        load_backbone("sevennet", checkpoint=str(path))


def test_weights_of_another_shape(checkpoint, tmp_path):
    data = torch.load(checkpoint, weights_only=True)
    del data["seal"]
    name = "lin2.bias"
    torch.save({**data, "state_dict": {**data["state_dict"], name: torch.zeros(5)}}, tmp_path / "other.pt")
    with pytest.raises(BackboneError, match=r"lin2.bias has shape \(5,\), expected \(1,\)"):
        load_backbone("schnet", checkpoint=str(tmp_path / "other.pt"))

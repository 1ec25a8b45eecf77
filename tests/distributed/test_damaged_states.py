"""States with damage are passed over, with a word; the one before serves."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mekrr_scale.distributed import Checkpoint, State


@pytest.fixture
def kept(tmp_path):
    """Two states, one after the other."""
    found = Checkpoint(tmp_path, {"problem": "this", "ridge": 0.125})
    for step in (1, 2):
        found.save("cg", State({"x": torch.full((3,), float(step))}, {"step": step}))
    return found


def test_the_newest_is_read(kept, caplog):
    assert kept.load_own("cg").values == {"step": 2}
    assert not caplog.text


def test_every_flip_of_the_header_and_arrays_is_seen(kept, tmp_path, caplog):
    """The state before is taken, and the damage told; never a state that is another."""
    path = tmp_path / "cg.safetensors"
    original = path.read_bytes()
    for place in range(len(original)):
        data = bytearray(original)
        data[place] ^= 1 << (place % 8)
        path.write_bytes(bytes(data))
        caplog.clear()
        found = kept.load_own("cg")
        assert found is not None
        if found.values["step"] == 2:  # only what does not matter has changed
            assert torch.equal(found.tensors["x"], torch.full((3,), 2.0)), place
            assert original[:8] == data[:8]
        else:
            assert "damaged and passed over" in caplog.text


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_torn_ones_are_passed_over(kept, tmp_path, caplog, cut):
    path = tmp_path / "cg.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    assert kept.load_own("cg").values == {"step": 1}
    assert "damaged and passed over" in caplog.text
    (tmp_path / "cg.previous.safetensors").write_bytes(b"")
    assert kept.load_own("cg") is None


def test_the_seal_cannot_be_left_out(kept, tmp_path):
    path = tmp_path / "cg.safetensors"
    header = {"identity": json.dumps({"problem": "this", "ridge": 0.125}), "values": json.dumps({"step": 7})}
    save_file(load_file(path), path, header)
    assert kept.load_own("cg").values == {"step": 1}

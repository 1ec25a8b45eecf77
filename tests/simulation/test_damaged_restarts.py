"""A simulation goes on from what it wrote, or says that it has changed."""

import json

import numpy as np
import pytest
from ase import Atoms

from mekrr_scale.errors import ConfigError
from mekrr_scale.simulation.restarts import RestartFile


@pytest.fixture
def atoms():
    found = Atoms("H2", [(0, 0, 0), (0, 0, 0.74)], cell=[9, 9, 9])
    found.set_momenta([(0, 0, 0.125), (0, 0, -0.125)])
    return found


@pytest.fixture
def restart(atoms, tmp_path):
    """A restart file behind three frames, of which one more has been written since."""
    found = RestartFile(tmp_path / "run.xyz", {"ensemble": "nve", "timestep": 0.5, "seed": 1})
    found.trajectory.write_text("frame 0\n")
    found.save(atoms, 10, np.random.default_rng(0))
    found.trajectory.write_text("frame 0\nframe 1\n")
    found.save(atoms, 20, np.random.default_rng(0))
    with found.trajectory.open("a") as stream:
        stream.write("frame 2\n")
    return RestartFile(found.trajectory, found.identity)  # as another process has it


def test_it_goes_on(restart, atoms):
    state = restart.read(atoms)
    assert state["step"] == 20
    restart.restore(state, atoms, np.random.default_rng(5))
    assert restart.trajectory.read_text() == "frame 0\nframe 1\n"


def test_every_flip_is_seen(restart, atoms, caplog):
    """Or it was of the seal's own name, and is told: all else is as it was."""
    original = restart.path.read_bytes()
    expected = restart.read(atoms)
    for place in range(len(original)):
        data = bytearray(original)
        data[place] ^= 1 << (place % 7)
        restart.path.write_bytes(bytes(data))
        try:
            found = restart.read(atoms)
        except ConfigError:
            continue
        assert all(found[key] == expected[key] for key in expected if key != "seal"), place


def test_changed_numbers_are_seen(restart, atoms):
    state = json.loads(restart.path.read_text())
    for key, value in (("step", 21), ("p_eps", 1.0), ("positions", [[0.0, 0.0, 0.0], [0.0, 0.0, 0.75]])):
        restart.path.write_text(json.dumps({**state, key: value}))
        with pytest.raises(ConfigError, match="is damaged"):
            restart.read(atoms)


@pytest.mark.parametrize("place", [0, 7, 9, 14])
def test_changed_frames_are_seen(restart, atoms, place):
    state = restart.read(atoms)
    data = bytearray(restart.trajectory.read_bytes())
    data[place] ^= 1
    restart.trajectory.write_bytes(bytes(data))
    with pytest.raises(ConfigError, match="have changed since"):
        restart.restore(state, atoms, np.random.default_rng(0))


def test_old_files_are_read_with_a_word(restart, atoms, caplog):
    state = json.loads(restart.path.read_text())
    del state["seal"], state["trajectory_xxh3"]
    restart.path.write_text(json.dumps(state))
    restart.restore(restart.read(atoms), atoms, np.random.default_rng(0))
    assert "is of 0.1.0" in caplog.text

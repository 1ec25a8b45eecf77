"""States on disk: writing them never ends the work, whose they are is known, and others' files stay."""

import os
import resource
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mekrr_scale.distributed import Checkpoint, State
from mekrr_scale.distributed import checkpoint as module
from mekrr_scale.errors import ConfigError, StoppedError


def state(size=4, value=1.0):
    return State({"a": torch.full((size,), value)}, {"step": 3})


@contextmanager
def little_room(size):
    """No file may grow beyond so many bytes: what a full disk does, for one process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_leaves_the_state_before_and_the_work(tmp_path):
    kept = Checkpoint(tmp_path / "kept", {"fit": 1})
    kept.save("x", state(value=1.0))
    with little_room(2000), pytest.warns(RuntimeWarning, match="could not be written"):
        kept.save("x", state(10_000, value=2.0))
    assert kept.load_own("x").tensors["a"].tolist() == [1.0] * 4
    assert [path.name for path in kept.folder.iterdir()] == ["x.safetensors"]
    kept.stop.asked = True
    with pytest.raises(StoppedError, match="its last state could not be written"):
        kept.end_if_stopped()
    kept.save("x", state(value=3.0))
    with pytest.raises(StoppedError, match="the state is in"):
        kept.end_if_stopped()


@pytest.mark.parametrize("error", [OSError(28, "No space left"), module.SafetensorError("IO"), RuntimeError("write")])
def test_whatever_a_library_calls_it(error, tmp_path, monkeypatch):
    kept = Checkpoint(tmp_path / "kept", {"fit": 1})

    def fails(*_):
        raise error

    monkeypatch.setattr(module, "save_file", fails)
    with pytest.warns(RuntimeWarning, match="could not be written"):
        kept.save("x", state())
    assert kept.load_own("x") is None


def test_a_folder_that_cannot_be_written_to_costs_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    kept = Checkpoint(tmp_path / "file" / "kept", {"fit": 1})
    kept.begin()
    with pytest.warns(RuntimeWarning, match="could not be written"):
        kept.save("x", state())
    kept.stop.asked = True
    with pytest.raises(StoppedError):
        kept.end_if_stopped()
    kept.clear()


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        kept = Checkpoint(tmp_path / "kept", {"fit": 1})
        kept.save("x", state())
    finally:
        os.umask(before)
    assert stat.S_IMODE((kept.folder / "x.safetensors").stat().st_mode) == 0o640


def test_clearing_leaves_what_is_not_its_own(tmp_path):
    folder = tmp_path / "shared"
    root = Checkpoint(folder, {})
    part = root.part("", {"fit": 1}).part("pass", {"shard": 2})
    other = Checkpoint(folder, {}).part("", {"fit": 2})
    part.save("x", state())
    part.save("x", state())
    other.save("y", state())
    save_file({"w": torch.ones(3)}, folder / "weights.safetensors")
    (folder / "broken.safetensors").write_text("?")
    (folder / ".tmp-of-somebody").write_text("?")
    theirs = {"y.safetensors", "weights.safetensors", "broken.safetensors", ".tmp-of-somebody"}
    assert {path.name for path in folder.iterdir()} == theirs | {"pass-x.safetensors", "pass-x.previous.safetensors"}
    again = Checkpoint(folder, {})  # of a later process, which has read nothing
    again.part("", {"fit": 1})
    again.clear()
    assert {path.name for path in folder.iterdir()} == theirs
    other.clear()
    assert {path.name for path in folder.iterdir()} == theirs - {"y.safetensors"}


def test_parts_that_call_something_else_by_a_name_of_the_problem_are_cleared_too(tmp_path):
    """By a later process, which came past that part without reading it."""
    root = Checkpoint(tmp_path / "kept", {})
    root.part("", {"fit": 1, "solver": "falkon"}).part("cg", {"solver": "Falkon(rtol=1)"}).save("x", state())
    other = Checkpoint(tmp_path / "kept", {})
    other.part("", {"fit": 2, "solver": "falkon"})
    other.clear()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["cg-x.safetensors"]
    Checkpoint(tmp_path / "kept", {}).clear()  # of no problem yet
    again = Checkpoint(tmp_path / "kept", {})
    assert (tmp_path / "kept").exists()
    again.part("", {"fit": 1, "solver": "falkon"})
    again.clear()
    assert not (tmp_path / "kept").exists()


def test_another_fit_is_refused_and_files_count_by_content(tmp_path):
    kept = Checkpoint(tmp_path, {"fit": 1, "warm_content": "a"})
    kept.save("x", state())
    for identity, words in (({"fit": 2, "warm_content": "a"}, "fit was 1, now 2"), ({"fit": 1}, "warm_content was"),
                            ({"fit": 1, "warm_content": "b"}, 'warm_content was "a", now "b"')):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            Checkpoint(tmp_path, identity).load("x")
    Checkpoint(tmp_path, {"fit": 1}).save("old", state())  # of a version that did not look into files
    later = {"fit": 1, "warm_content": "a", "exponential": "torch"}
    assert Checkpoint(tmp_path, later).load("old").values == {"step": 3}
    Checkpoint(tmp_path, later).save("new", state())
    with pytest.raises(ConfigError, match='exponential was "torch", now "numpy"'):
        Checkpoint(tmp_path, {**later, "exponential": "numpy"}).load("new")
    Checkpoint(tmp_path, {"fit": 1, "warm_content": "b"}).save("other", state())
    Checkpoint(tmp_path, later).clear()  # what does not tell is of this problem too; what tells of another file is not
    assert [path.name for path in tmp_path.iterdir()] == ["other.safetensors"]


HOLD = """
import sys, time
from pathlib import Path
from mekrr_scale.distributed import Checkpoint
kept = Checkpoint(Path(sys.argv[1]), {"fit": 1})
kept.begin()
print("holds", flush=True)
time.sleep(600)
"""


def test_one_process_works_in_a_folder(tmp_path):
    folder = tmp_path / "kept"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"holds\n"
    with pytest.raises(ConfigError, match="is being written by another run"):
        Checkpoint(folder, {"fit": 2}).begin()
    holder.kill()
    holder.communicate()
    kept = Checkpoint(folder, {"fit": 2})
    kept.begin()  # a lock of a dead process is none
    Checkpoint(folder, {"fit": 2}).begin()  # one process may go on where it stopped
    kept.save("x", state())
    kept.clear()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_that_the_work_is_in(tmp_path, monkeypatch):
    """An option that is empty means it; it has no name of its own to put a lock beside."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    kept = Checkpoint(Path(), {"fit": 1})
    kept.begin()
    assert [path.name for path in tmp_path.iterdir() if path.suffix] == ["here.lock"]
    kept.save("x", state())
    kept.clear()
    assert not list(Path().iterdir())


def test_a_torn_rename_falls_back_to_the_state_before(tmp_path):
    kept = Checkpoint(tmp_path, {"fit": 1})
    kept.save("x", state(value=1.0))
    (tmp_path / "x.safetensors").rename(tmp_path / "x.previous.safetensors")  # killed between the two renames
    assert kept.load("x").tensors["a"].tolist() == [1.0] * 4

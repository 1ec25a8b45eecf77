"""Features by several processes: the same store, errors that reach the caller, and no process that is left over."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mekrr_scale.backbones import load_backbone
from mekrr_scale.errors import BackboneError, ConfigError, MekrrError
from mekrr_scale.pipeline import ExtractPlan, evaluate, extract, predict, workers
from mekrr_scale.pipeline.workers import Workers, processes
from mekrr_scale.store import verify

needs_forks = pytest.mark.skipif(sys.platform != "linux", reason="processes are forks, of Linux")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("shard-*.h5")}


@needs_forks
@pytest.mark.parametrize("compress", [None, 8])
def test_several_processes_make_the_same_store(tmp_path, toy_file, spec, one_thread, compress):
    """Bit for bit, in several shards, whatever the number of processes."""
    plan = ExtractPlan(spec, derivatives=4, strain=True, shard_bytes=12_000, compress=compress, batch_atoms=20)
    found = []
    for count in (1, 2, 3):
        report = extract(toy_file, tmp_path / str(count), replace(plan, workers=count))
        assert report.written == 24
        verify(tmp_path / str(count))
        found.append(shards(tmp_path / str(count)))
    assert len(found[0]) > 2
    assert found[0] == found[1] == found[2]


def fail():
    raise BackboneError("this one is too large")


def end():
    os.kill(os.getpid(), signal.SIGKILL)


@needs_forks
@pytest.mark.parametrize(
    ("what", "kind", "says"),
    [(fail, BackboneError, "this one is too large"), (end, MekrrError, "was killed.*--workers 1.*goes on")],
)
def test_what_ends_a_process_ends_the_extraction(tmp_path, monkeypatch, toy_structures, spec, what, kind, says):
    """Shards that were complete stay, and the next run goes on from them."""
    plan = ExtractPlan(spec, shard_bytes=1000, batch_atoms=4, workers=2)
    frames = sorted(toy_structures, key=len)  # those that fail are the last
    backbone = load_backbone(spec)
    graph = backbone.graph

    def ending(structures):
        if any(len(atoms) == len(frames[-1]) for atoms in structures):
            what()
        return graph(structures)

    monkeypatch.setattr(backbone, "graph", ending)
    with pytest.raises(kind, match=says):
        extract(frames, tmp_path / "s", plan, backbone=backbone)
    kept = len(shards(tmp_path / "s"))
    assert kept
    report = extract(frames, tmp_path / "s", plan)
    assert report.resumed >= 1
    assert report.written >= 1
    assert report.resumed + report.written == 24


@needs_forks
def test_predictions_of_several_processes_are_those_of_one(model_file, toy_structures, one_thread):
    """Energies, forces, stress and intervals, in the order of the structures; batches are of a few of them."""
    given = [atoms for _ in range(8) for atoms in toy_structures]
    one, some = (list(predict(model_file, given, uncertainty=True, workers=count)) for count in (1, 2))
    assert len(one) == len(some) == len(given)
    for atoms, left, right in zip(given, one, some, strict=True):
        assert atoms == left == right
        assert left.info == right.info
        for name in ("extrapolation", "energies_uncertainty"):
            assert (left.arrays[name] == right.arrays[name]).all()
        assert set(left.calc.results) == set(right.calc.results)
        for name, value in left.calc.results.items():
            assert np.array_equal(value, right.calc.results[name])


@needs_forks
def test_what_cannot_be_predicted_is_named_by_several_processes(model_file, toy_structures):
    given = [atoms.copy() for _ in range(8) for atoms in toy_structures]
    given[70].numbers[0] = 79
    failed = []
    found = list(predict(model_file, given, failed=failed, workers=2))
    assert [i for i, atoms in enumerate(found) if atoms.calc is None] == [70]
    assert [str(error).partition(":")[0] for error in failed] == ["structure 70"]
    with pytest.raises(MekrrError, match="structure 70: .*Au"):
        list(predict(model_file, given, workers=2))


@needs_forks
def test_errors_by_several_processes_are_those_of_one(model_file, toy_structures, one_thread):
    given = [atoms for _ in range(8) for atoms in toy_structures]
    one, some = (evaluate(model_file, given, uncertainty=True, workers=count) for count in (1, 2))
    assert one.to_dict() == some.to_dict()
    assert (one.forces_predicted == some.forces_predicted).all()


SLOW = """
import os, sys, time
from mekrr_scale.pipeline.workers import Workers, processes
def slow(piece):
    os.write(1, b"%d;" % os.getpid())  # at once: the other one writes too
    time.sleep(600)
with Workers(slow, 2) as workers:
    for _, made in workers.of([[0, 1]]):
        list(made)
"""


@needs_forks
def test_no_process_outlives_its_parent():
    """Killed without a word, as a batch system does."""
    with subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE) as parent:
        told = b""
        while told.count(b";") < 2 and (more := parent.stdout.read1()):
            told += more
        children = [int(number) for number in told.split(b";")[:2]]
        assert len({*children, parent.pid}) == 3
        parent.kill()
    until = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() and not ended(child) for child in children):
        assert time.monotonic() < until
        time.sleep(0.05)


def ended(child: int) -> bool:
    """Whether nothing but its entry is left, where nobody waits for it."""
    try:
        return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@needs_forks
def test_groups_come_in_order_and_a_few_ahead():
    """However long their pieces take; of an endless row no more are begun than the processes need."""
    begun = []

    def groups():
        for k in range(1000):
            begun.append(k)
            yield [(k, i) for i in range(k % 3)]

    def make(piece):
        time.sleep(0.01 * (piece[0] % 2))
        return piece

    with Workers(make, 2) as workers:
        for k, (group, made) in enumerate(workers.of(groups())):
            assert list(made) == group == [(k, i) for i in range(k % 3)]
            if k == 20:
                break
    assert len(begun) < 40


@needs_forks
def test_an_interruption_waits_for_nobody():
    """Whatever the processes are at."""
    begin = time.monotonic()
    with suppress(KeyboardInterrupt), Workers(lambda _: time.sleep(600), 2) as workers:
        next(workers.of([[0], [1], [2]]))
        raise KeyboardInterrupt
    assert time.monotonic() - begin < 60


def test_as_many_as_there_are_threads(monkeypatch, spec):
    """Where that is of use: not for a handful of structures, on a GPU, or beside a driver that no fork survives."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(workers, "memory", lambda: 256 * 1024**3)
    monkeypatch.setattr(sys, "platform", "linux")
    assert [processes(None, "cpu", n) for n in (1, 4, 8, 20, 32, 1000)] == [1, 1, 2, 5, 8, 8]
    assert processes(3, "cpu:0", 1) == 3
    assert ExtractPlan(spec).processes(20) == 5
    assert ExtractPlan(spec, workers=3).processes(1) == 3
    assert processes(None, "cuda", 1000) == 1
    monkeypatch.setattr(workers, "memory", lambda: 5 * 1024**3)
    assert processes(None, "cpu", 1000) == 2
    monkeypatch.setattr(workers, "memory", lambda: 256 * 1024**3)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert processes(None, "cpu", 1000) == 1
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(sys.modules, "jax", sys)
    assert processes(None, "cpu", 1000) == 1
    monkeypatch.delitem(sys.modules, "jax")
    assert processes(None, "cpu", 1000) == 8
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert processes(None, "cpu", 1000) == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"workers": 0}, "0 processes cannot compute anything; give 1 or more"),
        ({"workers": 2, "device": "cuda"}, "2 processes on cuda: they share a CPU"),
    ],
)
def test_processes_that_make_no_sense(given, says):
    with pytest.raises(ConfigError, match=says):
        ExtractPlan(**given)


def test_fewer_atoms_at_once_on_a_cpu():
    assert [ExtractPlan(device=name).atoms_at_once for name in ("cpu", "cpu:0", "cuda:1")] == [64, 64, 1024]
    assert ExtractPlan(batch_atoms=7).atoms_at_once == 7

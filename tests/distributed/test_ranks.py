"""Jobs of several ranks on gloo: the same results as of one process; failures, signals, restarts."""

import json
import os
import signal
import socket
import time

import pytest
import torch

from mekrr_scale.distributed import Checkpoint, ExactSum, State, StopSignals, first_host, share
from mekrr_scale.distributed.group import place_of
from mekrr_scale.errors import ConfigError, StoppedError
from mekrr_scale.models import Model
from mekrr_scale.store import FeatureStore, deal, finalize
from tests import reference
from tests.distributed.paused import wait_for

HELD = []  # sockets


def held_port():
    """A port that no other process is given meanwhile: the socket stays bound to it.

    It does not listen, so that the job's own store may, as both say SO_REUSEADDR.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    HELD.append(held)
    return held.getsockname()[1]


@pytest.fixture(autouse=True)
def ports():
    yield
    while HELD:
        HELD.pop().close()


@pytest.fixture(scope="module")
def start(warm):
    def start(arguments, size, port=None, ranks=None, **extra):
        """The same command on every rank, or on some of them, as torchrun would start it."""
        port = port or held_port()
        found = []
        for rank in ranks or range(size):
            environment = {
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": str(size),
                "LOCAL_RANK": str(rank),
                "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                **extra,
            }
            found.append(warm.start("-m", *arguments, environment=environment))
        return found

    return start


def finish(processes, timeout=240):
    try:
        return [(*process.communicate(timeout=timeout), process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_together_make_what_one_process_makes_alone(start, store, toy_file, size):
    """See tests/distributed/ranks.py; with four ranks some own no shard."""
    for out, err, code in finish(start(["tests.distributed.ranks", str(store), str(toy_file)], size)):
        assert code == 0, out + err


def arguments(store, output, *more):
    return [
        *("mekrr_scale", "fit", "--store", str(store), "--output", str(output), "--landmarks", "60"),
        *("--length-scale", "2x", "--ridge", "1e-8,1e-6", "--force-weight", "0.01", "--validate", "3"),
        *("--baseline", "composition", "--no-check", "--no-report", *more),
    ]


def held(folder, number, command):
    """The same, which waits in a folder after it has kept that many states; see tests/distributed/paused.py."""
    return ["tests.distributed.paused", "state", str(number), str(folder), *command[1:]]


FALKON = ("--solver", "falkon", "--checkpoint-interval", "0")


@pytest.fixture(scope="module")
def alone(start, store, tmp_path_factory):
    output = tmp_path_factory.mktemp("alone") / "model.mekrr"
    ((out, err, code),) = finish(start(arguments(store, output, *FALKON), 1))
    assert code == 0, err
    return Model.load(output)


def test_one_rank_talks(start, store, tmp_path, alone):
    done = finish(start(arguments(store, tmp_path / "m.mekrr", *FALKON), 2))
    assert [code for *_, code in done] == [0, 0], done
    assert "Plan, each of 2 ranks" in done[0][0]
    assert "model" in done[0][0]
    assert done[1][0] == ""
    lines = [json.loads(line) for line in done[0][1].splitlines() if line.startswith("{")]
    assert {line["stage"] for line in lines} >= {"first pass", "iterations"}
    assert torch.equal(Model.load(tmp_path / "m.mekrr").coefficients, alone.coefficients)
    assert not (tmp_path / "m.mekrr.checkpoint").exists()


def test_ranks_extract_together(start, toy_file, checkpoint, tmp_path):
    options = ("--backbone", "schnet", "--checkpoint", str(checkpoint), "--shard-size", "4K")
    for size, name in ((2, "two"), (1, "one")):
        done = finish(start(["mekrr_scale", "extract", str(toy_file), "-o", str(tmp_path / name), *options], size))
        assert [code for *_, code in done] == [0] * size, done
        assert "24 structures written" in done[0][0]
    assert FeatureStore(tmp_path / "two").id == FeatureStore(tmp_path / "one").id


def test_an_error_of_all_ranks_is_told_once(start, store, tmp_path):
    done = finish(start(arguments(store, tmp_path / "m.mekrr", "--landmarks", "100000"), 2))
    assert [code for *_, code in done] == [2, 2], done
    assert sum("100000 landmarks asked for" in " ".join(err.split()) for _, err, _ in done) == 1


def test_a_rank_that_fails_ends_the_job_with_its_own_error(start, store, tmp_path):
    """The second rank finds a damaged shard of its own; the first waits for it in a collective."""
    broken = tmp_path / "store"
    broken.mkdir()
    for path in store.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (second,) = deal([FeatureStore(broken)], 1, 2)
    everyones = FeatureStore(broken).shards[0].path  # all ranks look at the first
    victim = broken / sorted(second.owned - {everyones})[0]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 0xFF
    victim.write_bytes(bytes(data))
    done = finish(start(arguments(broken, tmp_path / "m.mekrr"), 2))  # long before the job's own limit of 600 s
    assert done[1][2] == 4, done
    assert "rank 1 of 2" in done[1][1]
    assert "damaged" in done[1][1]
    assert done[0][2] == 9, done
    assert "error" not in done[0][1]


def test_a_lost_rank_is_noticed(start, store, tmp_path):
    """It is killed while the first one keeps a state, with collectives still to come."""
    given = held(tmp_path, 2, arguments(store, tmp_path / "m.mekrr", *FALKON, "--timeout", "20"))
    first, second = start(given, 2)
    wait_for(tmp_path / "there-0", [first, second])
    second.kill()
    (tmp_path / "go").touch()
    done = finish([first, second])
    assert done[0][2] == 9, done
    assert "lost the others" in " ".join(done[0][1].split())


@pytest.mark.parametrize("point", ["collective", "progress"])
def test_a_frozen_first_rank_is_given_up(start, point):
    """SIGSTOP: it holds the job's store, which would not answer for ever."""
    first, second = start(["tests.distributed.stopping", point], 2)
    try:
        out, err = second.communicate(timeout=60)
    finally:
        first.kill()
        second.kill()
        first.communicate()
    assert second.returncode == 9, (out, err)
    assert "lost the others" in " ".join(err.split())


DIFFERENT = [
    (("--landmarks", "41"), "plan"),
    (("--sums", "elsewhere"), "checkpoint or sums"),
    (("--store", "OTHER"), "store"),
    ((), "MEKRR_SCALE_EXP"),
]


@pytest.mark.parametrize(("other", "named"), DIFFERENT)
def test_ranks_that_were_given_different_things_do_no_work(start, store, tmp_path, other, named):
    """A mixed model would look like any other."""
    grown = tmp_path / "grown"
    if "OTHER" in other:
        first = FeatureStore(store)
        grown.mkdir()
        for path in store.iterdir():
            if path.name != "manifest.json" and not path.name.startswith(first.shards[0].path):
                (grown / path.name).write_bytes(path.read_bytes())
        finalize(grown)
    usual = arguments(store, tmp_path / "m.mekrr", "--timeout", "20")
    changed = arguments(grown if "OTHER" in other else store, tmp_path / "m.mekrr", "--timeout", "20")
    if "OTHER" not in other:
        changed += [str(tmp_path / word) if word == "elsewhere" else word for word in other]
    port = held_port()
    own = [{named: library} if named.isupper() else {} for library in ("numpy", "torch")]  # as another processor's
    ranks = [start(given, 2, port, [rank], **own[rank])[0] for rank, given in enumerate((usual, changed))]
    done = finish(ranks)
    assert [code for _, _, code in done] == [2, 2], done
    told = " ".join(" ".join(err.split()) for _, err, _ in done)
    assert "rank 1 was given another" in told
    assert any(word in told for word in named.split(" or "))
    assert not (tmp_path / "m.mekrr").exists()


@pytest.mark.parametrize("solver", ["falkon", "direct"])
def test_killed_or_stopped_fits_go_on_and_give_the_same_bits(start, store, tmp_path, solver, alone):
    """SIGKILL and SIGTERM where a state has been kept, restarts with other numbers of ranks for Falkon."""
    output = tmp_path / "m.mekrr"
    options = FALKON if solver == "falkon" else ("--checkpoint-interval", "0")
    for attempt, number in enumerate((3, 2, 1, 4) if solver == "falkon" else (2, 1, 1)):
        point = tmp_path / f"{attempt}"
        point.mkdir()
        size = 1 + attempt % 2 if solver == "falkon" else 2
        processes = start(held(point, number, arguments(store, output, *options)), size)
        wait_for(point / "there-0", processes)
        asked = attempt == 1
        for process in processes:
            process.send_signal(signal.SIGTERM if asked else signal.SIGKILL)
        (point / "go").touch()
        done = finish(processes)
        assert [code for *_, code in done] == [75 if asked else -9] * size, done
        assert list((tmp_path / "m.mekrr.checkpoint").glob("*.safetensors"))
    done = finish(start(arguments(store, output, *options), 2))
    assert done[0][2] == 0, done
    found = Model.load(output).coefficients
    if solver == "falkon":
        assert torch.equal(found, alone.coefficients)
        return
    finish(start(arguments(store, tmp_path / "again.mekrr"), 2))
    assert torch.equal(found, Model.load(tmp_path / "again.mekrr").coefficients)


@pytest.mark.parametrize("way", ["signal", "file"])
def test_a_fit_that_is_asked_to_stop_keeps_its_state_and_tells_so(start, store, tmp_path, way):
    """Exit code 75 and a marker: what a batch script requeues by. A file needs no way to the ranks."""
    kept = tmp_path / "kept"
    given = held(tmp_path, 2, arguments(store, tmp_path / "m.mekrr", *FALKON, "--checkpoint", str(kept)))
    (process,) = start(given, 1)
    wait_for(tmp_path / "there-0", [process])
    if way == "signal":
        process.send_signal(signal.SIGUSR1)
    else:
        (kept / "stop").touch()
        time.sleep(1.1)  # a fit looks for it once in a second
    (tmp_path / "go").touch()
    ((_, err, code),) = finish([process])
    assert code == 75, err
    assert "run the same command again" in " ".join(err.split())
    assert (kept / "stopped").exists()
    assert list(kept.glob("*.safetensors"))
    assert not (tmp_path / "m.mekrr").exists()


def test_sums_do_not_depend_on_order_or_grouping():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(5, dtype=torch.float64, generator=generator) * 10.0 ** (4 * k - 30) for k in range(16)]
    parts += [-parts[3], torch.zeros(5, dtype=torch.float64)]
    values = []
    for seed in range(6):
        order = torch.randperm(len(parts), generator=torch.Generator().manual_seed(seed)).tolist()
        total = ExactSum(5)
        for i in order:
            total.add(parts[i].clone())
        values.append(total.value())
    assert all(torch.equal(value, values[0]) for value in values)
    torch.testing.assert_close(values[0], reference.exact_sum(parts), rtol=1e-15, atol=0.0)


def test_sums_tell_of_numbers_that_are_none():
    total = ExactSum(2)
    total.add(torch.tensor([1.0, 2.0], dtype=torch.float64))
    total.add(torch.tensor([torch.inf, 2.0], dtype=torch.float64))
    assert bool(total.value().isnan().all())
    assert ExactSum(3).value().tolist() == [0.0, 0.0, 0.0]


def test_checkpoints_survive_tearing_and_refuse_other_problems(tmp_path):
    kept = Checkpoint(tmp_path / "c", {"ridges": [1e-6], "stores": ["a"]})
    assert kept.load("x") is None
    kept.save("x", State({"beta": torch.arange(3.0)}, {"step": 1}))
    kept.save("x", State({"beta": torch.arange(4.0)}, {"step": 2}))
    assert kept.load("x").values == {"step": 2}
    newest = tmp_path / "c" / "x.safetensors"
    whole = newest.read_bytes()
    for torn in (whole[: len(whole) // 2], whole[:-3] + b"abc", b"", whole[:8]):
        newest.write_bytes(torn)
        state = kept.load("x")
        assert state.values == {"step": 1}
        assert state.tensors["beta"].tolist() == [0.0, 1.0, 2.0]
    other = Checkpoint(tmp_path / "c", {"ridges": [1e-5], "stores": ["a"]})
    with pytest.raises(ConfigError, match=r"ridges was \[1e-06\], now \[1e-05\]"):
        other.load("x")
    kept.clear()
    assert not (tmp_path / "c").exists()


def test_a_restart_by_torchrun_goes_on_unless_the_job_was_asked_to_stop(tmp_path, monkeypatch):
    kept = Checkpoint(tmp_path, {})
    for restarts, marker, ends in (("0", "stop", False), ("1", "stopped", False), ("1", "stop", True)):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
        (tmp_path / marker).touch()
        if ends:
            with pytest.raises(StoppedError, match="stopped before"):
                kept.begin()
        else:
            kept.begin()
            assert not (tmp_path / marker).exists()


def test_signals_wait_only_where_a_state_can_be_kept():
    with StopSignals() as stop:
        with stop.deferred():
            os.kill(os.getpid(), signal.SIGUSR1)
            assert stop.asked
        with pytest.raises(StoppedError, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)


def test_launchers_are_recognised():
    assert place_of({}) is None
    assert place_of({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) is None  # the batch script itself, not a step
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert place_of(torchrun)[:3] == (3, 4, 1)
    with pytest.raises(ConfigError, match="MASTER_PORT"):
        place_of({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"})
    slurm = {
        "SLURM_STEP_NUM_TASKS": "16",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NODELIST": "gpu[07-10]",
        "SLURM_JOB_ID": "123456",
    }
    rank, size, local, found = place_of(slurm)
    assert (rank, size, local) == (5, 16, 1)
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("gpu07", "23456")
    steps = [
        {**slurm, "SLURM_JOB_ID": job, "SLURM_STEP_ID": str(step)} for job in ("123456", "123457") for step in "012"
    ]
    ports = [place_of(step)[3]["MASTER_PORT"] for step in steps]
    assert len(set(ports)) == 6  # steps that run side by side do not meet one another
    assert ports[0] == "23456"
    assert all(20000 <= int(port) < 40000 for port in ports)
    assert place_of({**steps[1], "SLURM_PROCID": "9"})[3]["MASTER_PORT"] == ports[1]
    assert first_host("a-b3,c4") == "a-b3"


def test_shards_are_dealt_whole_and_evenly():
    dealt = share([7, 1, 1, 1, 6, 2], 3)
    assert sorted(item for items in dealt for item in items) == list(range(6))
    assert max(sum([7, 1, 1, 1, 6, 2][i] for i in items) for items in dealt) == 7
    assert share([5], 3) == [[0], [], []]

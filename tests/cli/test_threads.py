"""How many cores the command line takes, and how its threads wait."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mekrr_scale.cli import threads

ROOT = Path(__file__).parents[2]


def run(*arguments, **given):
    """What a program prints that sees these of the variables about threads alone."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MKL_", "OPENBLAS_", "SLURM_"))}
    environment = {**kept, "PYTHONPATH": str(ROOT), **given}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


ENV = ("-m", "mekrr_scale", "env", "--json", "--no-load")


def test_threads_sleep_and_slurm_limits_them():
    seen = run(*ENV, SLURM_CPUS_PER_TASK="1")
    assert seen["threads"]["OMP_WAIT_POLICY"] == "PASSIVE"
    assert seen["cpus"]["usable"] == 1
    code = "from mekrr_scale.cli.threads import settle; settle(); import torch; print(torch.get_num_threads())"
    assert run("-c", code, SLURM_CPUS_PER_TASK="1") == 1


def test_what_the_user_has_set_stays():
    given = {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "3"}
    assert run(*ENV, **given, SLURM_CPUS_PER_TASK="1")["threads"] == given


GROUPS = [
    ("0::/user/job\n", {"user/job/cpu.max": "150000 100000\n"}, [1.5]),
    ("0::/user/job\n", {"user/job/cpu.max": "max 100000\n", "user/cpu.max": "400000 100000\n"}, [4.0]),
    ("0::/\n", {"cpu.max": "200000 100000"}, [2.0]),
    (
        "5:memory:/job\n4:cpu,cpuacct:/job\n",
        {"cpu,cpuacct/job/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"},
        [3.0],
    ),
    (
        "4:cpu,cpuacct:/job\n",
        {"cpu,cpuacct/job/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"},
        [],
    ),
    ("0::/gone\n", {}, []),
    ("0::/user\n", {"user/cpu.max": "nonsense"}, []),
]


@pytest.mark.parametrize(("own", "files", "expected"), GROUPS)
def test_quotas_of_control_groups(tmp_path, own, files, expected):
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text(own)
    assert list(threads.quotas(tmp_path / "groups", tmp_path / "own")) == expected
    assert list(threads.quotas(tmp_path / "groups", tmp_path / "absent")) == []


def test_limits_are_the_smallest_of_all(monkeypatch):
    monkeypatch.setattr(threads, "affinity", lambda: 8)
    monkeypatch.setattr(threads, "quotas", lambda: [2.5])
    assert threads.usable_cores({}) == 2
    assert threads.usable_cores({"SLURM_CPUS_PER_TASK": "1"}) == 1
    assert threads.usable_cores({"SLURM_CPUS_PER_TASK": "many"}) == 2
    monkeypatch.setattr(threads, "quotas", lambda: [0.5])
    assert threads.usable_cores({}) == 1
    found = {"OMP_WAIT_POLICY": "ACTIVE"}
    threads.settle(found)
    assert found == {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "1"}
    monkeypatch.setattr(threads, "quotas", list)
    found = {}
    threads.settle(found)
    assert found == {"OMP_WAIT_POLICY": "PASSIVE"}

"""Ranks on one machine: strong and weak scaling of the pass over the store, one thread each, over 1, 2 and 4 gloo ranks."""

import json
import os
import socket
import subprocess
import sys
import time

import torch

from benchmarks.data import ROOT, synthetic
from benchmarks.measuring import table
from mekrr_scale.distributed import join
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, fit_transform
from mekrr_scale.landmarks import Uniform
from mekrr_scale.models import fit_baseline
from mekrr_scale.regression import Problem, Run, Source
from mekrr_scale.solvers import Direct
from mekrr_scale.store import deal

M, ATOMS, DIM = 1000, 8, 64
N = 60_000


def main() -> None:
    print(f"n = {N} structures of {ATOMS} atoms (weak: for each rank), d = {DIM}, M = {M}, direct, one thread a rank\n")
    rows: list[list[object]] = []
    for kind in ("strong", "weak"):
        alone = 0.0
        for size in (1, 2, 4):
            n = N if kind == "strong" else N * size
            passed = min(_job(size, n) for _ in range(3))
            alone = alone or passed
            speed = alone / passed * (1 if kind == "strong" else size)
            rows.append([kind, size, n, passed, f"{speed:.2f}"])
    table(["scaling", "ranks", "structures", "pass, s", "speed-up over one rank"], rows)


def _job(size: int, n: int) -> float:
    synthetic(n, ATOMS, DIM, shard_bytes=2 * 1024**2)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    ranks = []
    for rank in range(size):
        place = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
        environment = {
            **os.environ,
            **place,
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        command = [sys.executable, "-m", "benchmarks.ranks", str(n)]
        ranks.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True))
    found = [json.loads(rank.communicate()[0].splitlines()[-1]) for rank in ranks]
    return max(found)


def seconds_of_a_pass(n: int) -> float:
    """Seconds of the pass, from all ranks' common start to their common end."""
    torch.set_num_threads(1)
    group = join(300)
    whole = synthetic(n, ATOMS, DIM, shard_bytes=2 * 1024**2)
    (own,) = deal([whole], group.rank, group.size)
    kernel = SetKernel(
        Gaussian(20.0), SpeciesMixing(1.0), "sum", fit_transform(own, "scale-per-species", group, next(iter(whole)))
    )
    landmarks = Uniform(M).select(own, kernel, group)
    problem = Problem(kernel, landmarks, fit_baseline(own, "composition", group=group))
    whitening = problem.whitening(group)
    group.barrier()
    start = time.perf_counter()
    Direct().accumulate(problem, problem.rows(Source(own, group=group)), whitening, Run(group=group))
    group.barrier()
    passed = time.perf_counter() - start
    group.leave()
    return passed


if __name__ == "__main__":
    print(json.dumps(seconds_of_a_pass(int(sys.argv[1]))))

"""Falkon under fire: one rank of two killed at random times, torchrun starts the job again; the same bits in the end?"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.data import ROOT, synthetic
from mekrr_scale.models import Model

KILLS = 24
CONFIG = """
store = ["{store}"]
[validation]
folds = 0
[kernel]
length_scales = "2x"
[baseline]
kinds = "composition"
[landmarks]
count = 1500
[solver]
name = "falkon"
ridges = 1e-8
rtol = 1e-15
preconditioner = "falkon"
max_steps = 500
patience = 5000
"""  # a fixed number of iterations, so that there is always something to kill


def main() -> None:
    store = synthetic(60_000, 8, 64, shard_bytes=2 * 1024**2)
    folder = Path(tempfile.mkdtemp())
    alone = Model.load(_fit(store.path, folder / "alone.mekrr", 1, 0)[0]).coefficients
    for size in (2, 3, 4):
        same = torch.equal(Model.load(_fit(store.path, folder / f"{size}.mekrr", size, 0)[0]).coefficients, alone)
        print(f"{size} ranks: {'the same bits' if same else 'OTHER BITS'} as one rank", flush=True)
    kills, fits, other, start = 0, 0, 0, time.monotonic()
    while kills < KILLS:
        output, killed, _ = _fit(store.path, folder / f"killed-{fits}.mekrr", 2, KILLS, seed=fits)
        other += not torch.equal(Model.load(output).coefficients, alone)
        kills, fits = kills + killed, fits + 1
    print(
        f"{kills} kills in {fits} fits of 2 ranks, {time.monotonic() - start:.0f} s: {fits - other} with the same bits as one rank"
    )
    shutil.rmtree(folder)


def _fit(store: Path, output: Path, size: int, kills: int, seed: int = 0) -> tuple[Path, int, float]:
    """A fit under torchrun, one of whose ranks is killed every few seconds."""
    config = output.with_suffix(".toml")
    config.write_text(CONFIG.format(store=store), encoding="utf-8")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"),
        *(f"--max-restarts={kills + 1}", "-m", "mekrr_scale", "fit", str(config), "--output", str(output)),
        *("--checkpoint-interval", "0.2"),
    ]
    start, done, generator = time.monotonic(), 0, random.Random(seed)
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=(output.with_suffix(".log")).open("w"),
    ) as job:
        while job.poll() is None:
            if done == kills:
                time.sleep(0.1)
                continue
            time.sleep(generator.uniform(5.0, 14.0))
            ranks = _children(job.pid)
            if ranks and job.poll() is None:
                os.kill(generator.choice(ranks), signal.SIGKILL)
                done += 1
    if job.returncode:
        sys.exit(f"the fit ended with {job.returncode} after {done} kills; see {output.with_suffix('.log')}")
    return output, done, time.monotonic() - start


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [int(child) for child in found]


if __name__ == "__main__":
    main()

"""Streaming rows against a bare matrix product of the same shapes and precision, with and without AVX-512.

Every setting of the processor is measured in processes of its own, which take turns with those of another checkout if
BENCHMARK_BEFORE names one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.data import ROOT, random_batch
from benchmarks.measuring import table
from mekrr_scale.arrays import FeatureBatch, Landmarks
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, Transform

ATOMS = 50  # of a structure
DIRECTIONS = 8
ROUNDS = 2  # of processes
THREADS = tuple(sorted({1, min(2, os.cpu_count() or 1)}))
REPEATS = 3
Found = dict[str, list[float]]  # by what it is: seconds of the product and of the rows, the best

_CHILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
import mekrr_scale
sys.path.insert(0, sys.argv[2])
from benchmarks import kernel_rows
print(json.dumps(kernel_rows.measured(*map(int, sys.argv[3:]))))
"""


def main(structures: int = 400, count: int = 1500, rounds: int = ROUNDS) -> None:
    before = os.environ.get("BENCHMARK_BEFORE")
    checkouts = {"": ROOT} if before is None else {"before": Path(before), "after": ROOT}
    rows: list[list[object]] = []
    for processor, environment in _settings():
        for threads in THREADS:
            found = _in_turns(checkouts, environment, threads, (structures, count), rounds)
            for what in next(iter(found.values())):
                bare = min(times[what][0] for times in found.values())
                for label, times in found.items():
                    full = times[what][1]
                    seconds = [1e3 * bare, 1e3 * full, f"{100 * bare / full:.0f} %"]
                    rows.append([f"{processor} {label}".strip(), threads, *what.split(), *seconds])
    header = ["processor", "threads", "rows", "d", "elements", "product, CPU ms", "rows, CPU ms", "rate of the rows"]
    table(header, rows)


def _settings() -> Iterator[tuple[str, dict[str, str]]]:
    """This processor as it is and, where it has AVX-512, as one without: for torch's own loops and numpy's."""
    wide = [
        name
        for name in np.show_config(mode="dicts")["SIMD Extensions"]["found"]
        if name.startswith(("AVX512", "X86_V4"))
    ]
    yield "AVX-512" if wide else "as it is", {}
    if wide:
        yield "AVX2", {"ATEN_CPU_CAPABILITY": "avx2", "NPY_DISABLE_CPU_FEATURES": " ".join(wide)}


def _in_turns(
    checkouts: dict[str, Path], environment: dict[str, str], threads: int, sizes: tuple[int, int], rounds: int
) -> dict[str, Found]:
    found: dict[str, Found] = {}
    around = {**os.environ, **environment, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    for _ in range(rounds):
        for label, checkout in checkouts.items():
            command = [sys.executable, "-P", "-c", _CHILD, str(checkout), str(ROOT), *map(str, (*sizes, threads))]
            told = subprocess.run(command, env=around, capture_output=True, text=True, check=True, cwd=ROOT).stdout
            now: Found = json.loads(told)
            best = found.setdefault(label, now)
            found[label] = {what: [min(pair) for pair in zip(best[what], now[what], strict=True)] for what in now}
    return found


def measured(structures: int, count: int, threads: int) -> Found:
    """In this process: CPU time of all threads, which other work on the machine disturbs least."""
    torch.set_num_threads(threads)
    found: Found = {}
    for dim in (64, 256):
        batch = random_batch(structures, ATOMS, dim)
        atoms = batch.runs[0].features
        chosen = atoms[torch.randperm(len(atoms), generator=torch.Generator().manual_seed(0))[:count]].clone()
        landmarks = Landmarks(chosen, torch.full((len(chosen),), 29), torch.arange(len(chosen)), len(chosen))
        kernel = SetKernel(Gaussian(1.0), SpeciesMixing(0.0), "sum", Transform.identity(dim))
        moved = _moved(batch, max(1, structures // DIRECTIONS))
        for dtype in (torch.float64, torch.float32):
            left, right = atoms.to(dtype), chosen.T.to(dtype)
            out = torch.empty(len(left), len(chosen), dtype=dtype)
            some = slice(0, DIRECTIONS * int(moved.n_atoms.sum()))
            for name, product, rows in (
                ("energies", (left, out), lambda k=kernel, x=batch, z=landmarks, d=dtype: k.rows(x, z, d)),
                (
                    "derivatives",
                    (left[some], out[some]),
                    lambda k=kernel, x=moved, z=landmarks, d=dtype: k.derivative_rows(x, z, d),
                ),
            ):
                bare, full = [], []
                for _ in range(REPEATS):  # in turns, since machines are noisy
                    bare.append(_timed(lambda p=product, r=right: torch.mm(p[0], r, out=p[1])))
                    full.append(_timed(rows))
                found[f"{name} {dim} {str(dtype)[6:]}"] = [min(bare), min(full)]
    return found


def _moved(batch: FeatureBatch, structures: int) -> FeatureBatch:
    """Some structures of a batch with tangents along as many directions each."""
    atoms = batch.runs[0].features[: structures * ATOMS]
    tangents = torch.randn(DIRECTIONS, *atoms.shape, generator=torch.Generator().manual_seed(1))
    species = torch.full((len(atoms),), batch.runs[0].z)
    return FeatureBatch.unlabelled(atoms, species, torch.full((structures,), ATOMS), tangents)


def _timed(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start

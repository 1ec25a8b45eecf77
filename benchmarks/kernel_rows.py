"""Streaming rows against a bare matrix product of the same shapes and precision."""

import torch

from benchmarks.data import random_batch
from benchmarks.measuring import seconds, table
from mekrr_scale.arrays import Landmarks
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, Transform


def main(structures: int = 800, count: int = 1500) -> None:
    rows: list[list[object]] = []
    for dim in (64, 256):
        for dtype in (torch.float64, torch.float32):
            batch = random_batch(structures, 50, dim)
            atoms = batch.runs[0].features
            chosen = atoms[torch.randperm(len(atoms), generator=torch.Generator().manual_seed(0))[:count]].clone()
            landmarks = Landmarks(chosen, torch.full((count,), 29), torch.arange(count), count)
            kernel = SetKernel(Gaussian(1.0), SpeciesMixing(0.0), "sum", Transform.identity(dim))
            a, b = atoms.to(dtype), chosen.to(dtype)
            out = torch.empty(len(a), len(b), dtype=dtype)
            bare, full = [], []
            for _ in range(5):  # interleaved, since machines are noisy
                bare.append(seconds(lambda a=a, b=b, out=out: torch.mm(a, b.T, out=out), 2))
                full.append(seconds(lambda k=kernel, x=batch, z=landmarks, d=dtype: k.rows(x, z, d), 2))
            ratio = min(bare) / min(full)
            rows.append([dim, str(dtype)[6:], 1e3 * min(bare), 1e3 * min(full), f"{100 * ratio:.0f} %"])
    table(["d", "elements", "matrix product, ms", "rows, ms", "rate of the rows"], rows)

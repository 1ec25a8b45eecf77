"""Fewer rows than the rank: ridges, weights and the folds' solutions in the span of the rows, beside whole matrices.

What ``Direct`` does for each fold, with 17 ridges and four force weights, on rows whose singular values fall by ten orders of
magnitude; a tenth of the rows are energies. In one process that takes turns; best of some turns, in seconds of
the processor, one thread. "Off by" is the largest difference of predictions of the rows, over the largest of them.

    python -m benchmarks few_rows
"""

from __future__ import annotations

from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.measuring import cpu_seconds, table
from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.solvers import Normal, path, weight_paths

RANKS, PARTS = (1000, 2000), (0.1, 0.3, 0.5, 0.7, 0.9)
RIDGES = tuple(10.0 ** (k / 2 - 10) for k in range(17))
WEIGHTS = tuple(ByKind.of({RowKind.ENERGY: 1.0, RowKind.FORCE: weight}, 0.0) for weight in (1e-4, 1e-3, 1e-2, 1e-1))
TURNS = 3


def rows_of(count: int, rank: int) -> tuple[Tensor, Tensor]:
    """Whitened rows and labels."""
    generator = torch.Generator().manual_seed(count)
    rows = torch.randn(count, rank, generator=generator, dtype=torch.float64) * torch.logspace(0, -10, rank).double()
    return rows, torch.randn(count, generator=generator, dtype=torch.float64)


def timed(rows: Tensor, labels: Tensor, span: bool) -> tuple[float, Tensor]:
    """Seconds, and predictions of the rows."""
    energies = len(rows) // 10
    most = len(rows) if span else rows.shape[1] // 2  # rows of a kind that are no Gram matrix
    with patch.object(path, "SHORT", path.SHORT if span else 0.0):
        begin = cpu_seconds()
        kinds = {}
        for kind, part, r in zip(
            (RowKind.ENERGY, RowKind.FORCE), rows.tensor_split([energies]), labels.tensor_split([energies]), strict=True
        ):
            few = len(part) <= most
            kinds[kind] = Normal(None if few else part.T @ part, part if few else None, part.T @ r)
        found = weight_paths(kinds, WEIGHTS, RIDGES)
        taken = cpu_seconds() - begin
    return taken, rows @ torch.cat(list(found.values()), 1)


def main() -> None:
    torch.set_num_threads(1)
    lines: list[list[object]] = []
    for rank in RANKS:
        for part in PARTS:
            count = round(part * rank)
            given = rows_of(count, rank)
            turns = [(timed(*given, span=False), timed(*given, span=True)) for _ in range(TURNS)]
            before, after = (min(seconds for seconds, _ in each) for each in zip(*turns, strict=True))
            first, second = (found for _, found in turns[0])
            off = float((first - second).abs().max() / first.abs().max())
            lines.append([rank, count, before, after, before / after, f"{off:.0e}"])
    table(["rank", "rows", "whole matrices, s", "span of the rows, s", "ratio", "off by"], lines)


if __name__ == "__main__":
    main()

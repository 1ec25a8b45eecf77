"""Fewer rows than the rank: ridges, weights and the folds' solutions in the span of the rows, beside whole matrices.

What ``Direct`` does for each fold, with 17 ridges and four force weights, on rows whose singular values fall by ten orders of
magnitude; a tenth of the rows are energies. In one process that takes turns; best of some turns, in seconds of
the processor, one thread. "Off by" is the largest difference of predictions of the rows, over the largest of them.

    python -m benchmarks few_rows
"""

from __future__ import annotations

from collections.abc import Mapping
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


def whole(rows: Tensor, labels: Tensor, energies: int) -> dict[RowKind, Normal]:
    """Gram matrices of kinds with more rows than half the rank."""
    found = {}
    for kind, part, r in _kinds(rows, labels, energies):
        many = len(part) > rows.shape[1] // 2
        found[kind] = Normal(part.T @ part if many else None, None if many else part, part.T @ r)
    return found


def spanned(rows: Tensor, labels: Tensor, energies: int) -> dict[RowKind, Normal]:
    return {kind: Normal(None, part, part.T @ r) for kind, part, r in _kinds(rows, labels, energies)}


def _kinds(rows: Tensor, labels: Tensor, energies: int) -> list[tuple[RowKind, Tensor, Tensor]]:
    return [
        (RowKind.ENERGY, rows[:energies], labels[:energies]),
        (RowKind.FORCE, rows[energies:], labels[energies:]),
    ]


def main() -> None:
    torch.set_num_threads(1)
    lines: list[list[object]] = []
    for rank in RANKS:
        for part in PARTS:
            count = round(part * rank)
            given = (*rows_of(count, rank), count // 10)
            turns = [(_before(*given), _after(*given)) for _ in range(TURNS)]
            before, after = (min(seconds for seconds, _ in each) for each in zip(*turns, strict=True))
            first, second = (given[0] @ torch.cat(list(found.values()), 1) for _, found in turns[0])
            off = float((first - second).abs().max() / first.abs().max())
            lines.append([rank, count, before, after, before / after, f"{off:.0e}"])
    table(["rank", "rows", "whole matrices, s", "span of the rows, s", "ratio", "off by"], lines)


def _before(rows: Tensor, labels: Tensor, energies: int) -> tuple[float, Mapping[object, Tensor]]:
    with patch.object(path, "SHORT", 0.0):
        begin = cpu_seconds()
        found = weight_paths(whole(rows, labels, energies), WEIGHTS, RIDGES)
        return cpu_seconds() - begin, dict(found)


def _after(rows: Tensor, labels: Tensor, energies: int) -> tuple[float, Mapping[object, Tensor]]:
    begin = cpu_seconds()
    found = weight_paths(spanned(rows, labels, energies), WEIGHTS, RIDGES)
    return cpu_seconds() - begin, dict(found)


if __name__ == "__main__":
    main()

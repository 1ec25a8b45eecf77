"""Rows of batches that have none: passed over, and counted by those who skip."""

from dataclasses import replace

import torch

from mekrr_scale.arrays import DERIVATIVES, RowKind
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, Transform
from mekrr_scale.landmarks import Uniform
from mekrr_scale.models import fit_baseline
from mekrr_scale.regression import Problem, Source
from mekrr_scale.regression.rows import stored_rows
from tests import reference


def test_batches_without_labels_between_others():
    """The first, second and fourth of five batches lack energies or directions: the others' rows are all there."""
    batches = [reference.with_tangents(reference.random_batch(seed), seed + 10)[0] for seed in range(5)]
    kernel = SetKernel(Gaussian(1.6), SpeciesMixing(0.4), "sum", Transform.identity(4))
    problem = Problem(kernel, Uniform(5).select(batches, kernel), fit_baseline(batches, "composition"))
    lacking = [place in (0, 1, 3) for place in range(5)]
    energies = [
        replace(b, energy=torch.full_like(b.energy, torch.nan)) if lacks else b
        for b, lacks in zip(batches, lacking, strict=True)
    ]
    moved = [replace(b, directions=None) if lacks else b for b, lacks in zip(batches, lacking, strict=True)]
    chosen = [batches[2], batches[4]]
    for spoilt, whole in (
        (Source(energies), Source(chosen)),
        (Source(energies, moved), Source(chosen, chosen)),
    ):
        found, expected = list(problem.rows(spoilt)), list(problem.rows(whole))
        assert [block.kind for block in found] == [block.kind for block in expected]
        assert {block.kind for block in found} <= {RowKind.ENERGY} | DERIVATIVES
        assert all(torch.equal(a.matrix, b.matrix) for a, b in zip(found, expected, strict=True))
        assert all(torch.equal(a.target, b.target) for a, b in zip(found, expected, strict=True))
        alone = [block for part in stored_rows(problem, spoilt, frozenset(RowKind)) for block in part]
        assert all(torch.equal(a.matrix, b.matrix) for a, b in zip(alone, expected, strict=True))
        for skip in range(len(expected) + 2):
            later = [block for block in problem.rows(whole).blocks(skip) if block is not None]
            assert [block.kind for block in later] == [block.kind for block in expected[skip:]]

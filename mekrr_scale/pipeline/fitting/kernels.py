"""The kernel of a candidate, and the distances that its length scales are multiples of."""

from __future__ import annotations

from collections.abc import Iterable

from mekrr_scale.arrays import Compression, FeatureBatch
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.kernels import SetKernel, SpeciesMixing, Transform, atom_kernel
from mekrr_scale.landmarks import median_distance
from mekrr_scale.pipeline.fitting.coordinates import Restored, restored
from mekrr_scale.pipeline.fitting.plan import FitPlan
from mekrr_scale.pipeline.fitting.values import LengthScale


def set_kernel(
    plan: FitPlan, length: LengthScale, alpha: float | None, median: float, transform: Transform
) -> SetKernel:
    """The kernel of a candidate.

    Args:
        alpha: None where the plan gives a matrix.
        median: what relative length scales are multiples of.
    """
    at = plan.kernel

    def absolute(scale: LengthScale) -> float:
        return scale.value * (median if scale.relative else 1.0)

    parameters: dict[str, object] = dict(at.parameters)
    if at.name == "gaussian-sum":
        parameters["length_scales"] = tuple(absolute(scale) for scale in at.length_scales)
    else:
        parameters["length_scale"] = absolute(length)
    mixing = mixing_matrix(plan) if alpha is None else SpeciesMixing(alpha)
    return SetKernel(atom_kernel(at.name, **parameters), mixing, at.reduce, transform)


def mixing_matrix(plan: FitPlan) -> SpeciesMixing:
    """The matrix that a plan gives."""
    rows = plan.kernel.mixing
    assert rows is not None
    assert not isinstance(rows, str)
    return SpeciesMixing(0.0, tuple(map(atomic_number, rows)), tuple(map(tuple, rows.values())))


def median_of(
    plan: FitPlan,
    batches: Iterable[FeatureBatch],
    transform: Transform,
    group: Group = ALONE,
    compression: Compression | None = None,
) -> float:
    """The median distance of transformed features; 1 where no length scale is relative to it.

    Atoms of two species count, whether the kernel lets them meet or not: what has axes of each species goes back to the
    features that it stands for.
    """
    if not any(length.relative for length in plan.kernel.length_scales):
        return 1.0
    if compression is not None and not compression.common:
        batches, transform = Restored(batches, compression), restored(transform, compression)
    return group.agree(median_distance(batches, transform, plan.seed, group=group))


def atomic_number(symbol: str) -> int:
    """Of an element."""
    from ase.data import atomic_numbers

    return int(atomic_numbers[symbol])

"""Energies of every structure by the model of the folds that do not hold it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from mekrr_scale.arrays import RowKind, uniform
from mekrr_scale.distributed import ExactSum
from mekrr_scale.pipeline.fitting.data import FitData
from mekrr_scale.regression import Errors, Problem, RowBlock, Run, Source
from mekrr_scale.solvers import Solution

_SHOWN = 20_000  # structures kept one by one, for figures


@dataclass(frozen=True)
class HeldOut:
    """Cross-validated energies per atom less the species' references."""

    reference: Float64[Tensor, " shown"]  # eV/atom, labels; of some thousands where there are more
    predicted: Float64[Tensor, " shown"]
    errors: Errors = field(default_factory=lambda: Errors(0, math.nan, math.nan))  # eV/atom, by what structures count
    spread: float = 0.0  # root mean square of what the kernel has to explain, eV/atom


def out_of_fold(problem: Problem, solution: Solution, data: FitData, run: Run, seed: int = 3) -> HeldOut:
    """One pass over the energy rows; memory does not depend on their number.

    Args:
        seed: of which structures are kept one by one.
    """
    nothing = torch.zeros(0, dtype=torch.float64)
    if problem.folds is None or not solution.fold_values:
        return HeldOut(nothing, nothing)
    references, predictions = [nothing], [nothing]
    sums, count = ExactSum(4), 0
    part = _SHOWN / max(1, sum(shard.energies for store in data.stores for shard in store.shards))
    device = run.execution.device
    placed = problem.on(device)
    for batch in data.energies:
        for block in placed.rows(Source((batch,)), {RowKind.ENERGY}):
            per_atom = 1.0 / (block.scale * block.counts.sum(1))
            reference, predicted = block.target * per_atom, by_others(block, solution) * per_atom
            error = predicted - reference
            terms = torch.stack([torch.ones_like(error), error.abs(), error.square(), reference.square()])
            sums.add((terms * block.share).sum(1))
            count += len(error)
            prior = (batch.prior / batch.n_atoms)[batch.with_energy] if problem.baseline.prior else 0.0
            shown = torch.from_numpy(uniform(block.key.numpy().astype(np.uint64), seed) < part)
            references.append((reference + prior)[shown])
            predictions.append((predicted + prior)[shown])
    total = int(data.group.sum(torch.tensor(count)))
    share, absolute, square, spread = sums.value(data.group).tolist()
    return HeldOut(
        reference=data.group.joined(torch.cat(references)),
        predicted=data.group.joined(torch.cat(predictions)),
        errors=replace(Errors.of_sums(share, absolute, square), count=total),
        spread=(spread / share) ** 0.5 if share else 0.0,
    )


def by_others(block: RowBlock, solution: Solution) -> Float64[Tensor, " rows"]:
    """What the models of the folds that miss each row give for it, to be held against its target."""
    predicted = torch.zeros_like(block.target)
    for fold in range(len(solution.fold_values)):
        held = block.fold == fold
        predicted[held] = by_model_without(fold, block.rows[held].double(), block, held, solution)
    return predicted


def by_model_without(
    fold: int, matrix: Float64[Tensor, "chosen columns"], block: RowBlock, chosen: Bool[Tensor, " rows"],
    solution: Solution,
) -> Float64[Tensor, " chosen"]:  # fmt: skip
    """The same of some rows, under the model that misses a fold.

    Args:
        matrix: ``block.rows[chosen]``.
    """
    shift = (block.counts[chosen] @ solution.fold_shifts[fold]) * block.scale[chosen]
    return (matrix @ solution.fold_values[fold][:, 0].to(matrix.device)).cpu() + shift

"""Energies of every structure by the model of the folds that do not hold it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import RowKind, uniform
from mekrr_scale.distributed import ExactSum
from mekrr_scale.pipeline.fitting.data import FitData
from mekrr_scale.regression import Errors, Problem, Run, Source
from mekrr_scale.solvers import Solution

_SHOWN = 20_000  # structures kept one by one, for figures


@dataclass(frozen=True)
class HeldOut:
    """Cross-validated energies per atom less the species' references."""

    reference: Float64[Tensor, " shown"]  # eV/atom, labels; of some thousands where there are more
    predicted: Float64[Tensor, " shown"]
    errors: Errors = field(default_factory=lambda: Errors(0, math.nan, math.nan))  # eV/atom, of all structures
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
    sums, count = ExactSum(3), 0
    part = _SHOWN / max(1, sum(shard.energies for store in data.stores for shard in store.shards))
    device = run.execution.device
    placed = problem.on(device)
    for batch in data.energies:
        for block in placed.rows(Source((batch,)), {RowKind.ENERGY}):
            per_atom = 1.0 / (block.scale * block.counts.sum(1))
            predicted = torch.zeros_like(block.target)
            pairs = zip(solution.fold_values, solution.fold_shifts, strict=True)
            for fold, (value, shift) in enumerate(pairs):
                held = block.fold == fold
                moved = (block.counts[held] @ shift) * block.scale[held]
                predicted[held] = (block.rows[held].double() @ value[:, 0].to(device)).cpu() + moved
            reference, predicted = block.target * per_atom, predicted * per_atom
            error = predicted - reference
            sums.add(torch.stack([error.abs().sum(), error.square().sum(), reference.square().sum()]))
            count += len(error)
            prior = (batch.prior / batch.n_atoms)[batch.with_energy] if problem.baseline.prior else 0.0
            shown = torch.from_numpy(uniform(block.key.numpy().astype(np.uint64), seed) < part)
            references.append((reference + prior)[shown])
            predictions.append((predicted + prior)[shown])
    total = int(data.group.sum(torch.tensor(count)))
    absolute, square, spread = sums.value(data.group).tolist()
    return HeldOut(
        reference=data.group.joined(torch.cat(references)),
        predicted=data.group.joined(torch.cat(predictions)),
        errors=Errors.of_sums(total, absolute, square),
        spread=(spread / max(total, 1)) ** 0.5,
    )

"""Energies of every structure by the model of the folds that do not hold it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.distributed import ExactSum
from mekrr_scale.draws import uniform
from mekrr_scale.pipeline.data import FitData
from mekrr_scale.pipeline.trials import Trial
from mekrr_scale.rows import EnergyRows, Folds

_SHOWN = 20_000  # structures kept one by one, for figures


@dataclass(frozen=True)
class HeldOut:
    """Cross-validated energies per atom less the species' references."""

    reference: Float64[Tensor, " shown"]  # eV/atom, labels; of some thousands where there are more
    predicted: Float64[Tensor, " shown"]
    count: int = 0  # structures
    mae: float = 0.0  # eV/atom
    rmse: float = 0.0
    spread: float = 0.0  # root mean square of what the kernel has to explain, eV/atom


def out_of_fold(trial: Trial, data: FitData, folds: Folds | None, device: str = "cpu") -> HeldOut:
    """One pass over the energy rows; memory does not depend on their number."""
    nothing = torch.zeros(0, dtype=torch.float64)
    if folds is None or not trial.solution.fold_values:
        return HeldOut(nothing, nothing)
    references, predictions = [nothing], [nothing]
    sums, count = ExactSum(3), 0
    part = _SHOWN / max(1, sum(shard.energies for store in data.stores for shard in store.shards))
    landmarks = trial.landmarks.on(device)
    for batch in data.energies:
        for block in EnergyRows((batch,), trial.kernel, landmarks, trial.baseline, folds):
            per_atom = 1.0 / (block.scale * block.counts.sum(1))
            predicted = torch.zeros_like(block.target)
            pairs = zip(trial.solution.fold_values, trial.solution.fold_shifts, strict=True)
            for fold, (value, shift) in enumerate(pairs):
                held = block.fold == fold
                moved = (block.counts[held] @ shift) * block.scale[held]
                predicted[held] = (block.rows[held].double() @ value[:, 0].to(device)).cpu() + moved
            reference, predicted = block.target * per_atom, predicted * per_atom
            error = predicted - reference
            sums.add(torch.stack([error.abs().sum(), error.square().sum(), reference.square().sum()]))
            count += len(error)
            prior = (batch.prior / batch.n_atoms)[~batch.energy.isnan()] if trial.baseline.prior else 0.0
            shown = torch.from_numpy(uniform(block.key.numpy().astype(np.uint64), 3) < part)
            references.append((reference + prior)[shown])
            predictions.append((predicted + prior)[shown])
    total = int(data.group.sum(torch.tensor(count)))
    mae, square, spread = (sums.value(data.group) / max(total, 1)).tolist()
    return HeldOut(
        reference=data.group.joined(torch.cat(references)),
        predicted=data.group.joined(torch.cat(predictions)),
        count=total,
        mae=mae,
        rmse=square**0.5,
        spread=spread**0.5,
    )

"""Errors on the structures of a store, whose features are there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float64
from numpy import ndarray
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, content_hash, uniform, usable_device
from mekrr_scale.distributed import ALONE, ExactSum, Group
from mekrr_scale.errors import ModelError, StructureError
from mekrr_scale.kernels import exponential
from mekrr_scale.models import Model, Posterior, Variances
from mekrr_scale.pipeline.evaluation.report import Evaluation
from mekrr_scale.pipeline.evaluation.sets import NOT_NAMED, SetWidths, expected
from mekrr_scale.progress import Progress, Silent, shown_progress
from mekrr_scale.store import FeatureStore, deal
from mekrr_scale.structures import require_same_electrons

_LISTED = 1_000_000  # structures of a store that are listed one by one


def evaluate_store(
    model: Model,
    store: FeatureStore | Path | str,
    progress: Progress | None = None,
    uncertainty: bool = False,
    group: Group = ALONE,
    seed: int = 7,
    device: str = "cpu",
) -> Evaluation:
    """Energies of a store's structures against their labels; needs no backbone. Isolated atoms stand apart.

    Memory does not depend on the store: of more than a million structures a random part is listed,
    while ``metrics`` are those of all.

    Args:
        store: a store, or its folder.
        progress: what shows how far it is; by default a bar in terminals and notebooks.
        group: ranks that share the work, each with whole shards; all get the result.
        seed: of the part that is listed.
        device: where the kernel is evaluated, e.g. ``"cuda"``.

    Raises:
        ModelError: features of another backbone, of structures of another charge or spin, or no posterior to tell
            uncertainties from.
        StructureError: no structure has an energy.
        ConfigError: a device that torch cannot use here.
    """
    device = usable_device(device)
    store = store if isinstance(store, FeatureStore) else FeatureStore(Path(store))
    model.require_backbone(store.header.backbone, f"the store {store.path}")
    model.require_compression(store.header.compression.get("hash"), f"the store {store.path}")
    model.require_prior(store.header.prior, f"the store {store.path}")
    if model.electrons is not None:
        require_same_electrons(model.electrons, store.header.electrons, f"the store {store.path}")
    if uncertainty and model.posterior is None:
        raise ModelError("the model cannot tell its uncertainty; fit it with folds and uncertainty = true")
    group.require_alike(
        model=content_hash(model.coefficients),
        store=store.id,
        uncertainty=str(uncertainty),
        MEKRR_SCALE_EXP=exponential(),
    )
    rows, lone = (_Rows(model, model.posterior if uncertainty else None, device) for _ in range(2))
    head = model.head.on(device)
    errors, of_lone = ExactSum(3), ExactSum(3)
    (own,) = deal([store], group.rank, group.size)
    with shown_progress(progress or (Silent() if group.rank else None)) as shown:
        if progress is None:
            shown.stage("evaluate", own.n_structures)
        for batch in own:
            known = ~batch.energy.isnan()
            predicted = model.energies(batch, head)
            error = (predicted - batch.energy) / batch.n_atoms
            listed = uniform(batch.ids.numpy().astype(np.uint64), seed) < _LISTED / max(store.n_structures, 1)
            errors.add(_sums(error[known & ~batch.isolated]))
            rows.add(batch, predicted, (known & ~batch.isolated).numpy() & listed)
            if batch.isolated.any():
                of_lone.add(_sums(error[known & batch.isolated]))
                lone.add(batch, predicted, (known & batch.isolated).numpy() & listed)
            shown.advance(batch.n_structures)
    totals, alone = errors.value(group).tolist(), of_lone.value(group).tolist()
    if not totals[0]:  # nothing but isolated atoms: they are what is compared
        rows, totals, lone = lone, alone, _Rows(model, None, device)
    if not totals[0]:
        raise StructureError(f"no structure in {store.path} has an energy to compare with")
    count, absolute, square = totals
    found = rows.evaluation((count, absolute, square), lone).gathered(group)
    return replace(found, mean_within_95=rows.widths.half_widths(0, model, group))


def _sums(error: Float64[Tensor, " structures"]) -> Float64[Tensor, "3"]:
    """Their number, and the sums of absolute values and of squares."""
    return torch.stack([torch.tensor(float(len(error))).double(), error.abs().sum(), error.square().sum()])


@dataclass
class _Rows:
    """What is listed of the structures so far, one array for each batch."""

    model: Model
    posterior: Posterior | None
    device: str
    n_atoms: list[ndarray] = field(default_factory=list)
    counts: list[ndarray] = field(default_factory=list)
    energy: list[ndarray] = field(default_factory=list)  # eV
    predicted: list[ndarray] = field(default_factory=list)
    baseline: list[ndarray] = field(default_factory=list)
    uncertainty: list[ndarray] = field(default_factory=list)

    @cached_property
    def widths(self) -> SetWidths:
        return SetWidths(self.posterior)

    @cached_property
    def variances(self) -> Variances | None:
        posterior = self.posterior
        return (
            None if posterior is None else Variances.on(self.model.kernel, self.model.landmarks, posterior, self.device)
        )

    def add(
        self, batch: FeatureBatch, predicted: Float64[Tensor, " structures"], kept: Bool[ndarray, " structures"]
    ) -> None:
        """The rows of a batch that are kept."""
        model = self.model
        self.n_atoms.append(batch.n_atoms.numpy()[kept])
        self.counts.append(batch.counts(model.species).numpy()[kept])
        self.energy.append(batch.energy.numpy()[kept])
        self.predicted.append(predicted.numpy()[kept])
        self.baseline.append((batch.counts(model.baseline.species).double() @ model.baseline.energies).numpy()[kept])
        if self.variances is not None and self.posterior is not None:
            variance, per_atom = self.variances.with_rows(batch)
            raw = variance.sqrt() * model.kernel.energy_scale(batch.n_atoms)
            self.widths.add(per_atom.take(torch.from_numpy(kept)), [NOT_NAMED] * int(kept.sum()))
            self.uncertainty.append(self.posterior.energy.within_68 * raw.numpy()[kept])

    def evaluation(self, totals: tuple[float, float, float], lone: _Rows) -> Evaluation:
        """All of them as arrays, beside isolated atoms."""
        apart = np.concatenate([np.empty((0, len(self.model.species)), np.int64), *lone.counts]).argmax(1)
        sure = None if self.posterior is None else self.posterior.energy
        nothing = np.empty((0, 3))
        return Evaluation(
            n_atoms=np.concatenate([np.empty(0, np.int64), *self.n_atoms]),
            energy=np.concatenate([np.empty(0), *self.energy]),
            energy_predicted=np.concatenate([np.empty(0), *self.predicted]),
            baseline=np.concatenate([np.empty(0), *self.baseline]),
            forces=nothing,
            forces_predicted=nothing,
            species=np.empty(0, np.int64),
            stress=np.empty((0, 6)),
            stress_predicted=np.empty((0, 6)),
            energy_uncertainty=np.concatenate([np.empty(0), *self.uncertainty]),
            energy_ratio_95=math.nan if sure is None else sure.within_95 / sure.within_68,
            totals=totals,
            counts=np.concatenate([np.empty((0, len(self.model.species)), np.int64), *self.counts]),
            isolated=np.array(self.model.species, dtype=np.int64)[apart],
            isolated_energy=np.concatenate([np.empty(0), *lone.energy]),
            isolated_predicted=np.concatenate([np.empty(0), *lone.predicted]),
            typical=expected(self.posterior)[0],
            limit=expected(self.posterior)[1],
        )

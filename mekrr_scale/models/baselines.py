"""What is taken off the labels before the kernel sees them.

The baseline of a structure is the sum of its atoms' reference energies, plus the prior mean where
there is one: the backbone's own energy (``backbone``), or whatever ``extract --prior`` named
(``prior``: another model, another backbone, a lower level of theory). Reference energies come
from least squares on the species counts (``composition``) or are given (``isolated``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import N_ELEMENTS, FeatureBatch, RowKind, minimum_norm
from mekrr_scale.distributed import ALONE, ExactSum, Group
from mekrr_scale.errors import ConfigError, require_known
from mekrr_scale.models.choices import BaselineKind


@dataclass(frozen=True)
class Baseline:
    """Reference energies per species (eV), and whether the energies of a prior are added."""

    species: tuple[int, ...]
    energies: Float64[Tensor, " species"]  # eV
    prior: bool
    fitted: bool  # from the training data; cross-validation then refits them in every fold

    def residual(self, batch: FeatureBatch) -> Float64[Tensor, " structures"]:
        """Labels less the baseline (eV)."""
        return batch.energy - self.predict(batch)

    def predict(self, batch: FeatureBatch) -> Float64[Tensor, " structures"]:
        """The baseline's energies (eV).

        Raises:
            ConfigError: a species without a reference energy, or no backbone energy stored.
        """
        absent = sorted(set(batch.species) - set(self.species))
        absent = [z for z in absent if int(batch.counts([z]).sum())]
        if absent:
            raise ConfigError(f"species {absent} have no reference energy; the baseline knows {list(self.species)}")
        total = batch.counts(self.species).double() @ self.energies
        if not self.prior:
            return total
        if bool(batch.prior.isnan().any()):
            raise ConfigError("the store holds no backbone energies; use baseline 'composition', or extract again")
        return total + batch.prior


def fit_baseline(
    batches: Iterable[FeatureBatch],
    kind: BaselineKind,
    isolated: Mapping[int, float] | None = None,
    group: Group = ALONE,
) -> Baseline:
    """Fit or take over reference energies, in one pass.

    Least squares on the species counts by pseudo-inverse: of minimum norm where the counts are
    collinear, no ridge (a ridge of 1 shifts HCOO/Cu(110) by 0.63 meV/atom).

    Args:
        batches: of this rank; the result is the same on all of them.
        isolated: energies of isolated atoms (eV) by atomic number, for kind ``isolated``.

    Raises:
        ConfigError: an unknown kind, no structure with an energy, or isolated atoms missing.
    """
    require_known("there is no baseline", kind, get_args(BaselineKind))
    prior = kind in ("backbone", "prior")
    atoms = torch.zeros(N_ELEMENTS, dtype=torch.int64)
    grams, moments = ExactSum(N_ELEMENTS, N_ELEMENTS), ExactSum(N_ELEMENTS)
    for batch in batches:
        weight, known = batch.weight(RowKind.ENERGY), batch.with_energy
        target = batch.energy - (batch.prior if prior else 0.0)
        if bool(target[known].isnan().any()):
            raise ConfigError("the store holds no backbone energies; use baseline 'composition', or extract again")
        place = torch.tensor(batch.species, dtype=torch.int64)
        atoms[place] += batch.counts(batch.species).sum(0)
        counts = batch.counts(batch.species).double()[known]
        gram, moment = atoms.new_zeros(N_ELEMENTS, N_ELEMENTS).double(), atoms.new_zeros(N_ELEMENTS).double()
        weighed = counts * weight[known, None]
        gram[place[:, None], place] = weighed.T @ counts
        moment[place] = weighed.T @ target[known]
        grams.add(gram)
        moments.add(moment)
    present = (group.sum(atoms) > 0).nonzero()[:, 0]
    species: list[int] = present.tolist()
    gram, moment = grams.value(group)[present[:, None], present], moments.value(group)[present]
    if not bool(gram.any()):
        raise ConfigError("no structure in the store has an energy; extract with --energy-key naming where it is")
    if kind == "isolated":
        missing = [z for z in species if z not in (isolated or {})]
        if missing:
            raise ConfigError(
                f"baseline 'isolated' needs an energy for species {missing} as well; give it (--isolated), or have a "
                "frame of the atom alone, without neighbours, in the data"
            )
        values = torch.tensor([float((isolated or {})[z]) for z in species], dtype=torch.float64)
        return Baseline(tuple(species), values, prior=False, fitted=False)
    return Baseline(tuple(species), minimum_norm(gram, moment), prior, fitted=True)

"""Landmarks by their leverage in the kernel's matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch

from mekrr_scale.arrays import FeatureBatch, Landmarks, uniform
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.kernels import SetKernel
from mekrr_scale.landmarks.choices import Balance
from mekrr_scale.landmarks.method import LandmarkMethod
from mekrr_scale.landmarks.pool import draw_pool, singletons


@final
@dataclass(frozen=True)
class LeverageScores(LandmarkMethod):
    """Single atoms drawn with probabilities of their approximate ridge leverage scores.

    l_i = k_ii - k_iS (K_SS + ridge)^-1 k_Si with a uniform sample S as large as the result
    (Rudi, Calandriello, Carratino, Rosasco 2018); drawn without replacement by the keys
    log(u)/l (Efraimidis and Spirakis 2006).
    """

    count: int
    seed: int = 0
    ridge: float = 1e-6
    balance: Balance = "sqrt"
    pool: int = 10  # candidates per landmark
    tangents: ClassVar[bool] = False

    def select(self, batches: Iterable[FeatureBatch], kernel: SetKernel, group: Group = ALONE) -> Landmarks:
        pool = draw_pool(batches, self.count * self.pool, self.seed, group)
        pool.require(self.count)
        chosen = {}
        for z, n in pool.share(self.count, self.balance).items():
            features = kernel.transform.apply(z, pool.features[z], torch.float64)
            centred = features - features.mean(0) if kernel.atom.stationary else features
            sample = centred[:n]
            gram = kernel.atom.gram(sample, sample)
            gram.diagonal().add_(self.ridge * float(gram.diagonal().mean()))
            factor = torch.linalg.cholesky(gram)
            cross = torch.linalg.solve_triangular(factor, kernel.atom.gram(sample, centred), upper=False)
            own = kernel.atom.itself(centred)
            score = (own - cross.square().sum(0)).clamp_min(1e-12).numpy()
            # drawn anew: the pool is the atoms with the lowest draws, among which these are no longer uniform
            fresh = 1.0 - uniform(pool.draws[z], self.seed)
            order = np.argsort(-np.log(fresh) / score, kind="stable")[:n]
            chosen[z] = pool.features[z][torch.from_numpy(order)]
        return singletons(chosen)

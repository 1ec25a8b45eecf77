"""Landmarks beside the atoms that there are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, Landmarks, RowKind, SpeciesRun, draw
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import SetKernel
from mekrr_scale.landmarks.choices import Balance
from mekrr_scale.landmarks.distances import first_of_each
from mekrr_scale.landmarks.method import LandmarkMethod
from mekrr_scale.landmarks.pool import Pool, atom_draws, draw_pool, lowest, singletons


def _distinct(pool: Pool) -> Pool:
    """Without atoms that are copies of others: a displaced one adds more."""
    kept = {z: torch.from_numpy(first_of_each(features)) for z, features in pool.features.items()}
    return Pool(
        {z: features[kept[z]] for z, features in pool.features.items()},
        {z: draws[kept[z].numpy()] for z, draws in pool.draws.items()},
        pool.counts,
    )


def _displaces(batch: FeatureBatch) -> bool:
    """Whether any of its structures has displacements."""
    return batch.directions is not None and bool((batch.directions.kind == int(RowKind.FORCE)).any())


@final
@dataclass(frozen=True)
class Displaced(LandmarkMethod):
    """Single atoms as ``Uniform`` takes them and, where these are too few, displaced copies.

    A copy is h + sum_u c_u hdot_u over the stored displacements u of its structure, with random
    normal c_u such that coordinates move by ``amplitude`` (root mean square): what the atom's
    feature would be nearby, to first order, at no cost in backbone time.

    Args:
        amplitude: in angstrom.
    """

    count: int
    seed: int = 0
    balance: Balance = "sqrt"
    amplitude: float = 0.1
    tangents: ClassVar[bool] = True

    def select(self, batches: Iterable[FeatureBatch], kernel: SetKernel, group: Group = ALONE) -> Landmarks:
        """As ``LandmarkMethod.select``; the batches carry tangents, and are passed over twice.

        Raises:
            ConfigError: copies are needed, but the store holds no displacements.
        """
        pool = _distinct(draw_pool(batches, self.count, self.seed, group))
        copies = -(-self.count // sum(map(len, pool.features.values())))
        shares = pool.share(self.count, self.balance, copies)
        missing = {z: n - len(pool.features[z]) for z, n in shares.items()}
        chosen = {z: [pool.features[z][:n]] for z, n in shares.items()}
        if max(missing.values()) <= 0:
            return singletons({z: parts[0] for z, parts in chosen.items()})
        found: dict[int, tuple[Tensor, NDArray[np.uint64]]] = {}
        moved = False
        for batch in batches:
            moved = moved or _displaces(batch)
            for run, source in zip(batch.runs, batch.sources, strict=True):
                if missing.get(run.z, 0) <= 0:
                    continue
                draws = atom_draws(batch, run.ptr, source, self.seed)
                features, draws = self._copies(batch, run, draws, copies - 1)
                if run.z in found:
                    features = torch.cat([found[run.z][0], features])
                    draws = np.concatenate([found[run.z][1], draws])
                best = np.argsort(draws, kind="stable")[: missing[run.z]]
                found[run.z] = features[torch.from_numpy(best)], draws[best]
        if not any(group.gather_json(moved)):
            raise ConfigError(
                f"{self.count} landmarks are more than there are atoms, and the store holds no displacements to make "
                "copies with; extract with --derivatives, or ask for fewer"
            )
        dim = next(iter(pool.features.values()))
        for z in sorted(z for z, n in missing.items() if n > 0):
            features, draws = found.get(z, (dim[:0], np.empty(0, np.uint64)))
            chosen[z].append(lowest(features, draws, missing[z], group)[0])
        return singletons({z: torch.cat(parts) for z, parts in chosen.items()})

    def _copies(
        self, batch: FeatureBatch, run: SpeciesRun, draws: NDArray[np.uint64], copies: int
    ) -> tuple[Tensor, NDArray[np.uint64]]:
        """Displaced copies of a run's atoms, and their draws."""
        labels = batch.directions
        if labels is None or run.tangents is None:
            return run.features[:0], np.empty(0, np.uint64)
        features, keys = [], []
        for i in range(batch.n_structures):
            a, b = int(run.ptr[i]), int(run.ptr[i + 1])
            moves = labels.kind[labels.ptr[i] : labels.ptr[i + 1]] == int(RowKind.FORCE)
            if a == b or not bool(moves.any()):
                continue
            part = run.tangents.features[run.tangents.ptr[i] : run.tangents.ptr[i + 1]]
            tangents = part.reshape(len(moves), b - a, -1)[moves]
            generator = np.random.default_rng([self.seed, int(batch.ids[i]), run.z])
            size = self.amplitude * (3 * int(batch.n_atoms[i]) / len(tangents)) ** 0.5
            steps = torch.from_numpy(size * generator.normal(size=(copies, b - a, len(tangents)))).to(tangents.dtype)
            moved = run.features[a:b] + torch.einsum("cak,kad->cad", steps, tangents)
            features.append(moved.flatten(0, 1))
            keys.append(np.concatenate([draw(draws[a:b], self.seed + 2 + c) for c in range(copies)]))
        if not features:
            return run.features[:0], np.empty(0, np.uint64)
        return torch.cat(features), np.concatenate(keys)

"""Choosing the sets that a model is an expansion over.

Choices depend on the content of the structures and a seed alone: every atom draws its number
from a hash of its structure's content and its place there, so that neither the order of the
structures nor their split into shards changes a model. All need one pass over the data and
memory for a pool of candidates, never for all atoms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, RowKind, SpeciesRun
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.draws import draw
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import Landmarks, SetKernel
from mekrr_scale.pool import Balance, Pool, atom_draws, common_dtype, draw_pool, lowest

_Drawn = tuple[int, list[tuple[int, Tensor]]]  # a structure's draw, and its atoms by species


class LandmarkSelection(ABC):
    """A way to choose landmarks."""

    @abstractmethod
    def select(self, batches: Iterable[FeatureBatch], kernel: SetKernel, group: Group = ALONE) -> Landmarks:
        """Choose landmarks in one pass.

        Args:
            batches: of this rank; the landmarks are the same on all of them.

        Raises:
            ConfigError: more landmarks than there are atoms, or none.
        """


@final
@dataclass(frozen=True)
class Uniform(LandmarkSelection):
    """Single atoms at random, stratified by species.

    The shares of the species go with the square root of their numbers of atoms (``sqrt``), so
    that a rare species, an adsorbate say, is not left out.
    """

    count: int
    seed: int = 0
    balance: Balance = "sqrt"

    def select(self, batches: Iterable[FeatureBatch], kernel: SetKernel, group: Group = ALONE) -> Landmarks:
        pool = draw_pool(batches, self.count, self.seed, group)
        _check_enough(self.count, pool)
        shares = pool.share(self.count, self.balance)
        return _singletons({z: pool.features[z][:n] for z, n in shares.items()})


@final
@dataclass(frozen=True)
class FarthestPoint(LandmarkSelection):
    """Single atoms, each the one farthest from those chosen before it, species by species.

    Distances are those of the transformed features; candidates are a random pool.
    """

    count: int
    seed: int = 0
    balance: Balance = "sqrt"
    pool: int = 20  # candidates per landmark

    def select(self, batches: Iterable[FeatureBatch], kernel: SetKernel, group: Group = ALONE) -> Landmarks:
        pool = draw_pool(batches, self.count * self.pool, self.seed, group)
        _check_enough(self.count, pool)
        chosen = {}
        for z, n in pool.share(self.count, self.balance).items():
            features = kernel.transform.apply(z, pool.features[z], torch.float64)
            chosen[z] = pool.features[z][_farthest(features, n)]
        return _singletons(chosen)


@final
@dataclass(frozen=True)
class LeverageScores(LandmarkSelection):
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

    def select(self, batches: Iterable[FeatureBatch], kernel: SetKernel, group: Group = ALONE) -> Landmarks:
        pool = draw_pool(batches, self.count * self.pool, self.seed, group)
        _check_enough(self.count, pool)
        chosen = {}
        for z, n in pool.share(self.count, self.balance).items():
            features = kernel.transform.apply(z, pool.features[z], torch.float64)
            centred = features - features.mean(0) if kernel.atom.stationary else features
            sample = centred[:n]
            gram = kernel.atom.gram(sample, sample)
            gram.diagonal().add_(self.ridge * float(gram.diagonal().mean()))
            factor = torch.linalg.cholesky(gram)
            cross = torch.linalg.solve_triangular(factor, kernel.atom.gram(sample, centred), upper=False)
            own = torch.stack([kernel.atom.gram(c[None], c[None])[0, 0] for c in centred])
            score = (own - cross.square().sum(0)).clamp_min(1e-12).numpy()
            uniform = (pool.draws[z].astype(np.float64) + 1.0) / 2.0**64
            order = np.argsort(-np.log(uniform) / score, kind="stable")[:n]
            chosen[z] = pool.features[z][torch.from_numpy(order)]
        return _singletons(chosen)


@final
@dataclass(frozen=True)
class Displaced(LandmarkSelection):
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

    def select(self, batches: Iterable[FeatureBatch], kernel: SetKernel, group: Group = ALONE) -> Landmarks:
        """As ``LandmarkSelection.select``; the batches carry tangents, and are passed over twice.

        Raises:
            ConfigError: copies are needed, but the store holds no displacements.
        """
        pool = draw_pool(batches, self.count, self.seed, group)
        copies = -(-self.count // sum(map(len, pool.features.values())))
        shares = pool.share(self.count, self.balance, copies)
        missing = {z: n - len(pool.features[z]) for z, n in shares.items()}
        chosen = {z: [pool.features[z][:n]] for z, n in shares.items()}
        if max(missing.values()) <= 0:
            return _singletons({z: parts[0] for z, parts in chosen.items()})
        found: dict[int, tuple[Tensor, NDArray[np.uint64]]] = {}
        for batch in batches:
            for run, source in zip(batch.runs, batch.sources, strict=True):
                if missing.get(run.z, 0) <= 0:
                    continue
                extra = self._copies(batch, run, atom_draws(batch, run.ptr, source, self.seed), copies - 1)
                features, draws = extra
                if run.z in found:
                    features = torch.cat([found[run.z][0], features])
                    draws = np.concatenate([found[run.z][1], draws])
                best = np.argsort(draws, kind="stable")[: missing[run.z]]
                found[run.z] = features[torch.from_numpy(best)], draws[best]
        dim = next(iter(pool.features.values()))
        for z in sorted(z for z, n in missing.items() if n > 0):
            features, draws = found.get(z, (dim[:0], np.empty(0, np.uint64)))
            chosen[z].append(lowest(features, draws, missing[z], group)[0])
        return _singletons({z: torch.cat(parts) for z, parts in chosen.items()})

    def _copies(
        self, batch: FeatureBatch, run: SpeciesRun, draws: NDArray[np.uint64], copies: int
    ) -> tuple[Tensor, NDArray[np.uint64]]:
        """Displaced copies of a run's atoms, and their draws."""
        labels = batch.directions
        if labels is None or run.tangents is None or not bool((labels.kind == int(RowKind.FORCE)).any()):
            raise ConfigError(
                f"{self.count} landmarks are more than there are atoms, and the store holds no displacements to make "
                "copies with; extract with --derivatives, or ask for fewer"
            )
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


@final
@dataclass(frozen=True)
class Warm(LandmarkSelection):
    """The landmarks of a source model, and others chosen beside them.

    The span then holds what the source has learned, so that a fit to few new data can fall back on it.
    Landmarks of elements that the features were not standardised on are left out.
    """

    source: Landmarks
    others: LandmarkSelection | None  # None: the source's alone

    def select(self, batches: Iterable[FeatureBatch], kernel: SetKernel, group: Group = ALONE) -> Landmarks:
        """As ``LandmarkSelection.select``.

        Raises:
            ConfigError: the source's are whole structures, or of none of the data's elements.
        """
        if not self.source.singletons:
            raise ConfigError("the source model's landmarks are whole structures; only single atoms can be joined")
        kept = {
            z: self.source.features[self.source.species == z]
            for z in self.source.species.unique().tolist()
            if kernel.transform.knows(z)
        }
        if not kept:
            raise ConfigError(
                f"the source model's landmarks are of species {self.source.species.unique().tolist()}, the data hold "
                f"{list(kernel.transform.species)}: none can be taken; leave --landmarks-from out"
            )
        if self.others is None:
            return _singletons(kept)
        found = self.others.select(batches, kernel, group)
        kept = {z: features.to(found.features.dtype) for z, features in kept.items()}
        for z in found.species.unique().tolist():
            own = found.features[found.species == z]
            kept[z] = torch.cat([kept[z], own]) if z in kept else own
        return _singletons(kept)


@final
@dataclass(frozen=True)
class WholeStructures(LandmarkSelection):
    """Whole structures as landmarks; all of them (count 0, in their order) give MEKRR itself, exactly."""

    count: int = 0
    seed: int = 0

    def select(self, batches: Iterable[FeatureBatch], kernel: SetKernel, group: Group = ALONE) -> Landmarks:
        if self.count < 0:
            raise ConfigError(f"{self.count} landmarks asked for; ask for at least one, or 0 for all")
        kept: list[_Drawn] = []
        for batch in batches:
            draws = draw(batch.ids.numpy().astype(np.uint64), self.seed)
            for i in range(batch.n_structures):
                atoms = [(run.z, run.features[run.ptr[i] : run.ptr[i + 1]].clone()) for run in batch.runs]
                kept.append((int(draws[i]), atoms))
            if self.count and len(kept) > 2 * self.count:
                kept = sorted(kept, key=lambda item: item[0])[: self.count]
        kept = _everyones(kept, self.count, group)
        if self.count or group.size > 1:
            kept.sort(key=lambda item: item[0])
        if self.count > len(kept):
            raise ConfigError(
                f"{self.count} structures asked for as landmarks, the data hold {len(kept)}; ask for fewer, or 0"
            )
        sets = [atoms for _, atoms in (kept[: self.count] if self.count else kept)]
        parts = [(z, i, f) for i, atoms in enumerate(sets) for z, f in atoms if len(f)]
        parts.sort(key=lambda part: (part[0], part[1]))
        if not parts:
            raise ConfigError("there are no structures to choose landmarks from; the store is empty")
        return Landmarks(
            features=torch.cat([f for _, _, f in parts]),
            species=torch.cat([torch.full((len(f),), z) for z, _, f in parts]),
            owner=torch.cat([torch.full((len(f),), i) for _, i, f in parts]),
            n_sets=len(sets),
        )


def _everyones(own: list[_Drawn], count: int, group: Group) -> list[_Drawn]:
    """The structures with the ``count`` lowest draws of all ranks; all for 0."""
    if group.size == 1:
        return own
    draws = np.sort(group.joined(torch.tensor([item[0] for item in own], dtype=torch.float64)).numpy())
    if count and len(draws) > count:
        own = [item for item in own if float(item[0]) <= draws[count - 1]]
    pieces = [(i, z, f) for i, (_, atoms) in enumerate(own) for z, f in atoms if len(f)]
    width = max(group.gather_json(max((f.shape[1] for _, _, f in pieces), default=0)))
    dtype = common_dtype([f for _, _, f in pieces], group)
    features = group.gather(torch.cat([torch.zeros(0, width, dtype=dtype), *(f.to(dtype) for _, _, f in pieces)]))
    told = group.gather_json([[item[0] for item in own], [[i, z, len(f)] for i, z, f in pieces]])
    found: list[_Drawn] = []
    for (numbers, places), rows in zip(told, features, strict=True):
        part: list[_Drawn] = [(number, []) for number in numbers]
        for (i, z, _), f in zip(places, rows.split([n for *_, n in places]), strict=True):
            part[i][1].append((z, f))
        found += part
    return found


def _singletons(chosen: Mapping[int, Tensor]) -> Landmarks:
    count = sum(len(f) for f in chosen.values())
    return Landmarks(
        features=torch.cat([chosen[z] for z in sorted(chosen)]),
        species=torch.cat([torch.full((len(chosen[z]),), z) for z in sorted(chosen)]),
        owner=torch.arange(count),
        n_sets=count,
    )


def _check_enough(count: int, pool: Pool) -> None:
    atoms = sum(pool.counts.values())
    if count > atoms:
        raise ConfigError(f"{count} landmarks asked for, but the data hold {atoms} atoms; ask for at most that many")


def _farthest(points: Float64[Tensor, "points dim"], count: int) -> Tensor:
    """Indices of ``count`` points, each farthest from those before it; starts at the first."""
    chosen = torch.zeros(count, dtype=torch.int64)
    distance = torch.full((len(points),), torch.inf, dtype=torch.float64)
    for i in range(1, count):
        distance = torch.minimum(distance, (points - points[chosen[i - 1]]).square().sum(1))
        chosen[i] = int(distance.argmax())
    return chosen

"""Where benchmarks get their data: refused where they are absent, kept under keys, apart where one tests the other."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import xxhash
from ase import Atoms

from benchmarks import kept
from mekrr_scale.arrays import FeatureBatch, bounds
from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.pipeline import ExtractPlan, extract
from mekrr_scale.store import FeatureStore, FeatureWriter
from mekrr_scale.structures import geometry_hash, read_structures

ROOT = kept.ROOT
EXAMPLES = ROOT / "examples"


class AbsentDataError(SystemExit):
    """Data that are not on this machine: a script ends with one line that says how to give them."""


class LeakError(ValueError):
    """A structure in two sets that must be disjoint."""


def shared() -> Path:
    """Folder of the development data: BENCHMARK_DATA, or ../shared/data beside the checkout."""
    return Path(os.environ.get("BENCHMARK_DATA") or ROOT.parent / "shared" / "data")


def structures(name: str) -> Path:
    """A file of the development data.

    Raises:
        AbsentDataError: it is not there; nothing else stands in for it.
    """
    path = shared() / name
    if not path.exists():
        raise AbsentDataError(
            f"{name} is not in {shared()}: give the folder that holds it, as --data FOLDER or in BENCHMARK_DATA"
        )
    return path


def extracted(path: Path, name: str, plan: ExtractPlan) -> tuple[FeatureStore, float | None]:
    """Features of a file, and the seconds that they took, if all of them were computed now."""
    folder = kept.folder() / f"{name.replace('/', '_')}-{kept.key(plan, kept.hashed(path))}"
    if (folder / "manifest.json").exists():
        return FeatureStore(folder), None
    start = time.perf_counter()
    report = extract(path, folder, plan)
    taken = time.perf_counter() - start
    return FeatureStore(folder), taken if not report.resumed else None


def store(name: str, layer: str = "conv3") -> FeatureStore:
    """CHGNet features of a data set, energies alone."""
    plan = ExtractPlan(BackboneSpec("chgnet", layer))
    return extracted(structures(f"{name}.xyz.xz"), f"{name}-{layer}", plan)[0]


def training_and_test(train: str, test: str, layer: str = "conv3") -> tuple[FeatureStore, FeatureStore]:
    """The same of two data sets of which the second tests the first."""
    apart(**{name: read_structures(structures(f"{name}.xyz.xz")) for name in (train, test)})
    return store(train, layer), store(test, layer)


def apart(**sets: Iterable[Atoms]) -> None:
    """Assert that no geometry is in two of the sets.

    Raises:
        LeakError: with the names of the sets, and the number of structures.
    """
    _apart({name: {geometry_hash(atoms) for atoms in frames} for name, frames in sets.items()})


def _apart(hashes: dict[str, set[int]]) -> None:
    for (first, a), (second, b) in combinations(hashes.items(), 2):
        if a & b:
            raise LeakError(
                f"{len(a & b)} structures are both in {first} and in {second}, of which one tests the other"
            )


def synthetic(n: int, atoms: int, dim: int, seed: int = 0, shard_bytes: int = 128 * 1024**2) -> FeatureStore:
    """Structures of random features around a few environments, four species, a smooth energy."""
    folder = kept.folder() / f"synthetic-{n}-{atoms}-{dim}-{kept.key(seed, shard_bytes)}"
    if not (folder / "manifest.json").exists():
        generator = np.random.default_rng(seed)
        centres = generator.normal(size=(4, 8, dim))
        with FeatureWriter(folder, "synthetic", dim, shard_bytes=shard_bytes) as writer:
            for _ in range(n):
                size = int(generator.integers(atoms // 2, atoms + atoms // 2 + 1))
                z = generator.integers(0, 4, size)
                h = centres[z, generator.integers(0, 8, size)] + 0.3 * generator.normal(size=(size, dim))
                energy = float(np.cos(h[:, :4].sum(1)).sum())
                writer.add(np.array([6, 8, 29, 78])[z], h.astype(np.float32), energy)
    return FeatureStore(folder)


def random_batch(n_structures: int, atoms: int, dim: int, seed: int = 0) -> FeatureBatch:
    """Equal structures of one species, in memory."""
    generator = torch.Generator().manual_seed(seed)
    count = n_structures * atoms
    features = torch.randn(count, dim, generator=generator) / dim**0.5
    ptr = bounds(torch.full((n_structures,), atoms))
    return FeatureBatch.from_atoms(features, torch.full((count,), 29), ptr)


@dataclass(frozen=True)
class Subset:
    """Structures of a store in memory, to be split and written again."""

    items: Sequence[tuple[torch.Tensor, torch.Tensor, float]]  # species, features, energy of each structure
    folder: Path

    @classmethod
    def of(cls, source: FeatureStore) -> Subset:
        items = []
        for batch in source:
            for i in range(batch.n_structures):
                parts = [(run.z, run.features[run.ptr[i] : run.ptr[i + 1]].clone()) for run in batch.runs]
                species = torch.cat([torch.full((len(f),), z) for z, f in parts])
                items.append((species, torch.cat([f for _, f in parts]), float(batch.energy[i])))
        return cls(items, kept.folder() / "whole")

    def parts(self, part: float, seed: int, name: str) -> tuple[Subset, Subset]:
        """What is left, and the part that is held out; no structure is in both."""
        order = np.random.default_rng(1000 + seed).permutation(len(self.items)).tolist()
        held = int(part * len(order))
        rest, test = self.take(order[held:], f"{name}-fit"), self.take(order[:held], f"{name}-held")
        _apart({"the part to fit": rest.hashes(), "the part held out": test.hashes()})
        return rest, test

    def take(self, indices: Sequence[int], name: str) -> Subset:
        return Subset([self.items[i] for i in indices], kept.folder() / "subsets" / name)

    def hashes(self) -> set[int]:
        """Of species and features: copies of a structure have the same."""
        return {xxhash.xxh3_64_intdigest(z.numpy().tobytes() + f.numpy().tobytes()) for z, f, _ in self.items}

    def batch(self, indices: Sequence[int]) -> FeatureBatch:
        chosen = [self.items[i] for i in indices]
        ptr = bounds(torch.tensor([len(species) for species, _, _ in chosen]))
        return FeatureBatch.from_atoms(
            torch.cat([features for _, features, _ in chosen]), torch.cat([species for species, _, _ in chosen]), ptr
        )

    def __len__(self) -> int:
        return len(self.items)

    @property
    def store(self) -> FeatureStore:
        """The structures as a store, written anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with FeatureWriter(self.folder, "subset", self.items[0][1].shape[1]) as writer:
            for species, features, energy in self.items:
                writer.add(species.numpy(), features.numpy(), energy)
        return FeatureStore(self.folder)

"""Where benchmarks get their data, and how they measure."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mekrr_scale.arrays import FeatureBatch, bounds
from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.pipeline import ExtractPlan, extract
from mekrr_scale.store import FeatureStore, FeatureWriter

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
CACHE = ROOT / "build" / "benchmarks"


def structures(name: str) -> Path:
    """A file of the development data, or the example shipped with the project."""
    path = SHARED / name
    if path.exists():
        return path
    print(f"{path} is not here; using the shipped example instead", file=sys.stderr)
    return ROOT / "examples" / "hcoo_cu110" / ("test.xyz.xz" if "val" in name else "train.xyz.xz")


def store(name: str, layer: str = "conv3") -> FeatureStore:
    """CHGNet features of a data set, extracted once."""
    folder = CACHE / f"{name.replace('/', '_')}-{layer}"
    if not (folder / "manifest.json").exists():
        extract(structures(f"{name}.xyz.xz"), folder, ExtractPlan(BackboneSpec("chgnet", layer)))
    return FeatureStore(folder)


def synthetic(n: int, atoms: int, dim: int, seed: int = 0, shard_bytes: int = 128 * 1024**2) -> FeatureStore:
    """Structures of random features around a few environments, four species, a smooth energy."""
    folder = CACHE / f"synthetic-{n}-{atoms}-{dim}-{seed}"
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


def seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """The best of several runs: the one that the machine disturbed least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_mb() -> float:
    """Peak resident memory of this process, mapped pages included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def anonymous_mb() -> float:
    """Resident memory that is not mapped from files."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


def table(header: list[str], rows: list[list[object]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row) + " |")
    print(flush=True)


def exponent(sizes: list[float], values: list[float]) -> float:
    """Slope of a fit in log-log."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


@dataclass(frozen=True)
class Subset:
    """Structures of a store in memory, to be split and written again."""

    items: Sequence[tuple[torch.Tensor, torch.Tensor, float]]  # species, features, energy of each structure
    folder: Path

    @classmethod
    def of(cls, source: FeatureStore) -> "Subset":
        items = []
        for batch in source:
            for i in range(batch.n_structures):
                parts = [(run.z, run.features[run.ptr[i] : run.ptr[i + 1]].clone()) for run in batch.runs]
                species = torch.cat([torch.full((len(f),), z) for z, f in parts])
                items.append((species, torch.cat([f for _, f in parts]), float(batch.energy[i])))
        return cls(items, CACHE / "whole")

    def parts(self, part: float, seed: int, name: str) -> tuple["Subset", "Subset"]:
        order = np.random.default_rng(1000 + seed).permutation(len(self.items)).tolist()
        held = int(part * len(order))
        return self.take(order[held:], f"{name}-fit"), self.take(order[:held], f"{name}-held")

    def take(self, indices: Sequence[int], name: str) -> "Subset":
        return Subset([self.items[i] for i in indices], CACHE / "subsets" / name)

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

"""A set of structures in equal parts, whose features are stores of their own: some are learned, others held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.papers.common import Experiment, dealt
from mekrr_scale.arrays import kept_memory
from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.models import Model
from mekrr_scale.pipeline import ExtractPlan, evaluate_store
from mekrr_scale.store import FeatureStore
from mekrr_scale.transfer import Example


@dataclass(frozen=True)
class Divided:
    """Args:
    count, held: parts, and those of them that a seed holds out.
    directions: along which features have tangents; 0 for energies alone.
    backbone: of the features; as its name says.
    """

    it: Experiment
    name: str
    count: int
    held: int = 1
    directions: int = 0
    backbone: str = "chgnet"

    def extract(self, examples: Sequence[Example], together: int, most: int | None = None) -> list[list[Example]]:
        """The parts (see ``dealt``), after their features are there, or are recorded."""
        parts = dealt(examples, self.count, together, most)
        for k, part in enumerate(parts):
            self.it.remember(f"{self.name}-{k}", part)
        self.it.run_all([(self.key(k), partial(self._features, k)) for k in range(len(parts))])
        return parts

    def key(self, k: int) -> str:
        """Of the run that computes the features of a part."""
        return f"{self.name} features {k}"

    def split(self, seed: int) -> tuple[list[int], list[int]]:
        """Parts to learn, in their order, and those held out."""
        order = np.random.default_rng(seed).permutation(self.count).tolist()
        return order[self.held :], order[: self.held]

    def stores(self, parts: Sequence[int]) -> list[FeatureStore]:
        return [self._store(k) for k in parts]

    def sample(self, parts: list[list[Example]], seed: int, most: int) -> list[Example]:
        """Some of the structures that a seed holds out."""
        examples = [example for k in self.split(seed)[1] for example in parts[k]]
        return [examples[i] for i in np.random.default_rng(seed).permutation(len(examples))[:most]]

    def energy_errors(self, model: Model, parts: Sequence[int]) -> dict[str, float]:
        """Of the structures of some parts (meV/atom)."""
        found = [evaluate_store(model, store) for store in self.stores(parts)]
        wrong = np.concatenate([(each.energy_predicted - each.energy) / each.n_atoms for each in found])
        return {"energy_mae": 1e3 * float(np.abs(wrong).mean()), "energy_rmse": 1e3 * float(np.sqrt((wrong**2).mean()))}

    def _store(self, k: int) -> FeatureStore:
        spec = BackboneSpec(self.backbone)
        plan = ExtractPlan(spec, derivatives=self.directions or "none", workers=1)
        return self.it.store(f"{self.name}-{k}", backbone=spec, plan=plan)

    def _features(self, k: int) -> dict[str, float]:
        with kept_memory():
            store = self._store(k)
        return {
            "structures": float(store.n_structures),
            "atoms": float(store.n_atoms),
            "megabytes": sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file()) / 1e6,
        }

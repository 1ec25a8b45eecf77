"""The stores of a fit, and what has been fitted to them already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from ase import Atoms

from mekrr_scale.arrays import FeatureBatch
from mekrr_scale.backbones import Backbone, BackboneSpec, load_backbone
from mekrr_scale.baselines import Baseline, BaselineKind, fit_baseline
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.errors import ConfigError
from mekrr_scale.model import Model
from mekrr_scale.pipeline.plan import FitPlan
from mekrr_scale.store import FeatureStore, deal
from mekrr_scale.structures import LabelKeys, Labels, read_labels, structure_hash
from mekrr_scale.transforms import Standardize, Transform, fit_transform


@dataclass(frozen=True)
class FitData:
    """The stores as re-iterables, and what has been fitted to them already."""

    stores: tuple[FeatureStore, ...]
    derivatives: bool  # tangents are stored and used
    labelled: Sequence[tuple[Atoms, Labels]] = ()  # for matrix-free force rows
    backbone: Backbone | None = None  # the same
    group: Group = ALONE  # whose ranks own whole shards
    weights: tuple[float, ...] = ()  # of the stores; empty: all 1
    _transforms: dict[Standardize, Transform] = field(default_factory=dict)
    _baselines: dict[BaselineKind, Baseline] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        stores: Sequence[FeatureStore | Path | str] | FeatureStore | Path | str,
        plan: FitPlan,
        structures: Iterable[Atoms] | None = None,
        keys: LabelKeys | None = None,
        group: Group = ALONE,
    ) -> FitData:
        listed = [stores] if isinstance(stores, FeatureStore | Path | str) else list(stores)
        if not listed:
            raise ConfigError("no store was given to fit")
        opened = [s if isinstance(s, FeatureStore) else FeatureStore(Path(s)) for s in listed]
        if plan.store_weights and len(plan.store_weights) != len(opened):
            raise ConfigError(f"{len(plan.store_weights)} weights for {len(opened)} stores; give one for each")
        if plan.warm is not None:
            Model.load(plan.warm).require_backbone(opened[0].header.backbone, str(opened[0].path))
        for store in opened:
            opened[0].header.require(store.header, str(store.path))
        if not sum(shard.energies for store in opened for shard in store.shards):
            raise ConfigError("no structure in the store has an energy; extract with --energy-key naming where it is")
        if plan.solver == "exact" and group.size > 1:
            raise ConfigError(f"solver 'exact' runs in one process, not in {group.size}; take direct or falkon")
        dealt = deal(opened, group.rank, group.size) if group.size > 1 else tuple(opened)
        derivatives = plan.use_derivatives and plan.solver != "exact" and any(s.n_directions for s in opened)
        if structures is None:
            return cls(dealt, derivatives, group=group, weights=plan.store_weights)
        if plan.solver != "falkon" or any(s.n_directions for s in opened):
            raise ConfigError(
                "structures make force rows without stored tangents: they need --solver falkon and a store without "
                "tangents; leave them out to fit stored tangents"
            )
        if not opened[0].header.spec:
            raise ConfigError("matrix-free force rows need a backbone, but the store holds features of your own")
        backbone = load_backbone(BackboneSpec(**opened[0].header.spec)).to(dtype=torch.float64)
        known = set().union(*({int(i) for batch in store for i in batch.ids} for store in opened))
        labelled = [(atoms, read_labels(atoms, keys or LabelKeys())) for atoms in structures]
        found = [item for item in labelled if structure_hash(*item) in known and item[1].forces is not None]
        if not found:
            raise ConfigError("none of the structures given is in the store with forces; give the file it was made of")
        return cls(dealt, False, found, backbone, group, plan.store_weights)

    @cached_property
    def first(self) -> FeatureBatch | None:
        """The first batch of all, whichever rank owns it."""
        whole = (replace(store, owned=None) for store in self.stores)
        return next((batch for store in whole for batch in store), None)

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers, of all ranks' structures."""
        return tuple(sorted(set().union(*(store.species for store in self.stores))))

    @property
    def energies(self) -> Iterable[FeatureBatch]:
        return Chained(self.stores, self.weights)

    @property
    def moved(self) -> Iterable[FeatureBatch]:
        return Chained(tuple(replace(store, tangents=True) for store in self.stores), self.weights)

    @property
    def has_prior(self) -> bool:
        return self.first is not None and not bool(self.first.prior.isnan().any())

    @property
    def n_rows(self) -> int:
        """Rows of a pass, over all ranks."""
        return sum(s.n_structures for s in self.stores) + self.derivatives * sum(s.n_directions for s in self.stores)

    def transform(self, kind: Standardize) -> Transform:
        if kind not in self._transforms:
            self._transforms[kind] = fit_transform(self.energies, kind, self.group, self.first)
        return self._transforms[kind]

    def baseline(self, kind: BaselineKind, plan: FitPlan) -> Baseline:
        if kind not in self._baselines:
            self._baselines[kind] = fit_baseline(self.energies, kind, plan.isolated, self.group)
        return self._baselines[kind]


@dataclass(frozen=True)
class Chained:
    """Several re-iterables as one."""

    parts: tuple[Iterable[FeatureBatch], ...]
    weights: tuple[float, ...] = ()  # of their rows; empty: all 1

    def __iter__(self) -> Iterator[FeatureBatch]:
        for part, weight in zip(self.parts, self.weights or [1.0] * len(self.parts), strict=True):
            yield from part if weight == 1.0 else (replace(batch, importance=weight) for batch in part)

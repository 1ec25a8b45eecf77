"""The stores of a fit as a source of rows, and what has been fitted to them already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from ase import Atoms

from mekrr_scale.arrays import (
    DERIVATIVES,
    KINDS,
    ByKind,
    Compression,
    FeatureBatch,
    Landmarks,
    RowKind,
    kind_named,
    usable_device,
)
from mekrr_scale.backbones import BackboneSpec, load_backbone, with_compression
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.errors import ConfigError, StoreError, unexpected
from mekrr_scale.kernels import SetKernel, Standardize, Transform, fit_transform
from mekrr_scale.models import Baseline, BaselineKind, Model, fit_baseline
from mekrr_scale.pipeline.fitting.coordinates import check_axes
from mekrr_scale.pipeline.fitting.counting import Chained
from mekrr_scale.pipeline.fitting.elastic import ElasticBatches, crystals_of
from mekrr_scale.pipeline.fitting.kernels import atomic_number, median_of, mixing_matrix, set_kernel
from mekrr_scale.pipeline.fitting.landmarks import Candidates, landmarks_of
from mekrr_scale.pipeline.fitting.plan import FitPlan
from mekrr_scale.pipeline.fitting.references import References
from mekrr_scale.pipeline.fitting.values import LengthScale
from mekrr_scale.pipeline.fitting.weights import check_configs, combinations, config_factors, weighed
from mekrr_scale.regression import (
    Balanced,
    Basis,
    Criterion,
    Folds,
    LabelledStructure,
    Precision,
    Problem,
    Source,
    Structures,
    assign_folds,
)
from mekrr_scale.store import FeatureStore, Sample, bring_weights, deal, open_store, samples_of
from mekrr_scale.structures import LabelKeys, read_labels, read_weights, structure_hash

Stores = Sequence[FeatureStore | Path | str] | FeatureStore | Path | str


@dataclass(frozen=True)
class Choice:
    """A candidate but for its mixing of species, ridge and weights."""

    standardize: Standardize
    baseline: BaselineKind
    length: LengthScale


@dataclass(frozen=True)
class FitData:
    """The stores as re-iterables, and what has been fitted to them already."""

    plan: FitPlan
    stores: tuple[FeatureStore, ...]
    derivatives: bool  # tangents are stored and used
    structures: Structures | None = None  # for matrix-free force rows
    group: Group = ALONE  # whose ranks own whole shards
    warm: Model | None = None  # whose landmarks are taken too
    references: References = field(default_factory=References)
    dropped: frozenset[int] = frozenset()  # structures that are left out, by their hashes
    samples: tuple[Sample, ...] = ()  # structures whose geometries are known, one of a shard
    elastic: Iterable[FeatureBatch] = ()  # of the network's stiffness, on the first rank
    elastic_follows: bool = False  # whether their weight follows the errors of the energies, since nobody gave one
    _transforms: dict[Standardize, Transform] = field(default_factory=dict)
    _baselines: dict[BaselineKind, Baseline] = field(default_factory=dict)
    _medians: dict[Standardize, float] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        stores: Stores,
        plan: FitPlan,
        structures: Iterable[Atoms] | None = None,
        keys: LabelKeys | None = None,
        group: Group = ALONE,
    ) -> FitData:
        """Open the stores, and refuse what does not go together before work is wasted.

        Raises:
            ConfigError: no store, energy or such device, weights or structures that do not fit, a solver without ranks.
            StoreError: stores of different kinds.
            ModelError: landmarks of a model with another backbone.
        """
        usable_device(plan.execution.device)
        listed = [stores] if isinstance(stores, FeatureStore | Path | str) else _several(stores)
        if not listed:
            raise ConfigError("no store was given to fit")
        opened = [s if isinstance(s, FeatureStore) else open_store(s) for s in listed]
        weights, takes = plan.rows.store_weights, plan.solver.takes
        if weights and len(weights) != len(opened):
            raise ConfigError(f"{len(weights)} weights for {len(opened)} stores; give one for each")
        if plan.kernel.mixing not in (None, "learn"):
            mixing_matrix(plan)  # refuses one with a negative eigenvalue
        warm = None if plan.landmarks.model is None else Model.load(plan.landmarks.model)
        if warm is not None:
            warm.require_backbone(opened[0].header.backbone, str(opened[0].path))
            warm.require_compression(opened[0].header.compression.get("hash"), str(opened[0].path))
        for store in opened:
            opened[0].header.require(store.header, str(store.path), drawn=False)
        check_axes(plan, opened[0])
        if not sum(shard.energies for store in opened for shard in store.shards):
            raise ConfigError("no structure in the store has an energy; extract with --energy-key naming where it is")
        if group.size > 1 and not takes.ranks:
            raise ConfigError(
                f"solver {plan.solver.name!r} runs in one process, not in {group.size}; take direct or falkon"
            )
        check_configs(plan, opened)
        dealt = deal(opened, group.rank, group.size) if group.size > 1 else tuple(opened)
        references = References.of(dealt, group, config_factors(plan))
        samples = tuple(samples_of(opened))
        crystals = crystals_of(samples)
        own = not plan.rows.weights[KINDS[RowKind.ELASTIC].name] and not plan.rows.sigmas
        plan = weighed(plan, opened, bool(crystals))
        moved = any(store.n_directions for store in opened)
        derivatives = plan.rows.derivatives and moved and bool(takes.kinds & DERIVATIVES)
        _check_criterion(plan, derivatives or structures is not None)
        if structures is None:
            stiff = any(plan.rows.weights[KINDS[RowKind.ELASTIC].name])
            elastic = ElasticBatches(crystals, opened[0], plan.execution.device) if stiff and group.rank == 0 else ()
            return cls(
                plan, dealt, derivatives, None, group, warm, references, samples=samples, elastic=elastic,
                elastic_follows=stiff and own,
            )  # fmt: skip
        if not takes.maps or moved:
            raise ConfigError(
                "structures make force rows without stored tangents: they need --solver falkon and a store without "
                "tangents; leave them out to fit stored tangents"
            )
        labelled = _labelled(opened, plan, structures, keys or LabelKeys(), references)
        return cls(plan, dealt, False, labelled, group, warm, references, samples=samples)

    @cached_property
    def compression(self) -> Compression | None:
        """What made coordinates of the backbone's features."""
        return self.stores[0].compression

    @cached_property
    def first(self) -> FeatureBatch | None:
        """The first batch of all, whichever rank owns it."""
        return next(iter(self._chained(tuple(replace(store, owned=None) for store in self.stores))), None)

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers, of all ranks' structures."""
        return tuple(sorted(self.species_counts))

    @property
    def species_counts(self) -> dict[int, int]:
        """Atoms by atomic number, of all ranks' structures; those that are references alone are not counted."""
        found: dict[int, int] = {}
        for store in self.stores:
            for z, count in store.species.items():
                found[z] = found.get(z, 0) + count
        return {z: n - self.references.atoms(z) for z, n in found.items() if n > self.references.atoms(z)}

    def without(self, dropped: frozenset[int]) -> FitData:
        """The same without some structures; nothing has been fitted to it yet."""
        samples = tuple(sample for sample in self.samples if sample.id not in dropped)
        return replace(self, dropped=dropped, samples=samples, _transforms={}, _baselines={}, _medians={})

    @property
    def energies(self) -> Iterable[FeatureBatch]:
        return self._chained(self.stores)

    @property
    def moved(self) -> Iterable[FeatureBatch]:
        return self._chained(tuple(replace(store, tangents=True) for store in self.stores))

    def of_store(self, place: int) -> Iterable[FeatureBatch]:
        """This rank's batches of one store, unweighted; with tangents where these are used."""
        store = self.stores[place]
        return replace(self._chained((replace(store, tangents=True) if self.derivatives else store,)), weights=())

    def _chained(self, stores: tuple[FeatureStore, ...]) -> Chained:
        return Chained(
            stores, self.plan.rows.store_weights, bool(self.references), config_factors(self.plan), self.dropped
        )

    @property
    def source(self) -> Source:
        """Where rows come from."""
        moved = Chained((self.moved, self.elastic)) if self.derivatives else None
        return Source(self.energies, moved, self.structures, self.group, self.n_rows)

    @property
    def has_prior(self) -> bool:
        return self.first is not None and not bool(self.first.prior.isnan().any())

    @property
    def n_structures(self) -> int:
        """Over all ranks."""
        return sum(store.n_structures for store in self.stores)

    @property
    def n_rows(self) -> int:
        """Rows of a pass, over all ranks."""
        return self.n_structures + self.derivatives * sum(s.n_directions for s in self.stores)

    @property
    def alphas(self) -> tuple[float | None, ...]:
        """Mixings of species to try; None where a matrix is given instead."""
        given = self.plan.kernel.mixing not in (None, "learn")
        return (None,) if given else self.plan.kernel.alphas

    def folds(self, exact: bool = True) -> Folds | None:
        """Parts for the cross-validation that the plan asks for."""
        count = self.plan.validation.folds
        if not count:
            return None
        placed = self.placed() if self.group.size > 1 else None
        return assign_folds(self.energies if exact else (), count, self.group, exact, placed)

    def placed(self) -> Iterator[tuple[int, FeatureBatch]]:
        """This rank's batches, each with the place of its first structure in the whole data."""
        first = 0
        for store in self.stores:
            for info in store.shards:
                if store.owned is None or info.path in store.owned:
                    place = first
                    part = replace(store, owned=frozenset({info.path}))
                    for batch in replace(self._chained((part,)), weights=()):
                        yield place, batch
                        place += batch.n_structures
                first += info.structures

    def transform(self, kind: Standardize) -> Transform:
        if kind not in self._transforms:
            self._transforms[kind] = fit_transform(self.energies, kind, self.group, self.first, self.compression)
        return self._transforms[kind]

    def baseline(self, kind: BaselineKind) -> Baseline:
        if kind not in self._baselines:
            given = {atomic_number(symbol): energy for symbol, energy in self.plan.baseline.isolated.items()}
            isolated = {**self.references.energies, **given}
            self._baselines[kind] = fit_baseline(self.energies, kind, isolated, self.group)
        return self._baselines[kind]

    def median(self, kind: Standardize) -> float:
        """The median distance of transformed features, where a length scale is relative to it."""
        if kind not in self._medians:
            transform = self.transform(kind)
            self._medians[kind] = median_of(self.plan, self.energies, transform, self.group, self.compression)
        return self._medians[kind]

    def kernels(self, choice: Choice) -> list[SetKernel]:
        """The kernels of a candidate, one for every mixing of species."""
        transform, median = self.transform(choice.standardize), self.median(choice.standardize)
        return [set_kernel(self.plan, choice.length, alpha, median, transform) for alpha in self.alphas]

    def landmarks(self, kernel: SetKernel, count: int | None = None) -> Landmarks:
        """Chosen as the plan says, the same on all ranks.

        Args:
            count: another number than the plan's.
        """
        warm = None if self.warm is None else self.warm.landmarks
        moved = self.moved if self.displaced else None
        atoms = Candidates(self.energies, moved, self.counted_atoms, warm, self.group)
        return landmarks_of(self.plan, atoms, kernel, self.plan.landmarks.count if count is None else count)

    @property
    def n_atoms(self) -> int:
        """Of all ranks' structures; those that are references alone are not counted."""
        return sum(self.species_counts.values())

    @cached_property
    def counted_atoms(self) -> int:
        """Of structures that are not left out, whose atoms may be landmarks; all ranks ask for it together."""
        if not self._may_leave_out:
            return self.n_atoms
        own = sum(int(batch.n_atoms.sum()) for batch in self.energies)
        return int(self.group.sum(torch.tensor(own)))

    @cached_property
    def displaced(self) -> bool:
        """Whether atoms can be displaced to make more landmarks of; all ranks ask for it together."""
        if not self.displaces or not self._may_leave_out:
            return self.displaces
        labels = (batch.directions for batch in self.moved)
        own = any(known is not None and bool((known.kind == int(RowKind.FORCE)).any()) for known in labels)
        return self._anywhere(own)

    @property
    def displaces(self) -> bool:
        """Whether stores hold displacements of atoms, be it of structures that are left out."""
        return self.derivatives and any(store.holds(RowKind.FORCE) for store in self.stores)

    @cached_property
    def _may_leave_out(self) -> bool:
        """Whether structures may be left out by name or weight."""
        told = self.dropped or any(0.0 in factors for factors in config_factors(self.plan).values())
        return self._anywhere(bool(told) or bring_weights(self.stores))

    def _anywhere(self, here: bool) -> bool:
        """Whether it is so on any rank."""
        return bool(int(self.group.maximum(torch.tensor(int(here)))))

    def family(self, choice: Choice, folds: Folds | None) -> list[Problem]:
        """The problems of a candidate: one for every mixing of species, on the same landmarks."""
        kernels = self.kernels(choice)
        baseline, landmarks = self.baseline(choice.baseline), self.landmarks(kernels[0])
        return [problem_of(self.plan, kernel, landmarks, baseline, folds) for kernel in kernels]


def _several(stores: Sequence[FeatureStore | Path | str]) -> list[FeatureStore | Path | str]:
    if isinstance(stores, Iterable):
        return list(stores)
    raise StoreError(unexpected(stores, "a store or its folder, or a list of these,", "store"))


def _check_criterion(plan: FitPlan, derivatives: bool) -> None:
    """Refuse a choice by errors of rows that there are none of."""
    given = plan.validation.criterion
    if isinstance(given, str):
        return  # of whatever rows there are
    asked = [name for name, weight in given.items() if weight > 0]
    if plan.validation.folds and not derivatives and all(kind_named(name) in DERIVATIVES for name in asked):
        named = f"errors of {' and '.join(asked)} rows alone, and there are no such rows" if asked else "nothing"
        raise ConfigError(
            f"the criterion chooses by {named}; weigh the energies' errors (--criterion 1,...), or extract with "
            "--derivatives"
        )


def problem_of(
    plan: FitPlan, kernel: SetKernel, landmarks: Landmarks, baseline: Baseline, folds: Folds | None
) -> Problem:
    """The problem that a plan makes of a kernel, landmarks and a baseline."""
    at = plan.rows
    return Problem(
        kernel=kernel,
        landmarks=landmarks,
        baseline=baseline,
        folds=folds,
        weights=combinations(plan),
        criterion=criterion_of(plan),
        basis=Basis(at.cut, at.whitening),
        precision=Precision.named(at.energy_precision, at.derivative_precision),
        seed=plan.seed,
    )


def criterion_of(plan: FitPlan) -> Criterion:
    """What a plan compares candidates by; balanced counts the kinds of rows that a candidate weighs."""
    given = plan.validation.criterion
    if not isinstance(given, str):
        return ByKind.of({kind_named(name): weight for name, weight in given.items()}, 0.0)
    tried = combinations(plan)
    judged = (kind for kind, info in KINDS.items() if info.judged)
    return Balanced(frozenset(kind for kind in judged if any(weights[kind] > 0 for weights in tried)))


def _labelled(
    stores: Sequence[FeatureStore],
    plan: FitPlan,
    structures: Iterable[Atoms],
    keys: LabelKeys,
    references: References,
) -> Structures:
    """Structures whose forces are fitted, with what the stores know of them."""
    if not stores[0].header.spec:
        raise ConfigError("matrix-free force rows need a backbone, but the store holds features of your own")
    backbone = with_compression(load_backbone(BackboneSpec.of(stores[0].header.spec)), stores[0].compression)
    backbone = backbone.to(plan.execution.device, torch.float64)
    known: dict[int, tuple[int, float]] = {}
    for batch in Chained(stores, plan.rows.store_weights, bool(references), config_factors(plan)):
        forces = batch.weight(RowKind.FORCE)
        for i, group, weight in zip(batch.ids.tolist(), batch.groups.tolist(), forces.tolist(), strict=True):
            known.setdefault(i, (group, weight))
    found = []
    for atoms in structures:
        labels = read_labels(atoms, keys)
        number = structure_hash(atoms, labels)
        if number in known and labels.forces is not None and known[number][1] > 0:
            found.append(LabelledStructure(atoms, labels, number, *known[number], read_weights(atoms).atoms))
    if not found:
        raise ConfigError("none of the structures given is in the store with forces; give the file it was made of")
    return Structures(found, backbone)

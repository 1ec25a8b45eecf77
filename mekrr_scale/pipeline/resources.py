"""What a fit will take: memory of each rank, what is kept where, passes and time, before it runs.

Bytes follow from the sizes of the arrays that each stage holds at once; seconds from rates that are
measured here and now, on one batch of the store and on small matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mekrr_scale.cache import free_bytes, packed_width
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.distributed.group import share
from mekrr_scale.distributed.panels import WIDTH
from mekrr_scale.operators import decades
from mekrr_scale.pipeline.calibrate import LARGEST_RANK, LOOKED_AT, MOVED_AT
from mekrr_scale.pipeline.data import FitData
from mekrr_scale.pipeline.plan import FitPlan
from mekrr_scale.pipeline.rates import Rates, Sample
from mekrr_scale.pipeline.trials import alphas_of, candidates, iterative
from mekrr_scale.solvers import LARGEST_EIGEN
from mekrr_scale.store import FeatureStore
from mekrr_scale.store.reader import BATCH_ATOMS, BATCH_STRUCTURES, HELD_BYTES

_DOUBLE = 8


@dataclass(frozen=True)
class Stage:
    """A part of the fit, on the rank that has most to do."""

    name: str
    bytes: float  # held at once, what lives longer included
    seconds: float
    passes: float = 0.0  # over the store
    note: str = ""


@dataclass(frozen=True)
class Resources:
    """A fit's stages, and where its rows go."""

    ranks: int
    rows: int  # of the largest rank
    columns: int
    base_bytes: float  # of the process before the fit
    kept: str  # where rows are kept
    row_bytes: float  # of all rows that are kept, on the largest rank
    stages: Sequence[Stage]
    seconds_iteration: float = 0.0  # of Falkon

    @property
    def peak_bytes(self) -> float:
        """Memory of a rank at most, pages of mapped files apart."""
        return self.base_bytes + max(stage.bytes for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Of everything but Falkon's iterations, whose number is not known before."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def passes(self) -> float:
        return sum(stage.passes for stage in self.stages)


def resources(
    stores: Sequence[FeatureStore | Path | str] | FeatureStore | Path | str,
    plan: FitPlan | None = None,
    group: Group = ALONE,
) -> Resources:
    """What ``fit`` with the same arguments will take on each rank.

    Raises:
        ConfigError, StoreError: as ``fit``, as far as they show before it runs.
    """
    plan = plan or FitPlan()
    return estimate(plan, FitData.open(stores, plan, group=group))


def estimate(plan: FitPlan, data: FitData) -> Resources:
    """What the fit of this plan to these data will take on each rank.

    One candidate is looked at; their number multiplies passes and seconds. The rank after whitening
    is estimated from a thousand atoms of the first batch.
    """
    job = _Job.of(plan, data)
    stages = [
        Stage("statistics and landmarks", job.work, job.structures * job.rates.statistics, 4 + data.derivatives),
        Stage(
            "whitening of K_ZZ",
            job.whitening + 4.0 * max(job.blocks) ** 2 * _DOUBLE,
            job.tried * job.rates.eigen * sum(float(m) ** 3 for m in job.own_blocks),
            note=f"{len(job.blocks)} block{'s' * (len(job.blocks) > 1)} of at most {max(job.blocks)}",
        ),
    ]
    kept, row_bytes = "nothing", 0.0
    iterating = plan.solver != "exact" and iterative(plan, data, job.columns)
    if iterating:
        row_bytes = float(job.rows) * job.width * _DOUBLE
        kept = _tier(plan, row_bytes)
        stages += job.falkon(kept)
    elif plan.solver == "direct":
        row_bytes = float(job.rows) * sum(job.blocks) * _DOUBLE
        kept = "memory" if row_bytes <= plan.memory_bytes else "nothing"
        stages += job.direct(kept)
    if plan.folds and plan.solver != "exact":
        stages += job.validation(kept)
    iteration = job.iteration(kept) if iterating else 0.0
    return Resources(data.group.size, job.rows, sum(job.blocks), _anonymous(), kept, row_bytes, stages, iteration)


@dataclass(frozen=True)
class _Job:
    """Sizes and rates that the stages follow from."""

    plan: FitPlan
    data: FitData
    rates: Rates
    energies: int  # of the largest rank
    directions: int
    structures: int
    blocks: Sequence[int]  # of K_ZZ
    rank_part: float  # of the columns that whitening leaves
    tried: int  # candidates

    @classmethod
    def of(cls, plan: FitPlan, data: FitData) -> _Job:
        sample = Sample.of(plan, data)
        rates = Rates.measure(plan, data, sample, _columns(plan))
        tried = len(list(candidates(plan, data))) * len(alphas_of(plan))
        return cls(plan, data, rates, *_largest_share(data), sample.blocks, sample.rank_part, tried)

    @property
    def rows(self) -> int:
        return self.energies + self.directions

    @property
    def columns(self) -> int:
        """After whitening."""
        return max(1, round(self.rank_part * sum(self.blocks)))

    @property
    def width(self) -> int:
        return packed_width(self.columns, len(self.data.species))

    @property
    def square(self) -> float:
        return float(self.columns) ** 2 * _DOUBLE

    @property
    def whitening(self) -> float:
        return self.rank_part * float(sum(m * m for m in self.blocks)) * _DOUBLE

    @property
    def own_blocks(self) -> Sequence[int]:
        size = self.data.group.size
        dealt = (self.blocks[r::size] for r in range(min(size, len(self.blocks))))
        return max(dealt, key=lambda own: sum(m**3 for m in own))

    @property
    def work(self) -> float:
        """Landmarks, and the block of rows at hand with what is made of it."""
        landmarks = 3.0 * sum(self.blocks) * (self.data.stores[0].header.dim + 2) * _DOUBLE
        arrays = min(HELD_BYTES, self.structures * _DOUBLE * (8.0 + len(self.data.species)))
        dim = self.data.stores[0].header.dim
        stored = [place.rows for store in self.data.stores for info in store.shards for place in info.big.values()]
        tangents = 4.0 * min(BATCH_ATOMS, sum(stored)) * dim * _DOUBLE if self.directions else 0.0
        return (
            landmarks
            + arrays
            + tangents
            + 6.0 * min(BATCH_STRUCTURES, max(self.energies, 1)) * sum(self.blocks) * _DOUBLE
        )

    @property
    def make(self) -> float:
        """Seconds of making all rows of a rank."""
        return self.energies * self.rates.kernel + self.directions * self.rates.derivative

    @property
    def whiten(self) -> float:
        return self.rank_part * self.rows * 2.0 * sum(m * m for m in self.blocks) * self.rates.flop

    def falkon(self, kept: str) -> list[Stage]:
        size = self.data.group.size
        in_memory = 0.0 if kept == "nothing" else min(self.rows * self.width * _DOUBLE, self.plan.memory_bytes)
        part = 1.0 if self.plan.solver == "direct" else float(self.plan.falkon.get("subset", 0.5))
        subset = part * self.rows * 2.0 * self.columns**2 * self.rates.flop
        if self.columns <= LARGEST_EIGEN:
            factor_bytes, factor_seconds = 6.0 * self.square, self.rates.eigen * float(self.columns) ** 3
        else:
            factors = len(decades(torch.tensor(self.plan.ridges, dtype=torch.float64)))
            panels = self.square / 2
            factor_bytes = (max(3.0, 1.0 + factors) * panels + 3.0 * self.columns * WIDTH * _DOUBLE) / size
            factor_seconds = factors * float(self.columns) ** 3 / 3 * self.rates.flop / size
            subset *= 0.6
        held = self.whitening + in_memory + factor_bytes
        handled = self.rows * self.width * _DOUBLE * (4 * self.rates.copy + self.rates.write * ("scratch" in kept))
        first = self.tried * (self.make + self.whiten + subset + handled)
        buffers = 2.0 * min(BATCH_STRUCTURES, self.rows) * self.width * _DOUBLE if "scratch" in kept else 0.0
        vectors = 25.0 * self.columns * _columns(self.plan) * _DOUBLE
        return [
            Stage("first pass", held + self.work, first, self.tried, f"rows kept: {kept}"),
            Stage("preconditioner", held, self.tried * factor_seconds),
            Stage("iterations", held + vectors + buffers, 0.0, 0.0, f"{self.iteration(kept):.3g} s each"),
        ]

    def iteration(self, kept: str) -> float:
        return (self.make if kept == "nothing" else 0.0) + self.rows * self.columns * self.rates.thin

    def direct(self, kept: str) -> list[Stage]:
        folds = max(self.plan.folds, 1)
        in_memory = min(self.rows * self.columns * _DOUBLE, self.plan.memory_bytes)
        per_fold = [n / folds * self.columns * _DOUBLE for n in (self.energies, self.directions)]
        sums = sum(folds * (rows if 2 * rows <= self.square else self.square) for rows in per_fold)
        held = self.whitening + sums
        seconds = self.make + self.whiten + self.rows * 2.0 * self.columns**2 * self.rates.flop
        seconds += 4 * self.rows * self.columns * _DOUBLE * self.rates.copy
        own_folds = -(-folds // self.data.group.size)
        solving = (own_folds + 1 / 3) * self.rates.eigen * float(self.columns) ** 3
        while_solving = held + in_memory * (kept == "memory") + 6 * self.square
        return [
            Stage("pass over the rows", held + in_memory + self.work, self.tried * seconds, self.tried),
            Stage("ridges, weights and folds", while_solving, self.tried * solving),
        ]

    def validation(self, kept: str) -> list[Stage]:
        raw = kept == "memory" and not iterative(self.plan, self.data, self.columns)  # as they are, not whitened
        in_memory = self.rows * self.columns * _DOUBLE * raw
        stages = [Stage("held-out energies", self.work + in_memory, self.energies * self.rates.kernel, 1)]
        if self.plan.uncertainty and self.columns <= LARGEST_RANK:
            update = self.rows * 2.0 * self.columns**2 * self.rates.flop
            factors = 4 * self.rates.eigen * float(self.columns) ** 3
            atoms = sum(store.n_atoms for store in self.data.stores)
            looked_at, alone, moved = (n / self.data.group.size for n in (LOOKED_AT, min(LOOKED_AT, atoms), MOVED_AT))
            factors += min(self.energies, looked_at) * self.rates.prior + alone * self.rates.lone_prior
            factors += min(self.directions, moved) * self.rates.derivative_prior
            held = self.whitening + in_memory + (2.0 * self.plan.folds + 4) * self.square + self.work
            stages.append(Stage("uncertainty", held, 2 * self.make + self.whiten + update + factors, 2))
        return stages


def _tier(plan: FitPlan, size: float) -> str:
    if size <= plan.memory_bytes:
        return "memory"
    if plan.scratch is None:
        return "nothing"
    room = free_bytes(plan.scratch)
    short = "" if room > size - plan.memory_bytes else f"; only {room / 1e9:.0f} GB are free there"
    return f"memory and scratch file in {plan.scratch}{short}"


def _largest_share(data: FitData) -> tuple[int, int, int]:
    """Energies, directions and structures of the rank with most of them."""
    infos = [info for store in data.stores for info in store.shards]
    dealt = share([sum(place.rows for place in info.big.values()) for info in infos], data.group.size)
    found = [
        (
            sum(infos[i].energies for i in items),
            sum(infos[i].directions for i in items) * data.derivatives,
            sum(infos[i].structures for i in items),
        )
        for items in dealt
    ]
    return max(found, key=lambda item: item[0] + item[1])


def _columns(plan: FitPlan) -> int:
    return len(plan.ridges) * (1 + plan.folds)


def _anonymous() -> float:
    """Memory of this process now, pages of mapped files apart."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return 3e8

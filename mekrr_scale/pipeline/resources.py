"""What a fit will take: memory of each rank, what is kept where, passes and time, before it runs.

Bytes follow from the sizes of the arrays that each stage holds at once; seconds from rates that are
measured here and now, on one batch of the store and on small matrices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mekrr_scale.arrays import FeatureBatch, Landmarks
from mekrr_scale.cache import free_bytes, packed_width
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.distributed.group import share
from mekrr_scale.distributed.panels import WIDTH
from mekrr_scale.kernels import SetKernel
from mekrr_scale.landmarks import Pool
from mekrr_scale.pipeline.calibrate import LARGEST_RANK
from mekrr_scale.pipeline.data import FitData
from mekrr_scale.pipeline.plan import FitPlan
from mekrr_scale.pipeline.trials import alphas_of, candidates, set_kernel
from mekrr_scale.rows import DerivativeRows, EnergyRows
from mekrr_scale.solvers import LARGEST_EIGEN
from mekrr_scale.store import FeatureStore
from mekrr_scale.transforms import Transform
from mekrr_scale.whitening import eigh

_ELEMENTS = 3e7  # kernel elements of the batch that is timed
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


@dataclass(frozen=True)
class _Rates:
    """Seconds of this machine."""

    read: float  # per structure: features touched once
    kernel: float  # per energy row
    derivative: float  # per derivative row
    flop: float  # of a large matrix product
    thin: float  # per element of a matrix that few vectors are multiplied with
    eigen: float  # per cubed size

    @classmethod
    def measure(cls, plan: FitPlan, data: FitData) -> _Rates:
        kernel, landmarks, batch = _sample(plan, data)
        a = torch.randn(1024, 1024, dtype=torch.float64)
        size = min(max(landmarks.n_sets, 64), 1000)
        gram = a[:size, :size] @ a[:size, :size].T
        tall = torch.randn(4096, 1024, dtype=torch.float64)
        columns = torch.randn(1024, _columns(plan), dtype=torch.float64)
        baseline = data.baseline("composition", plan)
        rows = EnergyRows((batch,), kernel, landmarks, baseline)
        count = max(1, int((~batch.energy.isnan()).sum()))
        derivative = 0.0
        if data.derivatives:
            moved = next(iter(_small(data, landmarks.n_sets, True)), None)
            if moved is not None and moved.directions is not None and len(moved.directions.label):
                source = DerivativeRows((moved,), kernel, landmarks, baseline)
                derivative = _time(lambda: list(source)) / len(moved.directions.label)
        return cls(
            read=_time(lambda: [run.features.double().square().sum() for run in batch.runs]) / batch.n_structures,
            kernel=_time(lambda: list(rows)) / count,
            derivative=derivative,
            flop=_time(lambda: a @ a) / (2 * 1024**3),
            thin=_time(lambda: tall.T @ (tall @ columns)) / tall.numel(),
            eigen=_time(lambda: eigh(gram)) / size**3,
        )


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
    is taken to be the number of columns, which it is at most.
    """
    energies, directions, structures = _largest_share(data)
    kernel, landmarks, _ = _sample(plan, data)
    blocks = _block_sizes(kernel, landmarks)
    columns = sum(blocks)
    rates = _Rates.measure(plan, data)
    tried = len(list(candidates(plan, data))) * len(alphas_of(plan))
    rows = energies + directions
    whitening = float(sum(m * m for m in blocks)) * _DOUBLE
    block_rows = min(2048, max(energies, 1))
    work = 4.0 * block_rows * columns * _DOUBLE + 3.0 * landmarks.n_sets * (data.stores[0].header.dim + 2) * _DOUBLE
    make = energies * rates.kernel + directions * rates.derivative
    whiten = rows * 2 * sum(m * m for m in blocks) * rates.flop
    square = float(columns) ** 2 * _DOUBLE
    statistics = 5 if data.derivatives else 4
    stages = [
        Stage("statistics and landmarks", work, statistics * structures * rates.read, statistics),
        Stage(
            "whitening of K_ZZ",
            whitening + 4.0 * max(blocks) ** 2 * _DOUBLE,
            tried * rates.eigen * sum(float(m) ** 3 for m in _own(blocks, data)),
            note=f"{len(blocks)} block{'s' * (len(blocks) > 1)} of at most {max(blocks)}",
        ),
    ]
    iteration = 0.0
    kept, row_bytes = "nothing", 0.0
    if plan.solver == "falkon":
        width = packed_width(columns, len(data.baseline("composition", plan).species))
        row_bytes = float(rows) * width * _DOUBLE
        kept = _tier(plan, data, row_bytes)
        in_memory = min(row_bytes, plan.memory_bytes) if kept.startswith("memory") else 0.0
        subset = float(plan.falkon.get("subset", 0.5))
        vectors = 25.0 * columns * _columns(plan) * _DOUBLE
        buffers = 2.0 * block_rows * width * _DOUBLE if "scratch" in kept else 0.0
        gram_seconds = data.group.size * subset * rows * 2.0 * columns**2 * rates.flop
        if columns <= LARGEST_EIGEN:
            factor_bytes, gram_seconds = 6.0 * square, gram_seconds / data.group.size
            factor_seconds = rates.eigen * float(columns) ** 3
        else:
            decades = len(set(_decades(plan)))
            factor_bytes = (max(3.0, 1.0 + decades) * square / 2 + 3 * columns * WIDTH * _DOUBLE) / data.group.size
            gram_seconds /= 2 * data.group.size
            factor_seconds = decades * float(columns) ** 3 / 3 * rates.flop / data.group.size
        held = whitening + in_memory + factor_bytes
        stages.append(
            Stage("first pass", held + work, tried * (make + whiten + gram_seconds), tried, f"rows kept: {kept}")
        )
        stages.append(Stage("preconditioner", held, tried * factor_seconds))
        remade = (make + rows * columns * rates.thin) if kept == "nothing" else rows * columns * rates.thin
        iteration = remade
        stages.append(Stage("iterations", held + vectors + buffers, 0.0, 0.0, f"{iteration:.3g} s each"))
    elif plan.solver == "direct":
        kinds = 1 + 2 * data.derivatives
        folds = max(plan.folds, 1)
        row_bytes = float(rows) * columns * _DOUBLE
        fits = row_bytes <= plan.memory_bytes
        kept = "memory" if fits else "nothing"
        in_memory = min(row_bytes, plan.memory_bytes)
        sums = sum(min(square, n / folds * columns * _DOUBLE) * folds for n in (energies, directions)[:kinds])
        seconds = make + whiten + rows * 2.0 * columns**2 * rates.flop
        stages.append(Stage("pass over the rows", whitening + sums + in_memory + work, tried * seconds, tried))
        own_folds = -(-folds // data.group.size)
        decompositions = (own_folds + 1 / 3) * rates.eigen * float(columns) ** 3
        stages.append(
            Stage("ridges, weights and folds", whitening + sums + in_memory * fits + 6 * square, tried * decompositions)
        )
    if plan.folds and plan.solver != "exact":
        stages.append(Stage("held-out energies", whitening + work, energies * rates.kernel, 1))
        if plan.uncertainty and columns <= LARGEST_RANK:
            seconds = make + whiten + rows * 2.0 * columns**2 * rates.flop + 4 * rates.eigen * float(columns) ** 3
            stages.append(Stage("uncertainty", whitening + (2.0 * plan.folds + 4) * square + work, seconds, 2))
    return Resources(data.group.size, rows, columns, _anonymous(), kept, row_bytes, stages, iteration)


def _tier(plan: FitPlan, data: FitData, size: float) -> str:
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


def _sample(plan: FitPlan, data: FitData) -> tuple[SetKernel, Landmarks, FeatureBatch]:
    """A kernel, landmarks (as many, of the right species) and a batch like those of the fit."""
    batch = next(iter(_small(data, plan.n_landmarks, False)))
    transform = Transform.identity(batch.runs[0].features.shape[1])
    kernel = set_kernel(plan, plan.length_scales[0], alphas_of(plan)[0], 1.0, transform)
    species = data.stores[0].species
    features = {run.z: run.features for run in batch.runs if len(run.features)}
    whole = {z: n for z, n in species.items() if z in features}
    pool = Pool({z: features[z][:1].expand(n, -1) for z, n in whole.items()}, {}, whole)
    count = plan.n_landmarks or sum(whole.values())
    shares = pool.share(min(count, sum(whole.values())), plan.balance)
    repeated = {z: features[z][torch.arange(n) % len(features[z])] for z, n in shares.items() if n}
    total = sum(map(len, repeated.values()))
    landmarks = Landmarks(
        torch.cat([repeated[z] for z in sorted(repeated)]),
        torch.cat([torch.full((len(repeated[z]),), z) for z in sorted(repeated)]),
        torch.arange(total),
        total,
    )
    return kernel, landmarks, batch


def _small(data: FitData, landmarks: int, tangents: bool) -> Sequence[FeatureBatch]:
    """The first batch, small enough to be timed."""
    atoms = int(max(256, min(32768, _ELEMENTS / max(landmarks, 1))))
    stores = (replace(store, owned=None, tangents=tangents, max_atoms=atoms) for store in data.stores)
    found = next((batch for store in stores for batch in store), None)
    return [] if found is None else [found]


def _block_sizes(kernel: SetKernel, landmarks: Landmarks) -> list[int]:
    if not kernel.separate(landmarks):
        return [kernel.n_columns(landmarks)]
    return [int(n) for n in landmarks.species.unique_consecutive(return_counts=True)[1]]


def _own(blocks: Sequence[int], data: FitData) -> Sequence[int]:
    """The blocks of the rank with most of them."""
    size = data.group.size
    return max((blocks[r::size] for r in range(min(size, len(blocks)))), key=lambda own: sum(m**3 for m in own))


def _columns(plan: FitPlan) -> int:
    return len(plan.ridges) * (1 + plan.folds)


def _decades(plan: FitPlan) -> list[int]:
    """The group of each ridge; a group shares a factor."""
    places, smallest = [0], 0.0
    for ridge in sorted(plan.ridges):
        if ridge > 10 * smallest * (1 + 1e-9):
            smallest = ridge
            places.append(places[-1] + 1)
    return places[1:]


def _time(work: Callable[[], object]) -> float:
    work()
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def _anonymous() -> float:
    """Memory of this process now, pages of mapped files apart."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return 3e8

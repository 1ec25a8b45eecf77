"""How fast the device of a fit makes and handles the rows of a store, measured on its first batch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, Landmarks, SpeciesRun, alone, eigh
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import SetKernel, SpeciesMixing, Transform, fit_transform
from mekrr_scale.landmarks import LandmarkMethod, Pool, Uniform, WholeStructures, draw_pool
from mekrr_scale.models import Baseline, whiten
from mekrr_scale.pipeline.fitting.data import FitData
from mekrr_scale.pipeline.fitting.kernels import median_of, set_kernel
from mekrr_scale.pipeline.fitting.landmarks import displaces
from mekrr_scale.pipeline.fitting.plan import FitPlan
from mekrr_scale.regression import Precision, Problem, Source
from mekrr_scale.solvers import Rates
from mekrr_scale.store import BATCH_ATOMS

_ELEMENTS = 3e7  # kernel elements of the batch that is timed
_LONG = 0.1  # seconds that are not timed twice
_HASHED = 4e9  # bytes per second of the first pass, which checks hashes (benchmarks: store_reading)
_MOST_COLUMNS = 512  # that are timed; more take as much longer


@dataclass(frozen=True)
class Sample:
    """A kernel, landmarks (as many, of the right species) and batches like those of a fit."""

    kernel: SetKernel
    landmarks: Landmarks
    batch: FeatureBatch  # small enough to be timed
    moved: FeatureBatch | None  # the same with tangents
    reading: float  # seconds per direction of taking it from the store
    rank_part: float  # of the landmarks' columns that whitening keeps

    @classmethod
    def of(cls, data: FitData) -> Sample:
        """From the first batch, the same on all ranks.

        Raises:
            ConfigError: there is no structure.
        """
        first = data.first
        if first is None:
            raise ConfigError("the store holds no structure; extract some first")
        plan = data.plan
        transform = fit_transform((first,), plan.kernel.standardize[0], compression=data.compression)
        try:
            median = median_of(plan, (first,), transform, compression=data.compression)
        except ConfigError:  # one batch may hold copies of one atom where all of them do not
            median = 1.0
        kernel = set_kernel(plan, plan.kernel.length_scales[0], data.alphas[0], median, transform)
        atoms = int(first.n_atoms.sum())
        at = plan.landmarks
        whole = whole_structures(plan)
        there = first.n_structures if whole else atoms
        count = min(at.count or there, there, 1000)
        method: LandmarkMethod = WholeStructures(count, plan.seed) if whole else Uniform(count, plan.seed, at.balance)
        few = method.select((first,), kernel)
        rank = whiten(kernel.gram_block_makers(few), plan.rows.cut).rank
        landmarks = _structures(data, first) if whole else _landmarks(data, first, transform)
        own = len(landmarks.features)
        with_tangents = _small(data, own, True)
        moved = next(iter(with_tangents)) if data.derivatives else None
        return cls(
            kernel=kernel,
            landmarks=landmarks,
            batch=next(iter(_small(data, own, False))),
            moved=moved,
            reading=_per_direction(moved, lambda _: next(iter(with_tangents))),
            rank_part=rank / kernel.n_columns(few),
        )

    def mixed(self, alpha: float) -> Sample:
        """The same with another mixing of species."""
        return replace(self, kernel=replace(self.kernel, mixing=SpeciesMixing(alpha)))

    @property
    def alpha(self) -> float | None:
        """Of the mixing, where rows are linear in it."""
        return self.kernel.mixing.alpha if self.kernel.linear_in_alpha else None

    @property
    def blocks(self) -> Sequence[int]:
        """Sizes of the diagonal blocks of K_ZZ."""
        if not self.kernel.separate(self.landmarks):
            return [self.kernel.n_columns(self.landmarks)]
        return [int(n) for n in self.landmarks.species.unique_consecutive(return_counts=True)[1]]


def measured(data: FitData, sample: Sample, columns: int) -> Rates:
    """Time everything on the sample, where the fit will do it.

    Args:
        columns: vectors that iterations share.
    """
    landmarks, device = sample.landmarks, data.plan.execution.device
    square = torch.randn(1024, 1024, dtype=torch.float64)
    size = min(max(landmarks.n_sets, 64), 1000)
    gram = square[:size, :size] @ square[:size, :size].T
    shared = min(columns, _MOST_COLUMNS)
    tall, few = torch.randn(4096, 1024, dtype=torch.float64), torch.randn(1024, shared, dtype=torch.float64)
    on_disk = tall
    if not data.plan.solver.takes.sums:  # whose decompositions are made on the host
        gram = gram.to(device)
    square, tall, few = square.to(device), tall.to(device), few.to(device)
    timed = partial(_time, device=device)
    return Rates(
        statistics=_statistics(data),
        flop=timed(lambda: square @ square) / (2 * 1024**3),
        thin=timed(lambda: tall.T @ (tall @ few)) / tall.numel() * columns / shared,
        eigen=timed(lambda: eigh(gram)) / size**3,
        copy=timed(tall.clone) / tall.nbytes,
        write=_write_rate(data.plan.execution.scratch, on_disk),
        **rates_of_rows(data, sample),
    )


def rates_of_rows(data: FitData, sample: Sample) -> dict[str, float]:
    """Those of ``Rates`` that depend on the kernel: of rows and prior variances."""
    kernel, batch, at, device = sample.kernel, sample.batch, data.plan.rows, data.plan.execution.device
    species = data.species
    baseline = Baseline(species, torch.zeros(len(species), dtype=torch.float64), prior=False, fitted=False)
    precision = Precision.named(at.energy_precision, at.derivative_precision)
    problem = Problem(kernel, sample.landmarks, baseline, precision=precision).on(device)
    run: SpeciesRun = max(batch.runs, key=lambda run: len(run.features))
    lone = alone(run.features[:32].double(), torch.full((min(32, len(run.features)),), run.z))
    energies = problem.rows(Source((batch,)))
    looked_at = batch.take(torch.arange(batch.n_structures) < 32)
    known = max(1, int((~batch.energy.isnan()).sum()))
    along = _per_direction(sample.moved, lambda moved: list(problem.rows(Source((), (moved,)))), device)
    return {
        "kernel": _time(lambda: list(energies), device) / known,
        "derivative": sample.reading + along,
        "prior": _time(lambda: kernel.diagonal(looked_at)) / looked_at.n_structures,
        "lone_prior": _time(lambda: kernel.diagonal(lone)) / lone.n_structures,
        "derivative_prior": _per_direction(sample.moved, kernel.derivative_diagonal),
    }


def whole_structures(plan: FitPlan) -> bool:
    """Whether landmarks are whole structures."""
    return plan.solver.whole_structures or plan.landmarks.method == "structures"


def _structures(data: FitData, first: FeatureBatch) -> Landmarks:
    """As many whole structures as the fit has; those of the first batch, repeated where it has too few."""
    count = 0 if data.plan.solver.whole_structures else data.plan.landmarks.count
    taken = torch.arange(min(count or data.n_structures, data.n_structures)) % first.n_structures
    features, species, owners = [], [], []
    for run in first.runs:
        sizes = run.ptr.diff()
        atoms = run.features.split(sizes.tolist())
        features.append(torch.cat([atoms[place] for place in taken.tolist()]))
        species.append(torch.full((len(features[-1]),), run.z))
        owners.append(torch.arange(len(taken)).repeat_interleave(sizes[taken]))
    return Landmarks(torch.cat(features), torch.cat(species), torch.cat(owners), len(taken))


def _landmarks(data: FitData, first: FeatureBatch, transform: Transform) -> Landmarks:
    """As many as the fit has, of each species of the first batch; atoms of it, repeated where it has too few.

    Species that it lacks are counted as those that it has: their own transform is not known yet.
    """
    features = {run.z: run.features for run in first.runs if len(run.features)}
    known = {z: n for z, n in data.species_counts.items() if z in features}
    counts = {z: -(-n * data.n_atoms // sum(known.values())) for z, n in known.items()}
    pool = Pool({z: features[z][:1].expand(n, -1) for z, n in counts.items()}, {}, counts)
    most = data.n_atoms
    at = data.plan.landmarks
    fewest = 0 if data.warm else most
    copies = -(-at.count // most) if displaces(data.plan, data.n_atoms, data.displaces, at.count) else 1
    shares = pool.share(min(at.count or fewest, copies * most), at.balance, copies)
    if data.warm is not None:
        for z in filter(transform.knows, data.warm.landmarks.species.tolist()):
            shares[z] = shares.get(z, 0) + 1
    any_atom = next(iter(features.values()))
    chosen = {z: _repeated(features.get(z, any_atom), n) for z, n in sorted(shares.items()) if n}
    species = torch.cat([torch.full((len(f),), z) for z, f in chosen.items()])
    return Landmarks(torch.cat(list(chosen.values())), species, torch.arange(len(species)), len(species))


def _repeated(features: Tensor, count: int) -> Tensor:
    return features[torch.arange(count) % len(features)]


def _small(data: FitData, landmarks: int, tangents: bool) -> Iterable[FeatureBatch]:
    """Batches with few enough kernel elements to be timed.

    Args:
        landmarks: their atoms.
    """
    atoms = int(max(256, min(BATCH_ATOMS, _ELEMENTS / landmarks)))
    stores = tuple(replace(store, owned=None, tangents=tangents, max_atoms=atoms) for store in data.stores)
    return replace(data, stores=stores).energies


def _per_direction(moved: FeatureBatch | None, work: Callable[[FeatureBatch], object], device: str = "cpu") -> float:
    if moved is None or moved.directions is None or not len(moved.directions.label):
        return 0.0
    return _time(lambda: work(moved), device) / len(moved.directions.label)


def _statistics(data: FitData) -> float:
    """Seconds per structure of what goes before the rows: hashes checked, moments, draws, folds, baseline."""
    batch = data.first
    assert batch is not None
    transform = _time(lambda: fit_transform((batch,), "scale-per-species"))
    draws = 2 * _time(lambda: draw_pool((batch,), 1000, 0))
    size = sum(run.features.nbytes for run in batch.runs)
    return (transform + draws + size / _HASHED) / batch.n_structures


def _write_rate(folder: Path | None, tensor: Tensor) -> float:
    """Seconds per byte of writing to the scratch folder."""
    if folder is None:
        return 0.0
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            return _time(lambda: file.write(tensor.numpy().data)) / tensor.nbytes
    except OSError:
        return 0.0


def _time(work: Callable[[], object], device: str = "cpu") -> float:
    """The better of two, once it is warm, or one that is long; a GPU works on while the host goes ahead, and is waited
    for."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else _nothing
    work()
    wait()
    best = 0.0
    for _ in range(2):
        start = time.perf_counter()
        work()
        wait()
        took = time.perf_counter() - start
        best = min(best or took, took)
        if took > _LONG:
            break
    return best


def _nothing() -> None:
    """The host has no queue."""

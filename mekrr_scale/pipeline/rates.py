"""How fast this machine makes and handles the rows of a store, measured on its first batch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, Landmarks, SpeciesRun
from mekrr_scale.baselines import Baseline
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import SetKernel
from mekrr_scale.landmarks import Uniform
from mekrr_scale.model import Model
from mekrr_scale.pipeline.data import FitData
from mekrr_scale.pipeline.plan import FitPlan
from mekrr_scale.pipeline.trials import alphas_of, median, set_kernel
from mekrr_scale.pool import Pool, draw_pool
from mekrr_scale.posterior import alone
from mekrr_scale.rows import DerivativeRows, EnergyRows
from mekrr_scale.store.reader import BATCH_ATOMS
from mekrr_scale.transforms import Transform, fit_transform
from mekrr_scale.whitening import eigh, whiten

_ELEMENTS = 3e7  # kernel elements of the batch that is timed
_HASHED = 4e9  # bytes per second of the first pass, which checks hashes (benchmarks: store_reading)


@dataclass(frozen=True)
class Sample:
    """A kernel, landmarks (as many, of the right species) and batches like those of a fit."""

    kernel: SetKernel
    landmarks: Landmarks
    batch: FeatureBatch  # small enough to be timed
    moved: FeatureBatch | None  # the same with tangents
    rank_part: float  # of the landmarks' columns that whitening keeps

    @classmethod
    def of(cls, plan: FitPlan, data: FitData) -> Sample:
        """From the first batch, the same on all ranks.

        Raises:
            ConfigError: there is no structure.
        """
        first = data.first
        if first is None:
            raise ConfigError("the store holds no structure; extract some first")
        transform = fit_transform((first,), plan.standardize[0])
        kernel = set_kernel(
            plan, plan.length_scales[0], alphas_of(plan)[0], median(plan, (first,), transform), transform
        )
        atoms = int(first.n_atoms.sum())
        few = Uniform(min(plan.n_landmarks or atoms, atoms, 1000), plan.seed, plan.balance).select((first,), kernel)
        rank = whiten(kernel.gram_block_makers(few), plan.cut).rank
        return cls(
            kernel=kernel,
            landmarks=_landmarks(plan, data, first, transform),
            batch=_small(plan, data, False),
            moved=_small(plan, data, True) if data.derivatives else None,
            rank_part=rank / kernel.n_columns(few),
        )

    @property
    def blocks(self) -> Sequence[int]:
        """Sizes of the diagonal blocks of K_ZZ."""
        if not self.kernel.separate(self.landmarks):
            return [self.kernel.n_columns(self.landmarks)]
        return [int(n) for n in self.landmarks.species.unique_consecutive(return_counts=True)[1]]


@dataclass(frozen=True)
class Rates:
    """Seconds."""

    statistics: float  # per structure: passes for statistics, landmarks and folds
    kernel: float  # per energy row
    derivative: float  # per derivative row
    flop: float  # of a large matrix product
    thin: float  # per element of a matrix that few vectors are multiplied with
    eigen: float  # per cubed size
    prior: float  # per structure: K(x, x), for uncertainties
    lone_prior: float  # the same of one atom
    derivative_prior: float  # the same along a direction
    copy: float  # per byte
    write: float  # per byte, to the scratch file

    @classmethod
    def measure(cls, plan: FitPlan, data: FitData, sample: Sample, columns: int) -> Rates:
        """Time everything on the sample.

        Args:
            columns: vectors that iterations share.
        """
        kernel, landmarks, batch = sample.kernel, sample.landmarks, sample.batch
        species = data.species
        baseline = Baseline(species, torch.zeros(len(species), dtype=torch.float64), prior=False, fitted=False)
        square = torch.randn(1024, 1024, dtype=torch.float64)
        size = min(max(landmarks.n_sets, 64), 1000)
        gram = square[:size, :size] @ square[:size, :size].T
        tall, few = torch.randn(4096, 1024, dtype=torch.float64), torch.randn(1024, columns, dtype=torch.float64)
        run: SpeciesRun = max(batch.runs, key=lambda run: len(run.features))
        lone = alone(run.features[:32].double(), torch.full((min(32, len(run.features)),), run.z))
        energies = EnergyRows((batch,), kernel, landmarks, baseline)
        looked_at = batch.take(torch.arange(batch.n_structures) < 32)
        known = max(1, int((~batch.energy.isnan()).sum()))
        return cls(
            statistics=_statistics(data),
            kernel=_time(lambda: list(energies)) / known,
            derivative=_per_direction(
                sample.moved, lambda moved: list(DerivativeRows((moved,), kernel, landmarks, baseline))
            ),
            flop=_time(lambda: square @ square) / (2 * 1024**3),
            thin=_time(lambda: tall.T @ (tall @ few)) / tall.numel(),
            eigen=_time(lambda: eigh(gram)) / size**3,
            prior=_time(lambda: kernel.diagonal(looked_at)) / looked_at.n_structures,
            lone_prior=_time(lambda: kernel.diagonal(lone)) / lone.n_structures,
            derivative_prior=_per_direction(sample.moved, kernel.derivative_diagonal),
            copy=_time(tall.clone) / tall.nbytes,
            write=_write_rate(plan.scratch, tall),
        )


def _landmarks(plan: FitPlan, data: FitData, first: FeatureBatch, transform: Transform) -> Landmarks:
    """As many as the fit has of each species; atoms of the first batch, repeated where it has too few."""
    features = {run.z: run.features for run in first.runs if len(run.features)}
    counts = {z: n for z, n in data.stores[0].species.items() if z in features}
    pool = Pool({z: features[z][:1].expand(n, -1) for z, n in counts.items()}, {}, counts)
    most = sum(counts.values())
    fewest = 0 if plan.warm else most
    shares = pool.share(min(plan.n_landmarks or fewest, most), plan.balance)
    if plan.warm is not None:
        for z in filter(transform.knows, Model.load(plan.warm).landmarks.species.tolist()):
            shares[z] = shares.get(z, 0) + 1
    any_atom = next(iter(features.values()))
    chosen = {z: _repeated(features.get(z, any_atom), n) for z, n in sorted(shares.items()) if n}
    species = torch.cat([torch.full((len(f),), z) for z, f in chosen.items()])
    return Landmarks(torch.cat(list(chosen.values())), species, torch.arange(len(species)), len(species))


def _repeated(features: Tensor, count: int) -> Tensor:
    return features[torch.arange(count) % len(features)]


def _small(plan: FitPlan, data: FitData, tangents: bool) -> FeatureBatch:
    """A first batch with few enough kernel elements to be timed."""
    atoms = int(max(256, min(BATCH_ATOMS, _ELEMENTS / max(plan.n_landmarks, 1))))
    stores = (replace(store, owned=None, tangents=tangents, max_atoms=atoms) for store in data.stores)
    return next(batch for store in stores for batch in store)


def _per_direction(moved: FeatureBatch | None, work: Callable[[FeatureBatch], object]) -> float:
    if moved is None or moved.directions is None or not len(moved.directions.label):
        return 0.0
    return _time(lambda: work(moved)) / len(moved.directions.label)


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


def _time(work: Callable[[], object]) -> float:
    """The better of two, once it is warm."""
    work()
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best

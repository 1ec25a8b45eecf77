"""What a fit will take: memory of each rank, what is kept where, passes and time, before it runs.

Bytes follow from the sizes of the arrays that each stage holds at once; seconds from rates that are
measured here and now, on one batch of the store and on small matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mekrr_scale.arrays import DERIVATIVES, ByKind, RowKind, anonymous_bytes
from mekrr_scale.distributed import ALONE, Group, share
from mekrr_scale.errors import ConfigError
from mekrr_scale.pipeline.fitting.calibration import LARGEST_RANK, LOOKED_AT, MOVED_AT
from mekrr_scale.pipeline.fitting.data import FitData, Stores
from mekrr_scale.pipeline.fitting.identity import require_alike
from mekrr_scale.pipeline.fitting.origins import scarce
from mekrr_scale.pipeline.fitting.plan import FitPlan
from mekrr_scale.pipeline.fitting.rates import Sample, measured, rates_of_rows, whole_structures
from mekrr_scale.pipeline.fitting.search import choices
from mekrr_scale.pipeline.fitting.weights import combinations
from mekrr_scale.plans import plan_of
from mekrr_scale.solvers import Estimate, Job, Stage
from mekrr_scale.store import BATCH_ATOMS, BATCH_STRUCTURES, HELD_BYTES

_DOUBLE = 8
_UNTOLD = 3e8  # bytes of a process of which the system tells nothing
_BASIS = 8.0  # operations of a fold's own basis, in cubes of columns: its whitening, and products with it


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
    def comparing(self) -> float:
        """Seconds of ``compare``: of the search alone."""
        return sum(stage.seconds for stage in self.stages if stage.compares)

    @property
    def passes(self) -> float:
        return sum(stage.passes for stage in self.stages)


def resources(stores: Stores, plan: FitPlan | None = None, group: Group = ALONE) -> Resources:
    """What ``fit`` with the same arguments will take on each rank.

    Raises:
        ConfigError, StoreError: as ``fit``, as far as they show before it runs.
    """
    data = FitData.open(stores, plan_of(plan, FitPlan), group=group)
    require_alike(data)
    return estimate(data)


def estimate(data: FitData) -> Resources:
    """What the fit to these data will take on each rank.

    One candidate of each mixing is looked at; their number multiplies passes and seconds. The rank after
    whitening is estimated from a thousand atoms of the first batch.
    """
    jobs = jobs_of(data)
    job = max(jobs, key=lambda one: one.make)
    stages = [Stage("statistics and landmarks", job.work, job.structures * job.rates.statistics, 4 + data.derivatives)]
    if not data.plan.solver.whole_structures:  # one that takes all of them solves for their coefficients as they are
        stages.append(_whitening(jobs, whole_structures(data.plan)))
    found = data.plan.solver.estimate(*jobs)
    tried, columns = sum(one.tried for one in jobs), max(sum(one.blocks) for one in jobs)
    # rows of the candidate that leads are kept beside those of the next one, where both have room
    leading = found.held_bytes if tried > 1 and 2 * found.row_bytes <= job.execution.memory else 0.0
    stages += [replace(stage, bytes=stage.bytes + leading) for stage in found.stages]
    if job.folds and found.stages:
        if data.elastic_follows:
            stages.append(_following(found, tried))
        stages += [replace(stage, compares=False) for stage in _validation(data, job, found)]
    return Resources(
        data.group.size, job.rows, columns, anonymous_bytes() or _UNTOLD, found.kept, found.row_bytes, stages,
        found.seconds_iteration,
    )  # fmt: skip


def jobs_of(data: FitData) -> list[Job]:
    """The fit's sizes with each mixing of species, and this machine's rates."""
    plan = data.plan
    folds = plan.validation.folds
    there = sum(store.n_structures for store in data.stores)
    if folds > there:
        raise ConfigError(f"{folds} folds asked for, but the data hold {there} structures; use fewer folds")
    ridges = plan.solver.ridges
    sample = Sample.of(data)
    energies, directions, structures = largest_share(data)
    kinds = data.source.kinds
    weights = {tuple(w for kind, w in one.items() if kind in kinds) for one in combinations(plan)}
    dim = data.stores[0].header.dim
    first = Job(
        rates=measured(data, sample, len(ridges) * (1 + folds)),
        execution=plan.execution,
        ranks=data.group.size,
        energies=energies,
        directions=directions,
        structures=structures,
        n_species=len(data.species),
        dim=dim,
        blocks=sample.blocks,
        rank_part=sample.rank_part,
        tried=len(list(choices(plan, data))),
        ridges=ridges,
        n_weights=len(weights) if folds else 1,
        n_ratios=len({_ratio(one, kinds) for one in combinations(plan)}) if folds else 1,
        folds=folds,
        work=_work(data, sample, energies, directions, structures),
        block_rows=BATCH_STRUCTURES,
        alpha=sample.alpha,
    )
    jobs = [first]
    for own in (sample.mixed(alpha) for alpha in data.alphas[1:] if alpha is not None):
        rates = replace(first.rates, **rates_of_rows(data, own))
        jobs.append(replace(first, rates=rates, blocks=own.blocks, alpha=own.alpha))
    return jobs


def _ratio(weights: ByKind[float], kinds: frozenset[RowKind]) -> tuple[float, ...]:
    """Of the weights of derivatives to the largest of them."""
    own = [weight for kind, weight in weights.items() if kind in kinds & DERIVATIVES]
    largest = max(own, default=0.0)
    return tuple(weight / largest if largest else 0.0 for weight in own)


def _work(data: FitData, sample: Sample, energies: int, directions: int, structures: int) -> float:
    """Bytes of landmarks, and of the block of rows at hand with what is made of it."""
    dim, columns = data.stores[0].header.dim, sum(sample.blocks)
    landmarks = 3.0 * len(sample.landmarks.features) * (dim + 2) * _DOUBLE
    arrays = min(HELD_BYTES, structures * _DOUBLE * (8.0 + len(data.species)))
    stored = [place.rows for store in data.stores for info in store.shards for place in info.big.values()]
    tangents = 4.0 * min(BATCH_ATOMS, sum(stored)) * dim * _DOUBLE if directions else 0.0
    return landmarks + arrays + tangents + 6.0 * min(BATCH_STRUCTURES, max(energies, 1)) * columns * _DOUBLE


def _whitening(jobs: Sequence[Job], structures: bool) -> Stage:
    """Of K_ZZ, whose making is counted where its sets are as large as the structures."""
    seconds = 0.0
    for job in jobs:
        gram = job.blocks[0] * job.rates.kernel if structures else 0.0
        seconds += job.tried * (job.rates.eigen * sum(float(m) ** 3 for m in job.own_blocks) + gram)
    most = max(jobs, key=lambda job: job.whitening)
    return Stage(
        "whitening of K_ZZ",
        most.whitening + 4.0 * max(most.blocks) ** 2 * _DOUBLE,
        seconds,
        note=f"{len(most.blocks)} block{'s' * (len(most.blocks) > 1)} of at most {max(most.blocks)}",
    )


def _following(found: Estimate, tried: int) -> Stage:
    """The candidate that was chosen once more, at most."""
    largest, seconds = max(stage.bytes for stage in found.stages), sum(stage.seconds for stage in found.stages)
    return Stage("weight of the bulk modulus", largest, seconds / tried, 1)


def _validation(data: FitData, job: Job, found: Estimate) -> list[Stage]:
    stages = [Stage("held-out energies", job.work + found.held_bytes, job.energies * job.rates.kernel, 1)]
    if data.plan.validation.uncertainty and data.plan.solver.takes.posterior and job.columns <= LARGEST_RANK:
        update = job.rows * 2.0 * job.columns**2 * job.rates.flop
        factors = 4 * job.rates.eigen * float(job.columns) ** 3
        atoms = sum(store.n_atoms for store in data.stores)
        looked_at, alone, moved = (n / job.ranks for n in (LOOKED_AT, min(LOOKED_AT, atoms), MOVED_AT))
        factors += min(job.energies, looked_at) * job.rates.prior + alone * job.rates.lone_prior
        factors += min(job.directions, moved) * job.rates.derivative_prior
        held = job.whitening + found.held_bytes + (2.0 * job.folds + 4) * job.square + job.work
        if not whole_structures(data.plan) and scarce(atoms, data.plan.landmarks.count):
            factors += job.folds * _BASIS * float(job.columns) ** 3 * job.rates.flop
            held += (2 * job.folds + 3) * job.square
        stages.append(Stage("uncertainty", held, 2 * job.make + job.whiten + update + factors, 2))
        deviations = update + job.whiten + job.energies * job.rates.prior + job.directions * job.rates.derivative_prior
        stages.append(Stage("outliers", job.work + found.held_bytes + 2 * job.square, job.make + deviations, 1))
    else:
        stages.append(Stage("outliers", job.work + found.held_bytes, job.make, 1))
    return stages


def largest_share(data: FitData) -> tuple[int, int, int]:
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

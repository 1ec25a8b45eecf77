"""Structures to a feature store: streamed, resumable, in parts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xxhash
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.arrays import RowKind
from mekrr_scale.backbones import Backbone, BackboneSpec, Directions, load_backbone, tangents
from mekrr_scale.errors import ConfigError, MekrrError, StructureError
from mekrr_scale.model import identity_of
from mekrr_scale.pipeline.labels import compared, slopes
from mekrr_scale.pipeline.rejects import Rejects
from mekrr_scale.pipeline.source import Source
from mekrr_scale.potential import load_prior
from mekrr_scale.priors import BackboneEnergies, Prediction, Predictor, PriorSpec
from mekrr_scale.progress import Progress, Silent
from mekrr_scale.store import FeatureStore, RecordTangents, ShardWriter, StoreHeader, StructureRecord, finalize
from mekrr_scale.structures import (
    LabelKeys,
    Labels,
    Reject,
    check_structure,
    read_labels,
    structure_hash,
)

_REASONS = 1000
_STRAINS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # Voigt order


@dataclass(frozen=True)
class ExtractPlan:
    """How structures become features.

    Args:
        derivatives: tangents along ``all`` 3n displacements, along that many random orthonormal
            directions per structure, or ``none``.
        strain: tangents along the six strains too, where a stress is known.
        tangent_dtype: ``same`` as the features, or ``float16`` with a scale for each row: half the
            store, no measurable loss.
        part: (i, n): do the i-th of n parts (from 1); parts may run side by side.
        shard_bytes: features per shard; also what a kill can lose.
        prior: whose energies and forces are kept beside the labels, for a fit that corrects them;
            default: the backbone's own.

    Raises:
        ConfigError: an option outside its range.
    """

    backbone: BackboneSpec = field(default_factory=BackboneSpec)
    keys: LabelKeys = field(default_factory=LabelKeys)
    derivatives: int | Literal["all", "none"] = "none"
    strain: bool = False
    part: tuple[int, int] = (1, 1)
    shard_bytes: int = 32 * 1024**2
    dtype: Literal["float32", "float64"] = "float32"
    tangent_dtype: Literal["same", "float16"] = "same"
    device: str = "cpu"
    batch_atoms: int = 256
    group_key: str | None = None
    need_energy: bool = True
    format: str | None = None
    seed: int = 0
    prior: PriorSpec | None = None

    def __post_init__(self) -> None:
        index, count = self.part
        if not 1 <= index <= count:
            raise ConfigError(f"part {index}/{count}: parts are counted from 1, e.g. --part 1/{max(count, 1)}")
        if isinstance(self.derivatives, int) and self.derivatives < 1:
            raise ConfigError(
                f"{self.derivatives} directions per structure asked for; give a positive number, all or none"
            )
        if self.shard_bytes < 1 or self.batch_atoms < 1:
            raise ConfigError("shard size and batch size must be positive")

    @property
    def moves(self) -> bool:
        return self.derivatives != "none" or self.strain


@dataclass
class ExtractReport:
    """What an extraction did."""

    written: int = 0  # structures whose features were computed now
    resumed: int = 0  # structures found in shards that were there already
    other_parts: int = 0
    n_rejected: int = 0
    rejected: Counter[str] = field(default_factory=Counter)  # by reason; the first thousand different ones
    warnings: list[str] = field(default_factory=list)
    store: FeatureStore | None = None  # None while other parts are missing


@dataclass(frozen=True)
class _Accepted:
    atoms: Atoms
    labels: Labels
    id: int
    index: int


def extract(
    structures: Sequence[Path | str | Atoms] | Path | str,
    folder: Path | str,
    plan: ExtractPlan | None = None,
    backbone: Backbone | None = None,
    progress: Progress | None = None,
) -> ExtractReport:
    """Compute features of structures and write them into a store.

    Structures that cannot be used are listed in ``rejects*.jsonl`` with the reason and do not
    stop the rest. What is already there is not computed again. With several parts, run
    ``finalize`` when all are done.

    Args:
        structures: files, or structures in memory.
        backbone: an instance to use instead of loading the plan's.

    Raises:
        StructureError: a file that cannot be read, or no structure that can be used.
        BackboneError: the backbone cannot be loaded.
        StoreError: the folder holds other features, or cannot be written.
    """
    plan = plan or ExtractPlan()
    progress = progress or Silent()
    source = Source.of(structures, plan.format)
    backbone = backbone or load_backbone(plan.backbone)
    backbone.to(plan.device, torch.float64 if plan.dtype == "float64" else torch.float32)
    prior = None if plan.prior is None else plan.prior.pinned()
    told = {} if prior is None else prior.to_dict()
    header = StoreHeader(identity_of(backbone), backbone.dim, plan.dtype, _directions(plan), _spec(plan), told)
    predictor = None if prior is None else load_prior(prior, backbone.dtype, plan.device)
    writer = ShardWriter(folder, header)
    progress.stage("extract", source.count())
    report = ExtractReport()
    with Rejects(Path(folder), plan.part) as rejects:
        accepted = _accepted(source, plan, backbone, rejects, report, progress)
        for number, chunk in enumerate(_chunks(accepted, plan, backbone)):
            if number % plan.part[1] != plan.part[0] - 1:
                report.other_parts += len(chunk)
                progress.advance(len(chunk))
                continue
            if number < plan.part[1]:
                report.warnings += _unit_warnings(chunk, backbone)
                if predictor is not None:
                    report.warnings += compared([(item.atoms, item.labels) for item in chunk], predictor)
            key = _chunk_key(chunk, plan)
            if writer.published(key):
                report.resumed += len(chunk)
                progress.advance(len(chunk))
                continue
            records = list(_records(chunk, plan, backbone, predictor, progress))
            writer.write(records, source.origin, key, chunk[0].index, chunk[-1].index + 1)
            report.written += len(chunk)
    if not report.written + report.resumed + report.other_parts:
        reasons = "; ".join(f"{n} x {reason}" for reason, n in report.rejected.most_common(3))
        raise StructureError(f"no structure could be used: {reasons}")
    if plan.part[1] == 1:
        report.store = finalize(folder)
    return report


def _accepted(
    source: Source,
    plan: ExtractPlan,
    backbone: Backbone,
    rejects: Rejects,
    report: ExtractReport,
    progress: Progress,
) -> Iterator[_Accepted]:
    """Structures with usable labels; the others go to the rejects."""
    for index, atoms in enumerate(source):
        try:
            labels = read_labels(atoms, plan.keys)
            check_structure(atoms, labels, plan.need_energy)
            backbone.check_species(atoms.numbers.tolist())
        except MekrrError as error:
            rejects.add(Reject(source.name, index, str(error)))
            if len(report.rejected) < _REASONS or str(error) in report.rejected:
                report.rejected[str(error)] += 1
            report.n_rejected += 1
            progress.advance()
            continue
        yield _Accepted(atoms, labels, structure_hash(atoms, labels), index)


def _chunks(accepted: Iterator[_Accepted], plan: ExtractPlan, backbone: Backbone) -> Iterator[list[_Accepted]]:
    """Structures for one shard each; the cuts depend on the input and the plan alone."""
    chunk: list[_Accepted] = []
    size = 0
    for item in accepted:
        chunk.append(item)
        width = backbone.dim * (8 if plan.dtype == "float64" else 4)
        size += len(item.atoms) * width * (1 + _n_directions(item, plan))
        if size >= plan.shard_bytes:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _records(
    chunk: Sequence[_Accepted],
    plan: ExtractPlan,
    backbone: Backbone,
    predictor: Predictor | None,
    progress: Progress,
) -> Iterator[StructureRecord]:
    start = 0
    while start < len(chunk):
        stop, atoms = start + 1, len(chunk[start].atoms)
        while stop < len(chunk) and atoms + len(chunk[stop].atoms) <= plan.batch_atoms:
            atoms += len(chunk[stop].atoms)
            stop += 1
        batch = chunk[start:stop]
        graph = backbone.graph([item.atoms for item in batch])
        with torch.no_grad():
            output = backbone.forward(graph, graph.positions, energies=predictor is None)
        features = output.features.cpu().numpy()
        ends = np.cumsum([len(item.atoms) for item in batch])
        own = output.energy(graph).cpu().double().tolist() if output.energies is not None else [math.nan] * len(batch)
        for item, end, energy in zip(batch, ends.tolist(), own, strict=True):
            part = features[end - len(item.atoms) : end]
            if predictor is not None:
                strained = plan.strain and item.labels.stress is not None
                found = predictor.predict(item.atoms, forces=_n_directions(item, plan) > 0, stress=strained)
                yield _record(item, part, float(found.energy[0]), plan, backbone, found)
            else:
                yield _record(item, part, energy, plan, backbone)
            progress.advance()
        start = stop


def _record(
    item: _Accepted,
    features: ndarray,
    prior: float,
    plan: ExtractPlan,
    backbone: Backbone,
    found: Prediction | None = None,
) -> StructureRecord:
    group = -1
    if plan.group_key is not None:
        if plan.group_key not in item.atoms.info:
            raise StructureError(f"structure {item.index} has no info key {plan.group_key!r} to group trajectories by")
        group = xxhash.xxh3_64_intdigest(str(item.atoms.info[plan.group_key]).encode()) >> 1
    return StructureRecord(
        numbers=item.atoms.numbers.astype(np.int64),
        features=features,
        id=item.id,
        index=item.index,
        energy=float("nan") if item.labels.energy is None else item.labels.energy,
        prior=prior,
        forces=item.labels.forces,
        stress=item.labels.stress,
        group=group,
        tangents=_tangents(item, plan, backbone, found) if plan.moves else None,
    )


def _tangents(
    item: _Accepted, plan: ExtractPlan, backbone: Backbone, found: Prediction | None
) -> RecordTangents | None:
    """Derivatives of the features along the plan's directions, with labels and those of the prior."""
    moves, strains = _draw(item, plan)
    if not len(moves) + len(strains):
        return None
    n = len(item.atoms)
    directions = Directions.of_displacements(torch.from_numpy(moves)).joined(
        Directions.of_strains(torch.from_numpy(strains), n)
    )
    output = tangents(backbone, backbone.graph(item.atoms), directions, energies=found is None)
    sheet = None if item.labels.stress is None else voigt_6_to_full_3x3_stress(item.labels.stress)
    label = slopes(item.atoms, moves, strains, item.labels.forces, sheet)
    kind = np.repeat([int(RowKind.FORCE), int(RowKind.STRESS)], [len(moves), len(strains)]).astype(np.uint8)
    if found is not None:
        forces = None if found.forces is None else found.forces.numpy()
        stress = None if found.stress is None else found.stress[0].numpy()
        prior = slopes(item.atoms, moves, strains, forces, stress)
    else:
        prior = np.full(len(directions), np.nan) if output.energy is None else output.energy.cpu().double().numpy()
    return RecordTangents(output.features.cpu().numpy(), kind, label, prior)


def _n_directions(item: _Accepted, plan: ExtractPlan) -> int:
    whole = 3 * len(item.atoms)
    moves = 0 if plan.derivatives == "none" else whole if plan.derivatives == "all" else min(plan.derivatives, whole)
    strains = 6 if plan.strain and item.labels.stress is not None else 0
    return (moves if item.labels.forces is not None else 0) + strains


def _draw(
    item: _Accepted, plan: ExtractPlan
) -> tuple[Float64[ndarray, "moves atoms 3"], Float64[ndarray, "strains 3 3"]]:
    """Directions of a structure, from its content and the seed alone."""
    n = len(item.atoms)
    strains = np.zeros((6 if plan.strain and item.labels.stress is not None else 0, 3, 3))
    for k in range(len(strains)):
        i, j = _STRAINS[k]
        strains[k, i, j] += 0.5
        strains[k, j, i] += 0.5
    count = _n_directions(item, plan) - len(strains)
    if count == 3 * n:
        return np.eye(3 * n).reshape(3 * n, n, 3), strains
    generator = np.random.default_rng([plan.seed, item.id])
    q, _ = np.linalg.qr(generator.normal(size=(3 * n, count)))
    return np.ascontiguousarray(q.T).reshape(count, n, 3), strains


def _directions(plan: ExtractPlan) -> dict[str, Any]:
    if not plan.moves:
        return {}
    return {
        "displacements": plan.derivatives,
        "strains": 6 if plan.strain else 0,
        "draw": "orthonormal, numpy default_rng([seed, structure id])",
        "seed": plan.seed,
        **({"dtype": "float16"} if plan.tangent_dtype == "float16" else {}),
    }


def _spec(plan: ExtractPlan) -> dict[str, Any]:
    spec = {key: value for key, value in asdict(plan.backbone).items() if value is not None}
    if "checkpoint" in spec:
        spec["checkpoint"] = str(Path(str(spec["checkpoint"])).resolve())
    return spec


def _unit_warnings(chunk: Sequence[_Accepted], backbone: Backbone) -> list[str]:
    """Compare forces with the pretrained potential's: other units differ by a large factor."""
    labelled = [item for item in chunk if item.labels.forces is not None][:4]
    if not labelled or backbone.name != "chgnet":
        return []
    own = BackboneEnergies(backbone).predict([item.atoms for item in labelled]).forces
    assert own is not None
    given = np.concatenate([item.labels.forces for item in labelled if item.labels.forces is not None])
    ratio = float(np.sqrt((given**2).mean()) / max(float(own.square().mean().sqrt()), 1e-12))
    if 0.1 < ratio < 10 or float(own.abs().max()) < 0.05:
        return []
    return [
        f"forces are {ratio:.3g} times those of {backbone.name}: are they in eV/angstrom? kcal/mol/angstrom would "
        "give about 23, Hartree/bohr 0.02; see --units"
    ]


def _chunk_key(chunk: Sequence[_Accepted], plan: ExtractPlan) -> str:
    """What the header does not say and yet changes a shard."""
    digest = xxhash.xxh3_128(repr(plan.group_key).encode())
    for item in chunk:
        digest.update(item.id.to_bytes(8, "little") + item.index.to_bytes(8, "little"))
    return digest.hexdigest()

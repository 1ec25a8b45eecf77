"""The run of an extraction: chunks in order, each a shard, computed or found."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path

import numpy as np
import torch
import xxhash
from ase.stress import full_3x3_to_voigt_6_stress

from mekrr_scale.arrays import usable_device
from mekrr_scale.backbones import (
    STRESS_TRAINED,
    Backbone,
    BackboneEnergies,
    identity_of,
    load_backbone,
    require_backbone,
    spec_of,
    trusting_code,
    with_compression,
)
from mekrr_scale.errors import MekrrError, StructureError
from mekrr_scale.models import load_prior
from mekrr_scale.pipeline.extraction.axes import axes_of
from mekrr_scale.pipeline.extraction.labels import label_lines, one_energy, survey_of
from mekrr_scale.pipeline.extraction.plan import ExtractPlan
from mekrr_scale.pipeline.extraction.records import Accepted, batches, beside, n_directions, records
from mekrr_scale.pipeline.extraction.report import ExtractReport
from mekrr_scale.pipeline.workers import Workers
from mekrr_scale.plans import plan_of
from mekrr_scale.progress import LOGGER, Progress, shown_progress
from mekrr_scale.store import (
    Origin,
    Origins,
    Part,
    ShardWriter,
    StoreHeader,
    StructureRecord,
    finalize,
    has_rivals,
    header_in,
)
from mekrr_scale.structures import (
    CONFIG_KEY,
    PREDICTED_BY,
    Frames,
    Inputs,
    Kind,
    LabelKeys,
    Predictor,
    Reject,
    Rejects,
    check_stress,
    check_structure,
    compared,
    geometry_hash,
    read_labels,
    read_weights,
    structure_hash,
)

_REASONS = 1000
_STRESSED = 6  # structures whose stress is compared with the network's
_TANGENT_WORK = 3  # a derivative of an atom's features takes about three times as long as the features
_NO_SPEC = (
    "nothing tells how to load the backbone that was given again: models fitted to this store have to be given it, as "
    "in Potential(model, backbone); write it with save_backbone and take what load_backbone reads to avoid this"
)


def extract(
    structures: Frames,
    folder: Path | str,
    plan: ExtractPlan | None = None,
    backbone: Backbone | None = None,
    progress: Progress | None = None,
    trust_code: bool = False,
) -> ExtractReport:
    """Compute features of structures and write them into a store.

    Structures that cannot be used are listed in ``rejects*.jsonl`` with the reason and do not
    stop the rest. What is already there is not computed again. With several parts, run
    ``finalize`` when all are done.

    Args:
        structures: files, or structures in memory.
        backbone: an instance to use instead of loading the plan's. Models fitted to the store load
            it again where ``load_backbone`` made it; of one that was trained or built otherwise the
            report warns, and they have to be given it.
        trust_code: checkpoints that hold code (MACE's) are from where you trust.

    Raises:
        StructureError: a file that cannot be read, or no structure that can be used.
        BackboneError: the backbone cannot be loaded.
        StoreError: the folder holds other features, or cannot be written.
        ConfigError: a device that torch cannot use here.
    """
    with shown_progress(progress) as shown, trusting_code(trust_code):
        return _extracted(structures, Path(folder), plan_of(plan, ExtractPlan), backbone, shown)


def _extracted(
    structures: Frames,
    folder: Path,
    plan: ExtractPlan,
    backbone: Backbone | None,
    progress: Progress,
) -> ExtractReport:
    usable_device(plan.device)
    if backbone is not None:
        require_backbone(backbone)
    source = Inputs.of(structures, plan.format)
    progress.stage("look at labels", source.count())
    survey = survey_of(source, plan, progress)
    plan = replace(plan, keys=survey.settled).settled(header_in(folder))
    for line in label_lines(survey, plan):
        progress.note(line)
    backbone = backbone or load_backbone(plan.backbone)
    backbone.to(plan.device, torch.float64 if plan.dtype == "float64" else torch.float32)
    prior = None if plan.prior is None else plan.prior.pinned()
    of_prior = {} if prior is None else prior.to_dict()
    spec = spec_of(backbone)
    usable = (item for item in _usable(source, plan, backbone) if isinstance(item, Accepted))
    axes = axes_of(folder, plan, backbone, usable, progress)
    backbone = with_compression(backbone, axes)
    said = {} if axes is None else axes.document
    electrons = survey.electrons.document(backbone.takes, plan.ignore_charge)
    header = StoreHeader(
        identity_of(backbone), backbone.dim, plan.dtype, plan.directions(), spec, of_prior, said, electrons
    )
    report = ExtractReport(warnings=survey.remarks())
    predictor = None if prior is None else load_prior(prior, backbone.dtype, plan.device)
    if not header.spec:
        report.warnings.append(_NO_SPEC)
    LOGGER.debug(
        "backbone %s %s, layer %s: %d features on %s",
        backbone.name, backbone.version, backbone.layer, backbone.dim, backbone.device,
    )  # fmt: skip
    writer, part = ShardWriter(folder, header), _part(source, plan)
    one_energy(folder, survey)
    rivals = has_rivals(folder, part)
    part.publish(folder, header)
    work = _Work(plan, backbone, predictor, source, writer, part, rivals, progress, report)
    progress.stage("extract", survey.frames)
    make = partial(records, plan=plan, backbone=backbone, predictor=predictor)
    with (
        Rejects(folder, plan.part) as rejects,
        Workers(make, plan.processes(survey.frames)) as workers,
    ):
        chunks = _chunks(work.accepted(rejects), plan, backbone)
        lacking = (
            batches(chunk, plan) for number, chunk in enumerate(chunks) if not work.there(number, chunk, rejects)
        )
        for parts, made in workers.of(lacking):
            work.write(list(chain.from_iterable(parts)), made)
    own = report.written + report.resumed
    replace(part, done=True, structures=own + report.other_parts, own=own).publish(folder, header)
    if not report.written + report.resumed + report.other_parts:
        reasons = "; ".join(f"{n} x {reason}" for reason, n in report.rejected.most_common(3))
        raise StructureError(f"no structure could be used: {reasons}")
    if plan.part[1] == 1:
        report.store = finalize(folder, plan.policy, allow_incomplete=True)  # others may still write there
        report.warnings += report.store.remarks
        part.path(folder).unlink(missing_ok=True)  # of an extraction in one piece, the manifest says that it is done
    return report


def _part(source: Inputs, plan: ExtractPlan) -> Part:
    """What this run is a part of: the same for all parts of what is extracted in one way."""
    way: tuple[object, ...] = (plan.keys, plan.group_key, plan.need_energy, plan.format)
    if plan.config_key != CONFIG_KEY:  # which was not asked for before: versions stay what they were
        way = (*way, plan.config_key)
    version = xxhash.xxh3_128_hexdigest(f"{source.fingerprint} {way!r}".encode())
    return Part(*plan.part, version, source.sources, time.time_ns(), on_duplicate=plan.on_duplicate)


@dataclass(frozen=True)
class _Work:
    """An extraction that runs, and what it has done."""

    plan: ExtractPlan
    backbone: Backbone
    prior: Predictor | None
    source: Inputs
    writer: ShardWriter
    part: Part
    rivals: bool  # shards of another version lie in the folder: which is newer has to be told
    progress: Progress
    report: ExtractReport

    def accepted(self, rejects: Rejects) -> Iterator[Accepted]:
        """Structures with usable labels; the others go to the rejects."""
        for item in _usable(self.source, self.plan, self.backbone, self.part):
            if isinstance(item, Accepted):
                yield item
            else:
                rejects.add(item)
                self._count_reject(item.reason)

    def _count_reject(self, reason: str) -> None:
        if len(self.report.rejected) < _REASONS or reason in self.report.rejected:
            self.report.rejected[reason] += 1
        self.report.n_rejected += 1
        self.progress.advance()

    def there(self, number: int, chunk: Sequence[Accepted], rejects: Rejects) -> bool:
        """Whether another part makes the shard of a chunk, or it is there already."""
        rejects.touch()
        index, count = self.plan.part
        if number % count != index - 1:
            self.report.other_parts += len(chunk)
            self.progress.advance(len(chunk))
            return True
        if number < count:
            self._check_units(chunk)
        start, stop = chunk[0].index, chunk[-1].index + 1
        key = _chunk_key(chunk, self.plan)
        if not self.writer.adopt(key, self.source.origin, start, stop, _origins(chunk), self.rivals):
            return False
        LOGGER.debug("shard of structures %d to %d: there already", start, stop)
        self.report.resumed += len(chunk)
        self.progress.advance(len(chunk))
        return True

    def write(self, chunk: Sequence[Accepted], made: Iterator[Sequence[StructureRecord]]) -> None:
        """Write the shard of a chunk."""
        found: list[StructureRecord] = []
        for part in made:
            found += part
            self.progress.advance(len(part))
        start, stop = chunk[0].index, chunk[-1].index + 1
        self.writer.write(found, self.source.origin, _chunk_key(chunk, self.plan), start, stop)
        LOGGER.debug("shard of structures %d to %d: written", start, stop)
        self.report.written += len(chunk)

    def _check_units(self, chunk: Sequence[Accepted]) -> None:
        """Compare the labels of a part's first chunk with what is known of them."""
        self.report.warnings += [*_unit_warnings(chunk, self.backbone), *_prediction_warnings(chunk, self.plan.keys)]
        if self.prior is not None:
            self.report.warnings += compared([(item.atoms, item.labels) for item in chunk], self.prior)


def _usable(
    source: Inputs, plan: ExtractPlan, backbone: Backbone, part: Part | None = None
) -> Iterator[Accepted | Reject]:
    """Structures with usable labels, and why the others are not."""
    needed: dict[Kind, bool] = {"energy": plan.need_energy, "forces": True, "stress": plan.strain}
    wanted = [kind for kind, there in needed.items() if there]  # labels that must be usable where they are there
    first, file = 0, ""
    for index, (name, atoms) in enumerate(source.named()):
        first, file = (first if name == file else index), name
        try:
            labels = read_labels(atoms, plan.keys, wanted)
            weights = read_weights(atoms, plan.config_key)
            check_structure(atoms, labels, plan.need_energy)
            backbone.check_species(atoms.numbers.tolist())
        except MekrrError as error:
            yield Reject(source.name, index, str(error))
            continue
        origin = Origin() if part is None else Origin(name, part.version, part.time, first)
        yield Accepted(atoms, labels, structure_hash(atoms, labels), index, origin, weights)


def _chunks(accepted: Iterator[Accepted], plan: ExtractPlan, backbone: Backbone) -> Iterator[list[Accepted]]:
    """Structures for one shard each; the cuts depend on the input and the plan alone."""
    chunk: list[Accepted] = []
    size, work = 0, 0
    for item in accepted:
        chunk.append(item)
        directions = n_directions(item, plan)
        size += len(item.atoms) * backbone.dim * plan.feature_bytes * (1 + directions)
        work += len(item.atoms) * (1 + _TANGENT_WORK * directions)
        if size >= plan.shard_bytes or 0 < plan.shard_work <= work:
            yield chunk
            chunk, size, work = [], 0, 0
    if chunk:
        yield chunk


def _origins(chunk: Sequence[Accepted]) -> Origins:
    """Where the structures of a chunk are from, now."""
    runs = tuple((origin, len(list(items))) for origin, items in groupby(chunk, key=lambda item: item.origin))
    return Origins(np.array([geometry_hash(item.atoms) for item in chunk], dtype=np.uint64), runs)


def _prediction_warnings(chunk: Sequence[Accepted], keys: LabelKeys) -> list[str]:
    """Say that labels are what a model said: a fit to them would learn from itself."""
    own = keys.energy in (None, "energy")  # and not the reference's, under a name of its own
    made = sum(own and PREDICTED_BY in item.atoms.info and item.labels.energy is not None for item in chunk)
    if not made:
        return []
    return [
        f"{made} of the first {len(chunk)} structures carry what a model predicted ({PREDICTED_BY}), and it is taken "
        "for labels: compute them by the reference method (mekrr-scale label), unless a student is to learn from it"
    ]


def _unit_warnings(chunk: Sequence[Accepted], backbone: Backbone) -> list[str]:
    """Compare forces and stress with the pretrained potential's: other units differ by a large factor."""
    if not backbone.has_energy:
        return []
    own = BackboneEnergies(backbone)
    return [*_force_warnings(chunk, backbone, own), *_stress_warnings(chunk, backbone, own)]


def _force_warnings(chunk: Sequence[Accepted], backbone: Backbone, own: BackboneEnergies) -> list[str]:
    labelled = [item for item in chunk if item.labels.forces is not None][:4]
    if not labelled or backbone.name != "chgnet":
        return []
    found = own.predict([item.atoms for item in labelled]).forces
    assert found is not None
    given = np.concatenate([item.labels.forces for item in labelled if item.labels.forces is not None])
    ratio = float(np.sqrt((given**2).mean()) / max(float(found.square().mean().sqrt()), 1e-12))
    if 0.1 < ratio < 10 or float(found.abs().max()) < 0.05:
        return []
    return [
        f"forces are {ratio:.3g} times those of {backbone.name}: are they in eV/angstrom? kcal/mol/angstrom would "
        "give about 23, Hartree/bohr 0.02; see --units"
    ]


def _stress_warnings(chunk: Sequence[Accepted], backbone: Backbone, own: BackboneEnergies) -> list[str]:
    stressed = [item for item in chunk if item.labels.stress is not None]
    few = stressed[:: max(1, len(stressed) // _STRESSED)][:_STRESSED]
    if not few or backbone.name not in STRESS_TRAINED:
        return []
    found = own.predict([item.atoms for item in few], forces=False, stress=True).stress
    assert found is not None
    given = np.stack([item.labels.stress for item in few if item.labels.stress is not None])
    voigt = np.stack([full_3x3_to_voigt_6_stress(tensor) for tensor in found.numpy()])
    warning = check_stress(torch.from_numpy(given), torch.from_numpy(voigt), backbone.name)
    return [] if warning is None else [warning]


def _chunk_key(chunk: Sequence[Accepted], plan: ExtractPlan) -> str:
    """What the header does not say and yet changes a shard."""
    digest = xxhash.xxh3_128(repr(plan.group_key).encode())
    for item in chunk:
        digest.update(item.id.to_bytes(8, "little") + item.index.to_bytes(8, "little"))
        if not item.weights.plain or item.weights.config:
            digest.update(repr(item.weights).encode())
            digest.update(b"" if item.weights.atoms is None else item.weights.atoms.tobytes())
        digest.update(beside(item, plan))
    return digest.hexdigest()

"""The axes of a compressed store, from a sample of the structures before the first of them is extracted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from mekrr_scale.arrays import Compression, Moments
from mekrr_scale.backbones import Backbone
from mekrr_scale.pipeline.extraction.plan import ExtractPlan
from mekrr_scale.pipeline.extraction.records import Accepted, batches, records
from mekrr_scale.pipeline.workers import Workers
from mekrr_scale.progress import Progress
from mekrr_scale.store import Reduction, StructureRecord, axes_asked_for, publish_axes

_SAMPLE = 32  # structures
_EACH = 4  # with a given element, at least
_DIRECTIONS = 8  # of a sampled structure, at most


def axes_of(
    folder: Path, plan: ExtractPlan, backbone: Backbone, accepted: Iterator[Accepted], progress: Progress
) -> Compression | None:
    """The axes that a store has, or gets now; None where its features are not compressed.

    The sample follows from the input and the plan alone. Parts that begin together all work it out; the one that is
    first decides, and the others take what lies there.

    Args:
        accepted: structures that can be used; not looked at where the store has its axes already.

    Raises:
        StoreError: the store has others, or the file cannot be written.
        ConfigError: as many coordinates as the features cannot be compressed to.
    """
    wanted = plan.reduction
    if wanted is None:
        return None
    wanted.check(backbone.dim)
    asked = wanted.asked()
    found = axes_asked_for(folder, asked)
    if found is None:
        made = _made(wanted, plan, backbone, accepted, progress)
        found = None if made is None else publish_axes(folder, made, asked)
    return found


def _made(
    wanted: Reduction, plan: ExtractPlan, backbone: Backbone, accepted: Iterator[Accepted], progress: Progress
) -> Compression | None:
    if wanted.like is not None:
        return wanted.axes(None)
    moments = Moments()
    sample = drawn(accepted)
    if not sample:  # the extraction will say why
        return None
    few = plan if isinstance(plan.derivatives, int) and plan.derivatives <= _DIRECTIONS else _fewer(plan)
    progress.stage("find axes", len(sample))
    make = partial(records, plan=few, backbone=backbone, predictor=None)
    with Workers(make, few.processes(len(sample))) as workers:
        for _, made in workers.of([batches(sample, few)]):
            for record in chain.from_iterable(made):
                _add(moments, record)
                progress.advance()
    found = wanted.axes(moments)
    lost = moments.left_out(found)
    worst = np.nanmax([part for parts in lost.values() for part in parts] or [np.nan])
    progress.note(
        f"{found.dim} of {found.full} numbers for a feature ({wanted.basis} axes of {len(sample)} structures): at most "
        f"{worst:.1e} of the variance of an element's features, or of its tangents' square, is left out"
    )
    return found


def _fewer(plan: ExtractPlan) -> ExtractPlan:
    return plan if plan.derivatives == "none" else replace(plan, derivatives=_DIRECTIONS)


def _add(moments: Moments, record: StructureRecord) -> None:
    for z in np.unique(record.numbers).tolist():
        here = record.numbers == z
        moved = None
        if record.tangents is not None:
            moved = torch.from_numpy(np.ascontiguousarray(record.tangents.features[:, here])).flatten(0, 1)
        moments.add(z, torch.from_numpy(record.features[here]), moved)


@dataclass(frozen=True)
class _Place:
    """One of the sample: structures are known by hashes, which are as good as random."""

    id: int
    item: Accepted


def drawn(accepted: Iterator[Accepted]) -> Sequence[Accepted]:
    """The structures of the lowest hashes, overall and with each element; single atoms only where all are."""
    overall: list[_Place] = []
    each: dict[int, list[_Place]] = {}
    lone: list[_Place] = []
    for item in accepted:
        place = _Place(item.id, item)
        if len(item.atoms) == 1:
            _keep(lone, place, _SAMPLE)
            continue
        _keep(overall, place, _SAMPLE)
        for z in _elements(item.atoms):
            _keep(each.setdefault(z, []), place, _EACH)
    if not overall:
        overall = lone
    found = {place.id: place.item for places in (overall, *each.values()) for place in places}
    return [found[id] for id in sorted(found)]


def _elements(atoms: Atoms) -> list[int]:
    return sorted({int(z) for z in atoms.numbers})


def _keep(places: list[_Place], place: _Place, count: int) -> None:
    """Insert it, unless there are enough lower ones, or it is there already."""
    if any(other.id == place.id for other in places):
        return
    places.append(place)
    places.sort(key=lambda other: other.id)
    del places[count:]

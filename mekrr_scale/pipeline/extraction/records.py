"""Structures to records of a store: features, labels and tangents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import xxhash
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.arrays import ISOLATED, RowKind
from mekrr_scale.backbones import Backbone, Directions, TangentOutput, evaluating, tangents_of_each
from mekrr_scale.errors import MekrrError
from mekrr_scale.pipeline.extraction.plan import ExtractPlan
from mekrr_scale.store import Origin, RecordTangents, StructureRecord
from mekrr_scale.structures import (
    FrameWeights,
    LabelKeys,
    Labels,
    Prediction,
    Predictor,
    in_batches,
    read_labels,
    slopes,
    structure_hash,
)

_STRAINS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # Voigt order


@dataclass(frozen=True)
class Accepted:
    """A structure with usable labels."""

    atoms: Atoms
    labels: Labels
    id: int
    index: int
    origin: Origin
    weights: FrameWeights = field(default_factory=FrameWeights)


def records(
    batch: Sequence[Accepted], plan: ExtractPlan, backbone: Backbone, predictor: Predictor | None
) -> list[StructureRecord]:
    """Of structures that the backbone sees at once.

    Args:
        predictor: the prior; None for the backbone's own energies.
    """
    graph = backbone.graph([item.atoms for item in batch])
    with evaluating(False):
        output = backbone.forward(graph, graph.positions, energies=predictor is None)
    features = output.features.cpu().numpy()
    ends = np.cumsum([len(item.atoms) for item in batch])
    lone = ((graph.n_atoms == 1) & (torch.bincount(graph.edge_owner, minlength=len(batch)) == 0)).tolist()
    own = output.energy(graph).cpu().double().tolist() if output.energies is not None else [math.nan] * len(batch)
    priors = [None if predictor is None else _prior(item, plan, predictor) for item in batch]
    moved = _tangents(batch, plan, backbone, priors)
    made = []
    for k, (item, end) in enumerate(zip(batch, ends.tolist(), strict=True)):
        part, found = features[end - len(item.atoms) : end], priors[k]
        energy = own[k] if found is None else float(found.energy[0])
        group = _group(item, plan, lone[k])
        made.append(
            StructureRecord.of(
                item.atoms, item.labels, part, item.id, item.index, energy, group, moved[k], item.origin, item.weights
            )
        )
    return made


def batches(chunk: Sequence[Accepted], plan: ExtractPlan) -> list[list[Accepted]]:
    """Structures for the backbone to see at once."""
    return list(in_batches(chunk, plan.atoms_at_once, lambda item: len(item.atoms)))


def _prior(item: Accepted, plan: ExtractPlan, predictor: Predictor) -> Prediction:
    strained = plan.strain and item.labels.stress is not None
    try:
        return predictor.predict(item.atoms, forces=n_directions(item, plan) > 0, stress=strained)
    except MekrrError as error:
        raise type(error)(f"structure {item.index}, the prior: {error}") from error


def beside(item: Accepted, plan: ExtractPlan) -> bytes:
    """What of a record neither the structure's id nor its weights tell: its trajectory, and its prior's labels."""
    group = _group(item, plan, isolated=False)
    found = b"" if group == -1 else b"group" + group.to_bytes(8, "little")
    if plan.prior is not None and plan.prior.kind == "labels":
        try:
            labels = read_labels(item.atoms, plan.prior.keys or LabelKeys())
        except MekrrError:  # which is told when the record is made
            return found + b"prior"
        found += b"prior" + structure_hash(item.atoms, labels).to_bytes(8, "little")
    return found


def _group(item: Accepted, plan: ExtractPlan, isolated: bool) -> int:
    if isolated:
        return ISOLATED
    if plan.group_key is not None and plan.group_key in item.atoms.info:
        return xxhash.xxh3_64_intdigest(str(item.atoms.info[plan.group_key]).encode()) >> 1
    return -1


def _tangents(
    batch: Sequence[Accepted], plan: ExtractPlan, backbone: Backbone, priors: Sequence[Prediction | None]
) -> list[RecordTangents | None]:
    """Derivatives of the features along the plan's directions, with labels and those of the prior.

    Structures that have as many directions are pushed together.
    """
    found: list[RecordTangents | None] = [None] * len(batch)
    if not plan.moves:
        return found
    alike: dict[int, list[int]] = {}
    for k, item in enumerate(batch):
        alike.setdefault(n_directions(item, plan), []).append(k)
    for count, chosen in alike.items():
        if not count:
            continue
        drawn = [_draw(batch[k], plan) for k in chosen]
        directions = [
            Directions.of_displacements(torch.from_numpy(moves)).joined(
                Directions.of_strains(torch.from_numpy(strains), moves.shape[1])
            )
            for moves, strains in drawn
        ]
        graph = backbone.graph([batch[k].atoms for k in chosen])
        outputs = tangents_of_each(backbone, graph, directions, energies=priors[chosen[0]] is None)
        for k, (moves, strains), output in zip(chosen, drawn, outputs, strict=True):
            found[k] = _labelled(batch[k], moves, strains, output, priors[k])
    return found


def _labelled(
    item: Accepted,
    moves: Float64[ndarray, "moves atoms 3"],
    strains: Float64[ndarray, "strains 3 3"],
    output: TangentOutput,
    found: Prediction | None,
) -> RecordTangents:
    stress = None if item.labels.stress is None else voigt_6_to_full_3x3_stress(item.labels.stress)
    label = slopes(item.atoms, moves, strains, item.labels.forces, stress)
    kind = np.repeat([int(RowKind.FORCE), int(RowKind.STRESS)], [len(moves), len(strains)]).astype(np.uint8)
    if found is not None:
        forces = None if found.forces is None else found.forces.numpy()
        prior = slopes(item.atoms, moves, strains, forces, None if found.stress is None else found.stress[0].numpy())
    else:
        prior = np.full(len(kind), np.nan) if output.energy is None else output.energy.cpu().double().numpy()
    return RecordTangents(output.features.cpu().numpy(), kind, label, prior)


def n_directions(item: Accepted, plan: ExtractPlan) -> int:
    """Tangents of a structure."""
    whole = 3 * item.weights.free(len(item.atoms))
    moves = 0 if plan.derivatives == "none" else whole if plan.derivatives == "all" else min(plan.derivatives, whole)
    strains = 6 if plan.strain and item.labels.stress is not None else 0
    return (moves if item.labels.forces is not None else 0) + strains


def _draw(
    item: Accepted, plan: ExtractPlan
) -> tuple[Float64[ndarray, "moves atoms 3"], Float64[ndarray, "strains 3 3"]]:
    """Directions of a structure, from its content and the seed alone.

    Atoms whose forces count otherwise than by 1 move by the root of their weight, so that squared errors along the
    directions are weighed; those of weight 0 stay.
    """
    n = len(item.atoms)
    weights = np.ones(n) if item.weights.atoms is None else item.weights.atoms
    free = np.flatnonzero(weights > 0)
    strains = np.zeros((6 if plan.strain and item.labels.stress is not None else 0, 3, 3))
    for k in range(len(strains)):
        i, j = _STRAINS[k]
        strains[k, i, j] += 0.5
        strains[k, j, i] += 0.5
    count = n_directions(item, plan) - len(strains)
    if count == 3 * len(free):
        drawn = np.eye(count)
    else:
        generator = np.random.default_rng([plan.seed, item.id])
        drawn = np.linalg.qr(generator.normal(size=(3 * len(free), count)))[0].T
    moves = np.zeros((count, n, 3))
    moves[:, free] = drawn.reshape(count, len(free), 3) * np.sqrt(weights[free])[:, None]
    return moves, strains

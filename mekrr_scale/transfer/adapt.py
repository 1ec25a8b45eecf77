"""From a network and labelled structures to a backbone that is ready to learn, and the training of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from ase.data import chemical_symbols
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.backbones import Backbone, Rescaled, Scaling, bare
from mekrr_scale.baselines import minimum_norm
from mekrr_scale.distributed import Checkpoint
from mekrr_scale.errors import ConfigError
from mekrr_scale.progress import Progress, Silent
from mekrr_scale.transfer.blocks import copy_species, randomize, reset_blocks
from mekrr_scale.transfer.examples import Example, batch_of, counts, energies, species_of
from mekrr_scale.transfer.plan import TrainPlan, TrainReport
from mekrr_scale.transfer.train import train
from mekrr_scale.units import check_energies, check_forces


@dataclass(frozen=True)
class AdaptPlan:
    """What is done to a backbone before it learns.

    Args:
        length_scale: geometries are multiplied by it before the network sees them (a/a' of two
            crystals' lattice constants); energies and forces follow.
        species_map: from elements of the source to elements of the data, whose weights are copied.
    """

    length_scale: float = 1.0
    species_map: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.length_scale > 0 and math.isfinite(self.length_scale)):
            raise ConfigError(f"length scale {self.length_scale}: give a positive number, such as 0.949")


def pretrain(
    backbone: Backbone,
    training: Sequence[Example],
    validation: Sequence[Example],
    plan: TrainPlan | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainReport:
    """Train a network of the backbone's architecture from scratch.

    Weights are drawn with the plan's seed; the scale of the energies is the root mean square of the
    forces (of the energies per atom without them), the references are least squares on the species
    counts of what the new network leaves.

    Raises:
        ConfigError: see ``train``.
    """
    plan = plan or TrainPlan()
    inner = randomize(bare(backbone)[0], plan.seed)
    species = species_of(training)
    inner.check_species(species)
    _, residual = reference_energies(training, torch.zeros(len(training), dtype=torch.float64))
    scaling = Scaling(1.0, _spread(training, residual), {}, species)
    # of what the new network leaves: some architectures bring reference energies of their own
    references, _ = reference_energies(training, own_energies(Rescaled(inner, scaling), training))
    return train(
        Rescaled(inner, replace(scaling, references=references)),
        training,
        validation,
        plan,
        progress,
        checkpoint,
        keep_start=False,
    )


def finetune(
    backbone: Backbone,
    training: Sequence[Example],
    validation: Sequence[Example],
    plan: TrainPlan | None = None,
    adapt: AdaptPlan | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainReport:
    """Go on training a backbone on other data.

    Raises:
        ConfigError: see ``adapted`` and ``train``.
    """
    plan, progress = plan or TrainPlan(), progress or Silent()
    ready = adapted(backbone, training, adapt, plan.blocks.reset, plan.seed, progress)
    return train(ready, training, validation, plan, progress, checkpoint)


def adapted(
    backbone: Backbone,
    training: Sequence[Example],
    plan: AdaptPlan | None = None,
    reset: Sequence[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> Backbone:
    """A backbone with copied species, scaled geometries, blocks reset, and references fitted again.

    The references of the species in the data are least squares on what the source leaves of the
    training energies; those of other species stay.

    Raises:
        ConfigError: a species that neither the source nor the map knows; labels that the source
            misses by a factor of units.
    """
    plan, progress = plan or AdaptPlan(), progress or Silent()
    inner, scaling = bare(backbone)
    species = species_of(training)
    unknown = [z for z in plan.species_map if z not in backbone.species]
    if unknown:
        raise ConfigError(f"species map: the source knows no {', '.join(chemical_symbols[z] for z in unknown)}")
    copy_species(inner, plan.species_map)
    known = (backbone.species | set(plan.species_map.values())) & inner.species
    missing = [z for z in species if z not in known]
    if missing:
        named = ", ".join(f"{z} ({chemical_symbols[z]})" for z in missing)
        have = " ".join(chemical_symbols[z] for z in sorted(known)[:12])
        raise ConfigError(
            f"species {named} is not among those of the source ({have}{' ...' if len(known) > 12 else ''}); copy one "
            f"that is like it with --species-map, e.g. {chemical_symbols[min(known)]}:{chemical_symbols[missing[0]]}"
        )
    if not inner.has_energy:
        raise ConfigError(f"backbone {inner.name} gives no energies, so that there is nothing to train")
    old = {**scaling.references, **{new: scaling.references.get(z, 0.0) for z, new in plan.species_map.items()}}
    limited = tuple(sorted(known)) if scaling.species else ()
    begun = Scaling(scaling.length * plan.length_scale, scaling.energy, old, limited)
    if not reset:
        _check_units(_behind(inner, begun), training, progress)
    reset_blocks(inner, reset, seed)
    found = own_energies(Rescaled(inner, replace(begun, references={})), training)
    references, _ = reference_energies(training, found)
    return Rescaled(inner, replace(begun, references={**old, **references}))


def own_energies(backbone: Backbone, examples: Sequence[Example], batch: int = 8) -> Float64[Tensor, " structures"]:
    """Energies (eV) that a backbone itself gives."""
    parts = []
    with torch.no_grad():
        for start in range(0, len(examples), batch):
            graph = batch_of(examples[start : start + batch], backbone).graph
            parts.append(backbone.forward(graph, graph.positions).energy(graph).double().cpu())
    return torch.cat(parts)


def reference_energies(
    examples: Sequence[Example], known: Float64[Tensor, " structures"]
) -> tuple[dict[int, float], Float64[Tensor, " labelled"]]:
    """Energies per species (eV) that explain best what is left of the labels, and what they leave (eV/atom)."""
    species = species_of(examples)
    labels, there = energies(examples)
    table, target = counts(examples, species)[there], (labels - known)[there]
    if not len(target):
        return {}, target
    solution = minimum_norm(table.T @ table, table.T @ target)
    left = (target - table @ solution) / table.sum(1)
    return dict(zip(species, solution.tolist(), strict=True)), left


def _behind(inner: Backbone, scaling: Scaling) -> Backbone:
    return inner if scaling == Scaling() else Rescaled(inner, scaling)


def _spread(training: Sequence[Example], residual: Float64[Tensor, " labelled"]) -> float:
    """A scale for the energies of atoms (eV): of the forces, times an angstrom, or of the energies."""
    forces = [torch.from_numpy(example.labels.forces) for example in training if example.labels.forces is not None]
    if forces:
        found = float(torch.cat(forces).square().mean().sqrt())
    else:
        atoms = torch.tensor([len(example.atoms) for example in training if example.labels.energy is not None])
        found = float((residual * atoms.sqrt()).square().mean().sqrt())
    return found if found > 1e-6 else 1.0


def _check_units(backbone: Backbone, training: Sequence[Example], progress: Progress) -> None:
    """Compare labels with the source's own predictions, on a few structures."""
    few = training[:: max(1, len(training) // 16)][:16]
    batch = batch_of(few, backbone)
    graph = batch.graph
    positions = graph.positions.clone().requires_grad_(True)
    with torch.enable_grad():
        own = backbone.forward(graph, positions).energy(graph)
        slopes = torch.autograd.grad(own.sum(), positions, materialize_grads=True)[0]
    there = ~batch.forces.isnan().any(1)
    forces = check_forces(batch.forces[there].double().cpu(), -slopes[there].double().cpu(), "the source model")
    labels, known = energies(few)
    table = counts(few, species_of(few))[known]
    energy = check_energies(labels[known], own.detach().double().cpu()[known], table, "the source model")
    for warning in filter(None, (forces, energy)):
        progress.note(f"warning: {warning}")

"""From a network and labelled structures to a backbone that is ready to learn, and the training of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from ase.data import chemical_symbols
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import minimum_norm
from mekrr_scale.backbones import (
    Backbone,
    BackboneEnergies,
    BackboneSpec,
    Rescaled,
    Scaling,
    load_backbone,
    new_backbone,
    unscaled,
)
from mekrr_scale.distributed import Checkpoint
from mekrr_scale.errors import ConfigError
from mekrr_scale.plans import plan_of
from mekrr_scale.progress import LOGGER, Progress
from mekrr_scale.structures import Entry, LabelKeys, compared, species_counts
from mekrr_scale.transfer.blocks import copy_species, randomize, reset_blocks
from mekrr_scale.transfer.examples import Example, Examples, energies, example_sets
from mekrr_scale.transfer.plan import TrainPlan
from mekrr_scale.transfer.report import TrainReport
from mekrr_scale.transfer.training import train

# `Entry` too: what `finetune` takes
__all__ = ["Entry", "adapted", "finetune", "own_energies", "pretrain", "reference_energies"]


def pretrain(
    backbone: Backbone | BackboneSpec | str,
    training: Examples,
    validation: Examples | float = 0.1,
    plan: TrainPlan | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    keys: LabelKeys | None = None,
    trust_code: bool = False,
) -> TrainReport:
    """Train a network of the backbone's architecture from scratch; the backbone's own weights are overwritten.

    Weights are drawn with the plan's seed; the scale of the energies is the root mean square of the
    forces (of the energies per atom without them), the references are least squares on the species
    counts of what the new network leaves.

    Args:
        backbone: an instance, which is changed, or what ``new_backbone`` makes one of.
        training: files, structures in memory, or examples.
        validation: the same, or the fraction of the training structures that is kept apart.
        progress: what shows how far it is; by default a bar in terminals and notebooks.
        keys: where the labels are.
        trust_code: see ``load_backbone``.

    Raises:
        ConfigError: see ``train``.
    """
    plan = plan_of(plan, TrainPlan)
    if not isinstance(backbone, Backbone):
        spec = BackboneSpec.parse(backbone) if isinstance(backbone, str) else backbone
        backbone = new_backbone(spec, trust_code=trust_code)
    learned, held = example_sets(training, validation, keys)
    inner = randomize(unscaled(backbone)[0], plan.seed)
    backbone.spec = {}
    species, _ = species_counts([example.atoms for example in learned])
    inner.check_species(species)
    _, residual = reference_energies(learned, torch.zeros(len(learned), dtype=torch.float64))
    scaling = Scaling(1.0, _spread(learned, residual), {}, species)
    # of what the new network leaves: some architectures bring reference energies of their own
    references, _ = reference_energies(learned, own_energies(Rescaled(inner, scaling), learned))
    begun = Rescaled(inner, replace(scaling, references=references))
    return train(begun, learned, held, plan, progress, checkpoint, keep_start=False)


def finetune(
    backbone: Backbone | BackboneSpec | str,
    training: Examples,
    validation: Examples | float = 0.1,
    plan: TrainPlan | None = None,
    entry: Entry | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    keys: LabelKeys | None = None,
    trust_code: bool = False,
) -> TrainReport:
    """Go on training a backbone on other data, in place.

    Args:
        backbone: an instance, which is changed, or what ``load_backbone`` makes one of.
        training: files, structures in memory, or examples.
        validation: the same, or the fraction of the training structures that is kept apart.
        progress: what shows how far it is; by default a bar in terminals and notebooks.
        keys: where the labels are.
        entry: how the data enter it, where they are of other elements or another scale.
        trust_code: see ``load_backbone``.

    Raises:
        ConfigError: see ``adapted`` and ``train``.
    """
    plan = plan_of(plan, TrainPlan)
    if not isinstance(backbone, Backbone):
        backbone = load_backbone(backbone, trust_code)
    learned, held = example_sets(training, validation, keys)
    backbone.spec = {}
    ready = adapted(backbone, learned, entry, plan.blocks.reset, plan.seed)
    return train(ready, learned, held, plan, progress, checkpoint)


def adapted(
    backbone: Backbone,
    training: Sequence[Example],
    entry: Entry | None = None,
    reset: Sequence[str] = (),
    seed: int = 0,
) -> Backbone:
    """A backbone with copied species, scaled geometries, blocks reset, and references fitted again.

    The weights of the given backbone are changed in place; what comes back holds it.
    The references of the species in the data are least squares on what the source leaves of the
    training energies; those of other species stay.

    Raises:
        ConfigError: a species that neither the source nor the map knows; labels that the source
            misses by a factor of units.
    """
    entry = entry or Entry()
    inner, scaling = unscaled(backbone)
    species, _ = species_counts([example.atoms for example in training])
    unknown = [z for z in entry.species if z not in backbone.species]
    if unknown:
        raise ConfigError(f"species map: the source knows no {', '.join(chemical_symbols[z] for z in unknown)}")
    if entry.species or reset:
        backbone.spec = {}  # its weights will be others
    copy_species(inner, entry.species)
    known = (backbone.species | set(entry.species.values())) & inner.species
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
    old = {**scaling.references, **{new: scaling.references.get(z, 0.0) for z, new in entry.species.items()}}
    limited = tuple(sorted(known)) if scaling.species else ()
    begun = Scaling(scaling.length * entry.length_scale, scaling.energy, old, limited)
    if not reset:
        source = BackboneEnergies(_behind(inner, begun))
        for warning in compared([(example.atoms, example.labels) for example in training], source, "the source model"):
            LOGGER.warning(warning)
    reset_blocks(inner, reset, seed)
    found = own_energies(Rescaled(inner, replace(begun, references={})), training)
    references, _ = reference_energies(training, found)
    return Rescaled(inner, replace(begun, references={**old, **references}))


def own_energies(backbone: Backbone, examples: Sequence[Example], batch: int = 8) -> Float64[Tensor, " structures"]:
    """Energies (eV) that a backbone itself gives."""
    structures = [example.atoms for example in examples]
    parts = [structures[start : start + batch] for start in range(0, len(structures), batch)]
    return torch.cat([BackboneEnergies(backbone).predict(part, forces=False).energy for part in parts])


def reference_energies(
    examples: Sequence[Example], known: Float64[Tensor, " structures"]
) -> tuple[dict[int, float], Float64[Tensor, " labelled"]]:
    """Energies per species (eV) that explain best what is left of the labels, and what they leave (eV/atom)."""
    species, found = species_counts([example.atoms for example in examples])
    labels, there = energies(examples)
    table, target = torch.from_numpy(found)[there], (labels - known)[there]
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

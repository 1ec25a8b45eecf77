"""Labelled structures for training: read, checked, split and put into batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from mekrr_scale.arrays import draw
from mekrr_scale.backbones import Backbone
from mekrr_scale.errors import ConfigError, MekrrError, StructureError
from mekrr_scale.structures import (
    Frames,
    Graph,
    LabelKeys,
    Labels,
    bare,
    check_structure,
    read_labels,
    structure_hash,
    structures_from,
)


@dataclass(frozen=True)
class Example:
    """A structure with its labels."""

    atoms: Atoms
    labels: Labels
    id: int  # hash of both

    def frame(self) -> Atoms:
        """A plain structure with the labels as ASE's results, in eV and angstrom."""
        frame = bare(self.atoms)
        known = {key: value for key, value in vars(self.labels).items() if value is not None}
        frame.calc = SinglePointCalculator(frame, **known)
        return frame


Examples: TypeAlias = Sequence[Example] | Frames


@dataclass(frozen=True)
class Batch:
    """Structures as a graph, with labels; NaN where there is none."""

    graph: Graph
    energy: Float64[Tensor, " structures"]  # eV
    forces: Float[Tensor, "atoms 3"]  # eV/angstrom
    stress: Float[Tensor, "structures 3 3"]  # eV/angstrom^3
    volume: Float[Tensor, " structures"]  # angstrom^3; 1 without a cell, whose stress nobody asks for

    @property
    def has_forces(self) -> bool:
        return not bool(self.forces.isnan().all())

    @property
    def has_stress(self) -> bool:
        return not bool(self.stress.isnan().all())


def read_examples(structures: Iterable[Atoms], keys: LabelKeys | None = None, what: str = "training") -> list[Example]:
    """Structures with usable labels; an energy or forces each.

    Raises:
        StructureError: a structure that cannot be used (its place is named), or none at all.
    """
    found = []
    for index, atoms in enumerate(structures):
        try:
            labels = read_labels(atoms, keys or LabelKeys())
            check_structure(atoms, labels, need_energy=labels.forces is None)
        except MekrrError as error:
            raise StructureError(f"{what} structure {index}: {error}") from error
        found.append(Example(atoms, labels, structure_hash(atoms, labels)))
    if not found:
        raise StructureError(f"the {what} set is empty; give structures with energies or forces")
    return found


def example_sets(
    training: Examples, validation: Examples | float, keys: LabelKeys | None = None
) -> tuple[list[Example], list[Example]]:
    """Training and validation examples of whatever a caller has.

    Args:
        validation: a fraction takes them from the training structures (``split``).

    Raises:
        StructureError: see ``read_examples``.
        ConfigError: see ``split``.
    """
    learned = _examples(training, keys, "training")
    if isinstance(validation, float):
        return split(learned, validation)
    return learned, _examples(validation, keys, "validation")


def _examples(given: Examples, keys: LabelKeys | None, what: str) -> list[Example]:
    if isinstance(given, list | tuple):
        ready = [item for item in given if isinstance(item, Example)]
        if len(ready) == len(given):
            return ready
    return read_examples(structures_from(cast(Frames, given)), keys, what)


def split(examples: Sequence[Example], fraction: float, seed: int = 17) -> tuple[list[Example], list[Example]]:
    """Training and validation set; drawn by content, so that the order of a file does not matter.

    Raises:
        ConfigError: a fraction that leaves one of the two empty.
    """
    count = round(fraction * len(examples))
    if not 0 < count < len(examples):
        raise ConfigError(
            f"a validation set of {fraction:g} of {len(examples)} structures leaves {count} for validation and "
            f"{len(examples) - count} for training; give another fraction, or a file with --valid"
        )
    ids = np.array([example.id for example in examples], dtype=np.uint64)
    order = np.argsort(draw(ids, seed), kind="stable")
    held = set(order[:count].tolist())
    return (
        [example for place, example in enumerate(examples) if place not in held],
        [example for place, example in enumerate(examples) if place in held],
    )


def energies(examples: Sequence[Example]) -> tuple[Float64[Tensor, " structures"], Bool[Tensor, " structures"]]:
    """Energies (eV, NaN where unknown), and where they are known."""
    values = [float("nan") if example.labels.energy is None else example.labels.energy for example in examples]
    found = torch.tensor(values, dtype=torch.float64)
    return found, ~found.isnan()


def batch_of(examples: Sequence[Example], backbone: Backbone) -> Batch:
    """Examples on the backbone's device and in its precision."""
    graph = backbone.graph([example.atoms for example in examples])
    forces, stress = [], []
    for example in examples:
        known = example.labels.forces
        forces.append(np.full((len(example.atoms), 3), np.nan) if known is None else known)
        voigt = np.full(6, np.nan) if example.labels.stress is None else example.labels.stress
        xx, yy, zz, yz, xz, xy = voigt
        stress.append(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))

    def here(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(backbone.device, backbone.dtype)

    return Batch(
        graph=graph,
        energy=energies(examples)[0].to(backbone.device),
        forces=here(np.concatenate(forces)),
        stress=here(np.stack(stress)),
        volume=here(np.array([abs(np.linalg.det(example.atoms.cell.array)) or 1.0 for example in examples])),
    )


def epoch_order(n: int, seed: int, epoch: int) -> Sequence[int]:
    """The order of the structures in one epoch, from its number alone: a resumed run sees the same."""
    order: list[int] = np.random.default_rng([seed, epoch]).permutation(n).tolist()
    return order

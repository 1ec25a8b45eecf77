"""Prior means: what a kernel corrects.

A prior is anything that gives energies and forces of structures (``Predictor``): a backbone's own
potential, another fitted model, a lower level of theory. It may be of another system: structures
then enter with elements renamed and geometries scaled (Roecken and Zavadlav, arXiv 2502.13522),

    E(x) = E'(g x),  F(x) = g F'(g x),  sigma(x) = g^3 sigma'(g x).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, final, runtime_checkable

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.data import atomic_numbers
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.backbones import Backbone, BackboneSpec, available_backbones, load_backbone
from mekrr_scale.backbones.checkpoints import read_own
from mekrr_scale.errors import ConfigError, ModelError, StructureError
from mekrr_scale.structures import LabelKeys, bare, read_labels

PriorKind = Literal["model", "backbone", "labels"]


@dataclass(frozen=True)
class Prediction:
    """Results for structures, atoms in their order; stress in ASE's sign."""

    energy: Float64[Tensor, " structures"]  # eV
    energies: Float64[Tensor, " atoms"]  # eV, each atom's part
    forces: Float64[Tensor, "atoms 3"] | None  # eV/angstrom
    stress: Float64[Tensor, "structures 3 3"] | None  # eV/angstrom^3

    def results(self) -> dict[str, Any]:
        """ASE's results, of a single structure; stress in Voigt order."""
        energy = float(self.energy[0])
        found: dict[str, Any] = {"energy": energy, "free_energy": energy, "energies": self.energies.numpy()}
        if self.forces is not None:
            found["forces"] = self.forces.numpy()
        if self.stress is not None:
            found["stress"] = full_3x3_to_voigt_6_stress(self.stress[0].numpy())
        return found


@runtime_checkable
class Predictor(Protocol):
    """What gives energies, and if asked for forces and stress."""

    def predict(self, atoms: Atoms | Sequence[Atoms], forces: bool = True, stress: bool = False) -> Prediction: ...


@dataclass(frozen=True)
class Entry:
    """How structures of one system enter a model of another.

    Args:
        length_scale: geometries are multiplied by it before the model sees them (a/a' of two
            crystals' lattice constants); energies and forces follow.
        species: from elements of the model to those of the structures.

    Raises:
        ConfigError: a length scale that is not positive, or an element mapped to from two.
    """

    length_scale: float = 1.0
    species: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.length_scale > 0 and math.isfinite(self.length_scale)):
            raise ConfigError(f"length scale {self.length_scale}: give a positive number, such as 0.949")
        if len(set(self.species.values())) < len(self.species):
            raise ConfigError("a species map takes each element of the structures from one of the model's only")

    def structure(self, atoms: Atoms) -> Atoms:
        """A structure as the model is to see it."""
        seen = bare(atoms)
        for source, target in self.species.items():
            seen.numbers[atoms.numbers == target] = source
        seen.set_cell(self.length_scale * atoms.cell.array)
        seen.positions *= self.length_scale
        return seen

    def prediction(self, found: Prediction) -> Prediction:
        """What the model predicts, for the structure as it is."""
        g = self.length_scale
        return Prediction(
            found.energy,
            found.energies,
            None if found.forces is None else g * found.forces,
            None if found.stress is None else g**3 * found.stress,
        )


def parse_species_map(text: str | None) -> dict[int, int]:
    """``Si:Ge,O:S`` as atomic numbers, source to target.

    >>> parse_species_map("Si:Ge")
    {14: 32}

    Raises:
        ConfigError: not pairs of elements, or a target given twice.
    """
    found: dict[int, int] = {}
    for pair in filter(None, (piece.strip() for piece in (text or "").split(","))):
        source, _, target = (part.strip() for part in pair.partition(":"))
        for symbol in (source, target):
            if symbol not in atomic_numbers or symbol == "X":
                raise ConfigError(f"species map {pair!r}: {symbol!r} is no element; write source:target, e.g. Si:Ge")
        if atomic_numbers[target] in found.values():
            raise ConfigError(f"species map {text!r} gives {target} twice")
        if atomic_numbers[source] in found:
            raise ConfigError(f"species map {text!r} takes {source} twice; map it in two steps")
        found[int(atomic_numbers[source])] = int(atomic_numbers[target])
    return found


@final
@dataclass(frozen=True)
class Entering:
    """A predictor behind an entry."""

    inner: Predictor
    entry: Entry

    def predict(self, atoms: Atoms | Sequence[Atoms], forces: bool = True, stress: bool = False) -> Prediction:
        structures = [atoms] if isinstance(atoms, Atoms) else list(atoms)
        seen = [self.entry.structure(structure) for structure in structures]
        return self.entry.prediction(self.inner.predict(seen, forces, stress))


@final
@dataclass(frozen=True)
class BackboneEnergies:
    """A backbone's own potential.

    Raises:
        ConfigError: it gives no energies.
    """

    backbone: Backbone

    def __post_init__(self) -> None:
        if not self.backbone.has_energy:
            raise ConfigError(f"backbone {self.backbone.name} gives no energies and cannot be a prior")

    def predict(self, atoms: Atoms | Sequence[Atoms], forces: bool = True, stress: bool = False) -> Prediction:
        graph = self.backbone.graph(atoms)
        positions = graph.positions.detach().clone().requires_grad_(forces or stress)
        strain = positions.new_zeros(graph.n_structures, 3, 3).requires_grad_(stress)
        with torch.set_grad_enabled(forces or stress):
            output = self.backbone.forward(graph, positions, strain if stress else None)
            energy = output.energy(graph)
        assert output.energies is not None
        energies = output.energies.detach().cpu().double()
        told = energy.detach().cpu().double()
        if not (forces or stress):
            return Prediction(told, energies, None, None)
        inputs = [positions, strain] if stress else [positions]
        slopes = torch.autograd.grad(energy.sum(), inputs, allow_unused=True, materialize_grads=True)
        found = -slopes[0].cpu().double() if forces else None
        if not stress:
            return Prediction(told, energies, found, None)
        volume = torch.linalg.det(graph.cell.cpu().double()).abs()[:, None, None]
        virial = slopes[1].cpu().double()
        return Prediction(told, energies, found, (virial + virial.mT) / (2 * volume))


@final
@dataclass(frozen=True)
class Calculated:
    """An ASE calculator, such as one of a lower level of theory."""

    calculator: Calculator

    def predict(self, atoms: Atoms | Sequence[Atoms], forces: bool = True, stress: bool = False) -> Prediction:
        found = []
        for structure in [atoms] if isinstance(atoms, Atoms) else list(atoms):
            copy = bare(structure)
            copy.calc = self.calculator
            energy = copy.get_potential_energy(force_consistent=False)
            pull = copy.get_forces() if forces else None
            try:
                sheet = copy.get_stress(voigt=False) if stress else None
            except PropertyNotImplementedError as error:
                raise ModelError(f"the prior's calculator gives no stress: {error}") from error
            found.append((len(copy), energy, pull, sheet))
        return _joined(found)


@final
@dataclass(frozen=True)
class Labelled:
    """A lower level of theory whose results the structures' files hold."""

    keys: LabelKeys

    def predict(self, atoms: Atoms | Sequence[Atoms], forces: bool = True, stress: bool = False) -> Prediction:
        found = []
        for structure in [atoms] if isinstance(atoms, Atoms) else list(atoms):
            told = (
                f"the model corrects a lower level of theory, whose results it looks for under the keys "
                f"{self.keys.energy}, {self.keys.forces}; the structure has none. For others give a calculator of "
                "that level: MekrrCalculator(model, prior=calculator)"
            )
            try:
                labels = read_labels(structure, self.keys)
            except StructureError as error:
                raise StructureError(f"{told} ({error})") from error
            if labels.energy is None or (forces and labels.forces is None) or (stress and labels.stress is None):
                raise StructureError(told)
            sheet = None if not stress or labels.stress is None else voigt_6_to_full_3x3_stress(labels.stress)
            found.append((len(structure), labels.energy, labels.forces if forces else None, sheet))
        return _joined(found)


@dataclass(frozen=True)
class PriorSpec:
    """What a prior is: what a store and a model file say of it.

    Args:
        kind: a fitted ``model``, the own energies of a ``backbone``, or ``labels`` in the files.
        path: of the model.
        backbone: specification of the backbone.
        keys: of the labels.
        hash: of the model's file, or of the backbone's weights.
        entry: how structures enter it.
    """

    kind: PriorKind
    path: str | None = None
    backbone: BackboneSpec | None = None
    keys: LabelKeys | None = None
    hash: str = ""
    entry: Entry = field(default_factory=Entry)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; all but ``where`` must agree for two priors to be the same."""
        told = dict(json.loads(json.dumps(asdict(self))))
        return told | {"where": {"path": told.pop("path"), "backbone": told.pop("backbone")}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PriorSpec:
        where, entry = data["where"], data["entry"]
        return cls(
            kind=data["kind"],
            path=where["path"],
            backbone=None if where["backbone"] is None else BackboneSpec(**where["backbone"]),
            keys=None if data["keys"] is None else LabelKeys(**data["keys"]),
            hash=data["hash"],
            entry=Entry(entry["length_scale"], {int(z): new for z, new in entry["species"].items()}),
        )

    @classmethod
    def parse(cls, text: str, entry: Entry, keys: LabelKeys | None = None) -> PriorSpec:
        """From what a user types: a file of a model or backbone, ``labels``, or a backbone's name.

        A backbone may be followed by its version: ``sevennet:7net-0``.

        Raises:
            ConfigError: none of these; or labels without a key.
        """
        if text == "labels":
            if keys is None or keys.energy is None:
                raise ConfigError("prior 'labels' needs the key of its energies: --prior-energy-key")
            return cls("labels", keys=keys, entry=entry)
        path = Path(text)
        if path.is_file():
            own = read_own(path)
            if own is None:
                return cls("model", path=str(path.resolve()), hash=file_hash(path), entry=entry)
            trained = BackboneSpec(str(own["format"]).split()[1], checkpoint=str(path.resolve()))
            return cls("backbone", backbone=trained, entry=entry)
        name, _, version = text.partition(":")
        if name not in {known for known, _, _ in available_backbones()}:
            raise ConfigError(
                f"prior {text!r}: give a file of a fitted model or of a trained backbone, the name of a backbone such "
                "as chgnet, or labels"
            )
        return cls("backbone", backbone=BackboneSpec(name, version=version or None), entry=entry)

    def pinned(self) -> PriorSpec:
        """With the hash of the backbone's weights."""
        if self.backbone is None or self.hash:
            return self
        weights = load_backbone(self.backbone).identity().weight_hash
        return replace(self, hash=weights)


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _joined(found: Sequence[tuple[int, float, Any, Any]]) -> Prediction:
    sizes, energy, forces, stress = zip(*found, strict=True)
    total = torch.tensor(energy, dtype=torch.float64)
    per_atom = (total / torch.tensor(sizes)).repeat_interleave(torch.tensor(sizes))
    pulled = None if forces[0] is None else torch.cat([torch.from_numpy(part).double() for part in forces])
    sheets = None if stress[0] is None else torch.stack([torch.from_numpy(part).double() for part in stress])
    return Prediction(total, per_atom, pulled, sheets)

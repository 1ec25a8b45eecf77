"""The backbone's bulk modulus as a regulariser: what no energy or force of the data may tell of a crystal.

Energies that are wrong by less than their noise make a well at the lattice constant that is tens of per cent too sharp
(silicon: 0.5 meV/atom within 1 % are 25 GPa of the bulk modulus), and forces of cells of one volume say nothing of
their volume. The network was trained on stress: its bulk moduli are right to some per cent where its shear constants
may be anything (molybdenum: 253 of 262 GPa, and C44 9 of 106). Of a crystal at its rest it gives

    D(eta) = [W(+eta) - W(-eta)] / eta,   W(e) = V tr sigma of the cell scaled by 1 + e,

at four strains. A row of the fit holds the same of the model, so that its stiffness against volume is the network's as
far as the data do not speak, which they do the louder the more exact they are. Differences alone: the lattice constant
stays that of the labels. In the terms of a store such a pair of cells is one structure of both, whose atoms move apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import final

import numpy as np
import torch
from ase import Atoms

from mekrr_scale.arrays import FeatureBatch, RowKind
from mekrr_scale.backbones import (
    STRESS_TRAINED,
    Backbone,
    BackboneEnergies,
    BackboneSpec,
    Directions,
    evaluating,
    load_backbone,
    tangents,
    with_compression,
)
from mekrr_scale.errors import MekrrError, SimulationError
from mekrr_scale.models import PredictorCalculator
from mekrr_scale.progress import LOGGER
from mekrr_scale.store import FeatureStore, Sample
from mekrr_scale.structures import fills_space, relaxed, smallest_cell

EXPECTED = 0.11  # eV/atom that such rows may be wrong by: 5 % of silicon's or copper's bulk modulus

_STRAINS = (0.005, 0.01, 0.02, 0.04)  # eta
_UNIT = 0.01  # that D is multiplied with, so that rows are of the size of virials at a strain of 1 %
_REST = 0.3  # eV/angstrom in a crystal near rest, by the network
_CALM = 5e-3  # eV/angstrom, where it is at rest
_NEAR = 0.15  # of the volume
_CRYSTALS = 4  # of different composition, at most
_LARGEST = 40  # atoms of the smallest cell


def crystals_of(samples: Sequence[Sample]) -> tuple[Atoms, ...]:
    """Crystals among samples of stores, in their order: the first of each composition, as its smallest cell."""
    found: dict[str, Atoms] = {}
    for atoms in (sample.atoms for sample in samples):
        name = atoms.get_chemical_formula(empirical=True)
        if name not in found and fills_space(atoms):
            found[name] = smallest_cell(atoms)
    return tuple(found.values())[:_CRYSTALS]


def stiffness_is_untold(stores: Sequence[FeatureStore]) -> bool:
    """Whether such rows can be made and say what the data do not: forces are learned, and stress is not."""
    told = any(store.holds(RowKind.STRESS) for store in stores)
    trained = stores[0].header.backbone.get("name") in STRESS_TRAINED
    return trained and not told and any(store.n_directions for store in stores)


@final
@dataclass(frozen=True, eq=False)
class ElasticBatches:
    """A batch for each crystal and strain, made when they are first asked for.

    None where the network cannot be loaded, has no energies, or is far from a minimum.
    """

    crystals: tuple[Atoms, ...]
    store: FeatureStore
    device: str

    def __iter__(self) -> Iterator[FeatureBatch]:
        header = self.store.header
        path = str(self.store.path) if header.compression else ""
        try:
            for cell in self.crystals:
                if len(cell) <= _LARGEST:
                    yield from _pairs(BackboneSpec.of(header.spec), _key(cell), path, self.device)
        except MekrrError as error:
            LOGGER.info("no rows of the network's stiffness: %s", error)


def _key(atoms: Atoms) -> tuple[bytes, bytes, bytes]:
    """What tells a crystal, for the memory of what was made."""
    return atoms.numbers.astype(np.int64).tobytes(), atoms.positions.tobytes(), atoms.cell.array.tobytes()


@lru_cache(maxsize=16)
def _pairs(spec: BackboneSpec, key: tuple[bytes, bytes, bytes], path: str, device: str) -> tuple[FeatureBatch, ...]:
    """Of one crystal; the next fit to it needs no network.

    Args:
        path: of a store of compressed features; empty: they are not.
    """
    numbers, positions, cell = (np.frombuffer(part, dtype=t) for part, t in zip(key, ("i8", "f8", "f8"), strict=True))
    atoms = Atoms(numbers, positions.reshape(-1, 3), cell=cell.reshape(3, 3), pbc=True)
    backbone = with_compression(load_backbone(spec), FeatureStore(Path(path)).compression if path else None)
    backbone = backbone.to(device, torch.float64)  # slopes all but cancel
    rest = _at_rest(backbone, atoms) if backbone.has_energy else None
    return () if rest is None else tuple(_pair(backbone, rest, strain) for strain in _STRAINS)


def _at_rest(backbone: Backbone, atoms: Atoms) -> Atoms | None:
    """The crystal where the network has its minimum; None of what is far from one, such as a liquid."""
    near = atoms.copy()
    near.calc = PredictorCalculator(BackboneEnergies(backbone))
    if float(np.linalg.norm(near.get_forces(), axis=1).max()) > _REST:
        return None
    try:
        found = relaxed(near, near.calc, cell=True, force=_CALM)
    except SimulationError:
        return None
    return found if abs(found.get_volume() / atoms.get_volume() - 1.0) < _NEAR else None


def _pair(backbone: Backbone, atoms: Atoms, strain: float) -> FeatureBatch:
    """A crystal that is larger and one that is smaller, as one structure whose parts are strained apart."""
    isotropic = Directions.of_strains(torch.eye(3, dtype=torch.float64)[None], len(atoms))
    features, moved, slopes = [], [], []
    for side in (1.0, -1.0):
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array * (1.0 + side * strain), scale_atoms=True)
        graph = backbone.graph([strained])
        with evaluating(False):
            features.append(backbone.forward(graph, graph.positions, energies=False).features.cpu())
        found = tangents(backbone, graph, isotropic, energies=True)
        assert found.energy is not None
        moved.append(side * _UNIT / strain * found.features.cpu())
        slopes.append(side * _UNIT / strain * found.energy.cpu().double())
    species = torch.from_numpy(np.tile(atoms.numbers, 2).astype(np.int64))
    label = slopes[0] + slopes[1]
    return FeatureBatch.moved(torch.cat(features), species, torch.cat(moved, 1), RowKind.ELASTIC, label)

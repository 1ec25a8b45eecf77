"""The backbone's bulk modulus as a regulariser: what no energy or force of the data may tell of a crystal.

Energies that are wrong by less than their noise make a well at the lattice constant that is tens of per cent too sharp
(silicon: 0.5 meV/atom within 1 % are 25 GPa of the bulk modulus), and forces of cells of one volume say nothing of
their volume. The network was trained on stress: its bulk moduli are right to some per cent where its shear constants
may be anything (molybdenum: 253 of 262 GPa, and C44 9 of 106). Of a crystal at its rest it gives

    D(eta) = [W(+eta) - W(-eta)] / eta,   W(e) = V tr sigma of the cell scaled by 1 + e,

at four strains. A row of the fit holds the same of the model, so that its stiffness against volume is the network's as
far as the data do not speak. Differences alone: the lattice constant stays that of the labels. In the terms of a store
such a pair of cells is one structure of both, whose atoms move apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float64, Int64
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, RowKind
from mekrr_scale.backbones import (
    STRESS_TRAINED,
    Backbone,
    BackboneEnergies,
    BackboneSpec,
    Directions,
    load_backbone,
    tangents,
    with_compression,
)
from mekrr_scale.errors import MekrrError
from mekrr_scale.models import PredictorCalculator
from mekrr_scale.progress import LOGGER
from mekrr_scale.store import FeatureStore, Sample, samples_of
from mekrr_scale.structures import fills_space, smallest_cell

_STRAINS = (0.005, 0.01, 0.02, 0.04)  # eta
_UNIT = 0.01  # that D is multiplied with, so that rows are of the size of virials at a strain of 1 %
_REST = 0.3  # eV/angstrom in a crystal near rest, by the network
_CALM, _STEPS = 5e-3, 200  # eV/angstrom, and the steps to come there
_NEAR = 0.15  # of the volume
_CRYSTALS = 4  # of different composition, at most
_LARGEST = 40  # atoms of the smallest cell


def crystals_of(stores: Sequence[FeatureStore]) -> list[Sample]:
    """Crystals among the samples of stores: of each composition the one of lowest energy."""
    found: dict[str, Sample] = {}
    for sample in samples_of(stores):
        if fills_space(sample.atoms):
            found.setdefault(sample.atoms.get_chemical_formula(empirical=True), sample)
    return list(found.values())[:_CRYSTALS]


def wanted(stores: Sequence[FeatureStore]) -> bool:
    """Whether such rows can be made and say what the data do not: forces are learned, stress is not, of a crystal."""
    told = any(store.holds(RowKind.STRESS) for store in stores) or not any(store.n_directions for store in stores)
    trained = stores[0].header.spec and stores[0].header.backbone.get("name") in STRESS_TRAINED
    return not told and bool(trained) and bool(crystals_of(stores))


def elastic_rows(stores: Sequence[FeatureStore], device: str) -> tuple[FeatureBatch, ...]:
    """A batch for each crystal and strain; none where the network cannot be loaded or has no energies.

    Args:
        stores: of which something is ``wanted``.
    """
    header, found = stores[0].header, []
    path = str(stores[0].path) if header.compression else ""
    try:
        for sample in crystals_of(stores):
            cell = smallest_cell(sample.atoms)
            if len(cell) <= _LARGEST:
                pairs = _pairs(BackboneSpec.of(header.spec), _key(cell), path, device)
                found += [pair.batch(sample) for pair in pairs]
    except MekrrError as error:
        LOGGER.info("no rows of the network's stiffness: %s", error)
        return ()
    return tuple(found)


@dataclass(frozen=True)
class _Pair:
    """A crystal that is larger and one that is smaller, as one structure whose parts are strained apart."""

    features: Float64[Tensor, "atoms dim"]
    moved: Float64[Tensor, "1 atoms dim"]
    label: Float64[Tensor, "1"]
    species: Int64[Tensor, " atoms"]

    def batch(self, sample: Sample) -> FeatureBatch:
        """With the name of the structure that it comes from, so that it is left out with it."""
        return FeatureBatch.moved(
            self.features, self.species, self.moved, RowKind.ELASTIC, self.label, sample.id, sample.group
        )


def _key(atoms: Atoms) -> tuple[bytes, bytes, bytes]:
    """What tells a crystal, for the memory of what was made."""
    return atoms.numbers.astype(np.int64).tobytes(), atoms.positions.tobytes(), atoms.cell.array.tobytes()


@lru_cache(maxsize=16)
def _pairs(spec: BackboneSpec, key: tuple[bytes, bytes, bytes], path: str, device: str) -> tuple[_Pair, ...]:
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
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    moved = atoms.copy()
    moved.calc = PredictorCalculator(BackboneEnergies(backbone))
    if float(np.linalg.norm(moved.get_forces(), axis=1).max()) > _REST:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # logm of scipy on nearly symmetric strains
        with BFGS(FrechetCellFilter(moved), logfile=None) as running:
            calm = running.run(fmax=_CALM, steps=_STEPS)
    near = abs(moved.get_volume() / atoms.get_volume() - 1.0) < _NEAR
    return moved if calm and near else None


def _pair(backbone: Backbone, atoms: Atoms, strain: float) -> _Pair:
    isotropic = Directions.of_strains(torch.eye(3, dtype=torch.float64)[None], len(atoms))
    features, moved, slopes = [], [], []
    for side in (1.0, -1.0):
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array * (1.0 + side * strain), scale_atoms=True)
        graph = backbone.graph([strained])
        with torch.no_grad():
            features.append(backbone.forward(graph, graph.positions, energies=False).features.cpu())
        found = tangents(backbone, graph, isotropic, energies=True)
        assert found.energy is not None
        moved.append(side * _UNIT / strain * found.features.cpu())
        slopes.append(side * _UNIT / strain * found.energy.cpu().double())
    species = torch.from_numpy(np.tile(atoms.numbers, 2).astype(np.int64))
    return _Pair(torch.cat(features), torch.cat(moved, 1), slopes[0] + slopes[1], species)

"""What LAMMPS hands to a unified ML-IAP model, made of an ASE structure: own atoms of a rank, ghosts, pairs.

Attributes and what may be done with them are those of ``MLIAPDataPy`` in LAMMPS' src/ML-IAP/mliap_unified_couple.pyx
(the plain build, versions of 2023 to 2025) and src/KOKKOS/mliap_unified_couple_kokkos.pyx. Both hand out the memory of
LAMMPS' arrays; the plain one lets ``eatoms`` be set and not be read, Kokkos' the other way round. As LAMMPS does,
ghosts are all that lies within a distance of a rank's part of the box, pairs are those closer than the cutoff, and the
virial is the sum of positions times forces, ghosts' included.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from scipy.spatial import cKDTree

FDOTR = 2  # vflag as LAMMPS sets it with newton on


class Rank:
    """One rank's part of a structure.

    Args:
        types: index of each of the structure's atoms in the model's ``element_types``.
        cutoff: of pairs (angstrom).
        ghosts: how far ghosts come from (angstrom).
        part: its share of the first lattice vector, in fractions.
        ghostneigh: whether pairs that begin at ghosts are there.
    """

    def __init__(self, atoms, types, cutoff, ghosts, part=(0.0, 1.0), ghostneigh=True):
        cell, fractions = atoms.cell.array, atoms.get_scaled_positions(wrap=True)
        low, high = np.array([part[0], 0, 0]), np.array([part[1], 1, 1])
        heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
        margin = ghosts / heights
        own = np.flatnonzero((fractions[:, 0] >= part[0]) & (fractions[:, 0] < part[1]))
        copies = []
        images = [range(-k, k + 1) if p else (0,) for k, p in zip(np.ceil(margin).astype(int), atoms.pbc, strict=True)]
        for shift in itertools.product(*images):
            moved = fractions + shift
            near = (moved >= low - margin).all(1) & (moved < high + margin).all(1)
            if not any(shift):
                near[own] = False
            copies += [(index, moved[index]) for index in np.flatnonzero(near)]
        np.random.default_rng(0).shuffle(copies)  # LAMMPS' order is its own
        self.owner = np.array([*own, *(index for index, _ in copies)], dtype=int)
        self.positions = np.concatenate([fractions[own], [place for _, place in copies] or np.empty((0, 3))]) @ cell
        self.nlistatoms, self.ntotal = len(own), len(self.owner)
        self.elems = np.asarray(types, dtype=np.int32)[self.owner]
        self.natomneigh = self.ntotal if ghostneigh else self.nlistatoms
        self.iatoms = np.arange(self.natomneigh, dtype=np.int32)
        tree = cKDTree(self.positions)
        pairs = np.array([
            (i, j) for i in range(self.natomneigh) for j in tree.query_ball_point(self.positions[i], cutoff) if i != j
        ], dtype=np.int32).reshape(-1, 2)  # fmt: skip
        self.pair_i, self.pair_j = np.ascontiguousarray(pairs.T)
        self.rij = self.positions[self.pair_j] - self.positions[self.pair_i]
        self.f = np.zeros((self.ntotal, 3))
        self.vflag = FDOTR
        self.energy = self.energies = None

    def virial(self):
        """Sum of positions times forces (eV)."""
        return self.positions.T @ np.asarray(self.f)


class Plain(Rank):
    """Of the build without Kokkos."""

    def _set(self, values):
        self.energies = np.array(values, dtype=np.float64)

    eatoms = property(None, _set)


class Kokkos(Rank):
    """Of the build with Kokkos; with a device, its arrays are tensors there, as torch takes cupy's to be."""

    def __init__(self, *arguments, device="cpu", **named):
        super().__init__(*arguments, **named)
        self.energies = np.zeros(self.nlistatoms)
        if torch.device(device).type != "cpu":
            for name in ("iatoms", "elems", "pair_i", "pair_j", "rij", "f", "energies"):
                setattr(self, name, torch.from_numpy(getattr(self, name)).to(device))

    @property
    def eatoms(self):
        return self.energies


def gathered(ranks, n_atoms):
    """Energy (eV), atoms' energies, forces and virial of all ranks, with forces on ghosts sent home."""
    energies, forces = np.full(n_atoms, np.nan), np.zeros((n_atoms, 3))
    for rank in ranks:
        energies[rank.owner[: rank.nlistatoms]] = rank.energies
        np.add.at(forces, rank.owner, rank.f)
    return sum(rank.energy for rank in ranks), energies, forces, sum(rank.virial() for rank in ranks)

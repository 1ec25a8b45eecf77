"""Checks of predicted derivatives for any backbone, kernel and reduction; see the tests that call them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from mekrr_scale.arrays import FeatureBatch, bounds
from mekrr_scale.backbones import Directions, identity_of, tangents
from mekrr_scale.kernels import KERNEL_NAMES, SetKernel, SpeciesMixing, atom_kernel, fit_transform
from mekrr_scale.landmarks import Uniform, median_distance
from mekrr_scale.models import Baseline, Model, Potential


def slope(function, step=1e-4):
    """Fourth-order central difference at zero."""
    near, far = function(step) - function(-step), function(2 * step) - function(-2 * step)
    return (8 * near - far) / (12 * step)


def kernels(length):
    """Every atom kernel at a length scale."""
    others = {
        "gaussian-sum": {"length_scales": (length, 2 * length)},
        "linear": {"length_scale": length, "offset": 0.5},
    }
    return [atom_kernel(name, **others.get(name, {"length_scale": length})) for name in KERNEL_NAMES]


def structure(elements):
    """A dense periodic structure of two elements without symmetry."""
    generator = np.random.default_rng(4)
    cell = np.diag([4.6, 4.9, 5.2]) + 0.2 * generator.normal(size=(3, 3))
    grid = np.array([[i, j, k] for i in (0.1, 0.6) for j in (0.1, 0.6) for k in (0.1, 0.6)][:6])
    atoms = Atoms([elements[i % 2] for i in range(6)], scaled_positions=grid, cell=cell, pbc=True)
    atoms.positions += 0.15 * generator.normal(size=(6, 3))
    return atoms


def check_predictions(backbone, elements=("Si", "O")):
    """Forces and stress of a random model against differences of its energy, net force, rows, for every kernel."""
    backbone = backbone.to(dtype=torch.float64)
    atoms = structure(elements)
    other = atoms.copy()
    other.positions += 0.1 * np.random.default_rng(5).normal(size=other.positions.shape)
    species = torch.from_numpy(np.concatenate([atoms.numbers, other.numbers]).astype(np.int64))
    features = backbone.features([atoms, other])
    batch = FeatureBatch.from_atoms(features, species, bounds(torch.tensor([len(atoms), len(other)])))
    transform = fit_transform([batch], "centre-per-species")
    length = 2 * median_distance([batch], transform, 0)
    present = tuple(sorted(set(species.tolist())))
    baseline = Baseline(present, torch.zeros(len(present), dtype=torch.float64), prior=False, fitted=False)
    for atom in kernels(length):
        for reduce in ("sum", "mean"):
            kernel = SetKernel(atom, SpeciesMixing(0.5), reduce, transform)
            landmarks = Uniform(7).select([batch], kernel)
            generator = torch.Generator().manual_seed(1)
            weights = torch.randn(kernel.n_columns(landmarks), generator=generator, dtype=torch.float64)
            model = Model(kernel, landmarks, weights, baseline, identity_of(backbone), {})
            potential = Potential(model, backbone, torch.float64)
            check_derivatives(potential, atoms)
            _check_rows(backbone, kernel, landmarks, atoms)


def check_derivatives(potential, atoms):
    found = potential.predict(atoms, stress=True)
    generator = np.random.default_rng(0)
    direction, skew = generator.normal(size=(len(atoms), 3)), generator.normal(size=(3, 3))
    strain = (skew + skew.T) / 2

    def energy(move, turn):
        moved = atoms.copy()
        moved.positions += move * direction
        moved.set_cell(atoms.cell.array @ (np.eye(3) + turn * strain), scale_atoms=True)
        return float(potential.predict(moved, forces=False).energy[0])

    size = float(found.forces.abs().max())
    along = float((found.forces.numpy() * direction).sum())
    assert along == pytest.approx(-slope(lambda t: energy(t, 0.0)), rel=1e-6, abs=1e-6 * size)
    assert float(found.forces.sum(0).abs().max()) < 1e-6 * max(size, 1.0)
    stress = float((found.stress[0].numpy() * strain).sum())
    expected = slope(lambda t: energy(0.0, t)) / atoms.get_volume()
    assert stress == pytest.approx(expected, rel=1e-6, abs=1e-6 * float(found.stress.abs().max()))


def _check_rows(backbone, kernel, landmarks, atoms):
    """Derivative rows along a displacement and a strain against differences of energy rows."""
    graph = backbone.graph(atoms)
    generator = torch.Generator().manual_seed(3)
    move = torch.randn(1, len(atoms), 3, generator=generator, dtype=torch.float64)
    strain = torch.eye(3, dtype=torch.float64)[None] * 0.3
    strain[0, 0, 1] = strain[0, 1, 0] = 0.2
    directions = Directions.of_displacements(move).joined(Directions.of_strains(strain, len(atoms)))
    pushed = tangents(backbone, graph, directions).features
    features = backbone.features(atoms)
    batch = FeatureBatch.unlabelled(features, graph.numbers, graph.n_atoms, pushed)
    rows = kernel.derivative_rows(batch, landmarks, torch.float64)

    def row(k, t):
        with torch.no_grad():
            moved = graph.positions + t * directions.displacements[k]
            found = backbone.forward(graph, moved, t * directions.strains[k][None], energies=False).features
        batch = FeatureBatch.from_atoms(found, graph.numbers, bounds(torch.tensor([len(atoms)])))
        return kernel.rows(batch, landmarks)[0]

    for k in range(2):
        expected = slope(lambda t, k=k: row(k, t))
        assert float((rows[k] - expected).abs().max()) <= 1e-6 * float(expected.abs().max())

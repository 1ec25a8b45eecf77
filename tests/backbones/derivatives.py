"""Checks of predicted derivatives for any backbone, kernel and reduction; see the tests that call them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from mekrr_scale.arrays import FeatureBatch, bounds
from mekrr_scale.backbones import Directions, identity_of, tangents
from mekrr_scale.kernels import KERNEL_NAMES, Head, SetKernel, SpeciesMixing, atom_kernel, fit_transform
from mekrr_scale.landmarks import Uniform, median_distance
from mekrr_scale.models import Baseline, Model, Potential

STEP = 1e-4
ROUGH_STEP = 3e-4  # where energies are small sums of large terms, whose rounding a small step enlarges
STEPS = (-2 * STEP, -STEP, STEP, 2 * STEP)


def slope(function, step=STEP):
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
    displaced, rows = _Moved(backbone, atoms), _Rows(backbone, atoms)
    for atom in kernels(length):
        for reduce in ("sum", "mean"):
            kernel = SetKernel(atom, SpeciesMixing(0.5), reduce, transform)
            landmarks = Uniform(7).select([batch], kernel)
            generator = torch.Generator().manual_seed(1)
            weights = torch.randn(kernel.n_columns(landmarks), generator=generator, dtype=torch.float64)
            model = Model(kernel, landmarks, weights, baseline, identity_of(backbone), {})
            potential = Potential(model, backbone, torch.float64)
            displaced.check(potential)
            rows.check(kernel, landmarks)
    displaced.check_features(potential)


def check_derivatives(potential, atoms):
    """Forces and stress against differences of whole predictions, whatever they are made of."""
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


class _Moved:
    """A structure that moves along a direction, and one that is strained: features of each step, for all kernels."""

    def __init__(self, backbone, atoms):
        generator = np.random.default_rng(0)
        self.atoms, self.direction = atoms, generator.normal(size=(len(atoms), 3))
        skew = generator.normal(size=(3, 3))
        self.strain = (skew + skew.T) / 2
        self.structures, self.batches = {}, {}
        for axis in (0, 1):
            for t in STEPS:
                moved = atoms.copy()
                moved.positions += t * (axis == 0) * self.direction
                moved.set_cell(atoms.cell.array @ (np.eye(3) + t * (axis == 1) * self.strain), scale_atoms=True)
                self.structures[axis, t] = moved
                features = backbone.features(moved)
                numbers = torch.from_numpy(atoms.numbers.astype(np.int64))
                self.batches[axis, t] = FeatureBatch.from_atoms(features, numbers, bounds(torch.tensor([len(atoms)])))

    def check(self, potential):
        """Forces and stress against differences of the kernel's energies, and the net force."""
        found, model = potential.predict(self.atoms, stress=True), potential.model
        head = Head(model.kernel, model.landmarks, model.coefficients)
        energy = {at: float(head.energies(batch)[0]) for at, batch in self.batches.items()}
        size = float(found.forces.abs().max())
        along = float((found.forces.numpy() * self.direction).sum())
        assert along == pytest.approx(-slope(lambda t: energy[0, t]), rel=1e-6, abs=1e-6 * size)
        assert float(found.forces.sum(0).abs().max()) < 1e-6 * max(size, 1.0)
        stress = float((found.stress[0].numpy() * self.strain).sum())
        expected = slope(lambda t: energy[1, t]) / self.atoms.get_volume()
        assert stress == pytest.approx(expected, rel=1e-6, abs=1e-6 * float(found.stress.abs().max()))

    def check_features(self, potential):
        """What a potential predicts from the structures themselves is what their features give."""
        model = potential.model
        head = Head(model.kernel, model.landmarks, model.coefficients)
        for at, moved in self.structures.items():
            found = float(potential.predict(moved, forces=False).energy[0])
            assert found == pytest.approx(float(head.energies(self.batches[at])[0]), rel=1e-10, abs=1e-12)


class _Rows:
    """Derivative rows along a displacement and a strain: tangents, and features of each step, for all kernels."""

    def __init__(self, backbone, atoms):
        graph, n = backbone.graph(atoms), torch.tensor([len(atoms)])
        generator = torch.Generator().manual_seed(3)
        move = torch.randn(1, len(atoms), 3, generator=generator, dtype=torch.float64)
        strain = torch.eye(3, dtype=torch.float64)[None] * 0.3
        strain[0, 0, 1] = strain[0, 1, 0] = 0.2
        along = Directions.of_displacements(move).joined(Directions.of_strains(strain, len(atoms)))
        pushed = tangents(backbone, graph, along).features
        self.batch = FeatureBatch.unlabelled(backbone.features(atoms), graph.numbers, graph.n_atoms, pushed)
        self.moved = {}
        for k in range(2):
            for t in STEPS:
                with torch.no_grad():
                    moved = graph.positions + t * along.displacements[k]
                    found = backbone.forward(graph, moved, t * along.strains[k][None], energies=False).features
                self.moved[k, t] = FeatureBatch.from_atoms(found, graph.numbers, bounds(n))

    def check(self, kernel, landmarks):
        rows = kernel.derivative_rows(self.batch, landmarks, torch.float64)
        for k in range(2):
            expected = slope(lambda t, k=k: kernel.rows(self.moved[k, t], landmarks)[0])
            assert float((rows[k] - expected).abs().max()) <= 1e-6 * float(expected.abs().max())

"""Slow, obvious twins of the fast paths: loops over atoms and dense algebra in float64."""

from __future__ import annotations

import math

import numpy as np
import torch
from ase.stress import voigt_6_to_full_3x3_stress

from mekrr_scale.arrays import FeatureBatch, bounds


def atom_kernel_value(kernel, h, g):
    """k(h, g) from the formula in the literature."""
    r = float((h - g).norm())
    dot = float(h @ g)
    match kernel.name:
        case "gaussian":
            return math.exp(-(r**2) / (2 * kernel.length_scale**2))
        case "matern32":
            q = math.sqrt(3) * r / kernel.length_scale
            return (1 + q) * math.exp(-q)
        case "matern52":
            q = math.sqrt(5) * r / kernel.length_scale
            return (1 + q + q**2 / 3) * math.exp(-q)
        case "gaussian-sum":
            return sum(math.exp(-(r**2) / (2 * s**2)) for s in kernel.length_scales) / len(kernel.length_scales)
        case "linear":
            return (dot + kernel.offset) / kernel.length_scale**2
        case "polynomial":
            return (dot / kernel.length_scale**2 + kernel.offset) ** kernel.degree
    raise AssertionError(kernel.name)


def exact_sum(parts):
    """Correctly rounded sums, element by element."""
    return torch.tensor([math.fsum(column) for column in torch.stack(parts).T.tolist()], dtype=torch.float64)


def structures_of(batch: FeatureBatch):
    """(species, features) of each structure, atoms grouped by species."""
    found = []
    for i in range(batch.n_structures):
        z, h = [], []
        for run in batch.runs:
            a, b = int(run.ptr[i]), int(run.ptr[i + 1])
            z += [run.z] * (b - a)
            h.append(run.features[a:b].double())
        found.append((z, torch.cat(h)))
    return found


def transformed(kernel, z, h):
    return torch.stack([kernel.transform.apply(a, f[None], torch.float64)[0] for a, f in zip(z, h, strict=True)])


def set_kernel_value(kernel, x, y):
    """K(x, y) by a double loop over atoms, as DESIGN section 2 writes it."""
    (zx, hx), (zy, hy) = x, y
    hx, hy = transformed(kernel, zx, hx), transformed(kernel, zy, hy)
    alpha = kernel.mixing.alpha
    total = 0.0
    for za, ha in zip(zx, hx, strict=True):
        for zb, hb in zip(zy, hy, strict=True):
            value = atom_kernel_value(kernel.atom, ha, hb)
            if kernel.reduce == "sum":
                total += float(kernel.mixing.table([za], [zb])[0, 0]) * value
            else:
                total += (1 - alpha) / (len(zx) * len(zy)) * value
                if za == zb:
                    total += alpha * value / (zx.count(za) * zy.count(zb))
    return total


def dense_gram(kernel, xs, ys):
    return torch.tensor([[set_kernel_value(kernel, x, y) for y in ys] for x in xs], dtype=torch.float64)


def kernel_ridge(gram, target, weight, ridge):
    """c = (K + lambda W^-1)^-1 y."""
    return torch.linalg.solve(gram + ridge * torch.diag(1 / weight), target)


def random_batch(seed, n_structures=6, dim=4, species=(1, 6, 8), most=5, float32=False, scale=1.0):
    """A ragged batch with random features, energies and compositions."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, most + 1, n_structures)
    z = generator.choice(np.array(species), sizes.sum())
    h = generator.normal(size=(sizes.sum(), dim)) * scale + 0.3 * z[:, None] / 8
    energy = generator.normal(size=n_structures) + 2.0 * sizes
    return FeatureBatch.from_atoms(
        torch.from_numpy(h.astype(np.float32 if float32 else np.float64)),
        torch.from_numpy(z),
        bounds(torch.from_numpy(sizes)),
        torch.from_numpy(energy),
    )


def with_tangents(batch: FeatureBatch, seed, most=3):
    """Random tangents and labels added to a batch; returns it and the tangents by structure."""
    from dataclasses import replace

    from mekrr_scale.arrays import DirectionLabels, Tangents

    generator = torch.Generator().manual_seed(seed)
    directions = torch.randint(0, most + 1, (batch.n_structures,), generator=generator)
    directions[0] = max(int(directions[0]), 1)
    runs = []
    by_structure = [[] for _ in range(batch.n_structures)]
    for run in batch.runs:
        rows = run.ptr.diff() * directions
        features = torch.randn(int(rows.sum()), run.features.shape[1], generator=generator, dtype=torch.float64)
        ptr = bounds(rows)
        for i in range(batch.n_structures):
            shape = (int(directions[i]), int(run.ptr[i + 1] - run.ptr[i]), features.shape[1])
            part = features[ptr[i] : ptr[i + 1]].reshape(shape)
            by_structure[i].append(part)
        runs.append(replace(run, tangents=Tangents(features, ptr)))
    total = int(directions.sum())
    labels = DirectionLabels(
        bounds(directions),
        torch.randint(1, 3, (total,), generator=generator),
        torch.randn(total, generator=generator, dtype=torch.float64),
        torch.zeros(total, dtype=torch.float64),
    )
    moved = replace(batch, runs=tuple(runs), directions=labels)
    return moved, [torch.cat(parts, 1) for parts in by_structure]


def training_loss(backbone, examples, plan, step=1e-5):
    """w_E <(dE/n)^2> + w_F <dF^2> + w_S <dsigma^2>, derivatives by central differences of the energy."""

    def energy(atoms):
        graph = backbone.graph(atoms)
        with torch.no_grad():
            return float(backbone.forward(graph, graph.positions).energy(graph))

    def slope(atoms, move):
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            move(moved, sign * step)
            ends.append(energy(moved))
        return (ends[0] - ends[1]) / (2 * step)

    def shift(i, c):
        def move(atoms, t):
            atoms.positions[i, c] += t

        return move

    def strain(a, b):
        def move(atoms, t):
            eps = np.eye(3)
            eps[a, b] += t / 2
            eps[b, a] += t / 2
            atoms.set_cell(atoms.cell.array @ eps, scale_atoms=True)

        return move

    squares = [[], [], []]
    for example in examples:
        atoms, labels = example.atoms.copy(), example.labels
        squares[0].append(((energy(atoms) - labels.energy) / len(atoms)) ** 2)
        for i, c in np.ndindex(len(atoms), 3):
            squares[1].append((-slope(atoms, shift(i, c)) - labels.forces[i, c]) ** 2)
        if labels.stress is not None:
            for (a, b), value in np.ndenumerate(voigt_6_to_full_3x3_stress(labels.stress)):
                squares[2].append((slope(atoms, strain(a, b)) / atoms.get_volume() - value) ** 2)
    return sum(weight * np.mean(part) for weight, part in zip(plan.weights, squares, strict=True) if part)

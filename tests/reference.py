"""Slow, obvious twins of the fast paths: loops over atoms and dense algebra in float64."""

from __future__ import annotations

import math

import numpy as np
import torch
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.random import PCG64

from mekrr_scale.arrays import FeatureBatch, RowKind, bounds


def atom_kernel_value(kernel, h, g):
    """k(h, g) from the formula in the literature; of a kernel that has none here, its own, checked in its own test."""
    r = float((h - g).norm())
    dot = float(h @ g)
    match kernel.name:
        case "gaussian":
            value = math.exp(-(r**2) / (2 * kernel.length_scale**2))
        case "matern32":
            q = math.sqrt(3) * r / kernel.length_scale
            value = (1 + q) * math.exp(-q)
        case "matern52":
            q = math.sqrt(5) * r / kernel.length_scale
            value = (1 + q + q**2 / 3) * math.exp(-q)
        case "gaussian-sum":
            value = sum(math.exp(-(r**2) / (2 * s**2)) for s in kernel.length_scales) / len(kernel.length_scales)
        case "linear":
            value = (dot + kernel.offset) / kernel.length_scale**2
        case "polynomial":
            value = (dot / kernel.length_scale**2 + kernel.offset) ** kernel.degree
        case _:
            value = float(kernel.gram(h[None], g[None]))
    return value


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
    """(h - mean) / scale with the vectors of each atom's species, where there are several."""
    at = kernel.transform
    places = [0 if at.species == (0,) else at.species.index(a) for a in z]
    return torch.stack([(f.double() - at.mean[p]) / at.scale[p] for p, f in zip(places, h, strict=True)])


def mixing_value(mixing, a, b):
    """B of two elements: a given matrix, or 1 for the same and 1 - alpha for others."""
    if mixing.matrix:
        return mixing.matrix[mixing.species.index(a)][mixing.species.index(b)]
    return 1.0 if a == b else 1.0 - mixing.alpha


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
                total += mixing_value(kernel.mixing, za, zb) * value
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

    squares = [[], [], []]
    for example in examples:
        atoms, labels = example.atoms.copy(), example.labels
        squares[0].append(((energy(atoms) - labels.energy) / len(atoms)) ** 2)
        for i, c in np.ndindex(len(atoms), 3):
            squares[1].append((-slope(atoms, _shift(i, c)) - labels.forces[i, c]) ** 2)
        if labels.stress is not None:
            for (a, b), value in np.ndenumerate(voigt_6_to_full_3x3_stress(labels.stress)):
                squares[2].append((slope(atoms, _strain(a, b)) / atoms.get_volume() - value) ** 2)
    return sum(weight * np.mean(part) for weight, part in zip(plan.weights, squares, strict=True) if part)


def _shift(i, c):
    def move(atoms, t):
        atoms.positions[i, c] += t

    return move


def _strain(a, b):
    def move(atoms, t):
        eps = np.eye(3)
        eps[a, b] += t / 2
        eps[b, a] += t / 2
        atoms.set_cell(atoms.cell.array @ eps, scale_atoms=True)

    return move


def kernel_columns(kernel, x, landmarks):
    """The design matrix's row of a structure, by loops: one column a set, or two a singleton where ``mean`` mixes."""
    sets = landmark_sets(landmarks)
    alpha = kernel.mixing.alpha
    if kernel.reduce == "sum" or not landmarks.singletons or alpha in (0.0, 1.0):
        return [set_kernel_value(kernel, x, z) for z in sets]
    (zx, hx) = x
    hx = transformed(kernel, zx, hx)
    pooled, own = [], []
    for zb, hb in sets:
        values = [atom_kernel_value(kernel.atom, h, transformed(kernel, zb, hb)[0]) for h in hx]
        pooled.append((1 - alpha) * sum(values) / len(zx))
        same = [v for v, z in zip(values, zx, strict=True) if z == zb[0]]
        own.append(alpha * sum(same) / max(len(same), 1))
    return pooled + own


def landmark_gram(kernel, landmarks):
    """K_ZZ of these columns."""
    sets, alpha = landmark_sets(landmarks), kernel.mixing.alpha
    if kernel.reduce == "sum" or not landmarks.singletons or alpha in (0.0, 1.0):
        return dense_gram(kernel, sets, sets)
    h = [transformed(kernel, z, f)[0] for z, f in sets]
    plain = torch.tensor([[atom_kernel_value(kernel.atom, a, b) for b in h] for a in h], dtype=torch.float64)
    same = (landmarks.species[:, None] == landmarks.species).double()
    return torch.block_diag((1 - alpha) * plain, alpha * same * plain)


def landmark_sets(landmarks):
    """(species, features) of each set."""
    found = []
    for i in range(landmarks.n_sets):
        inside = landmarks.owner == i
        found.append((landmarks.species[inside].tolist(), landmarks.features[inside].double()))
    return found


def dense_rows(problem, batch, tangents, step=1e-5):
    """Every row of a problem, one dictionary each, from DESIGN section 2 alone.

    Args:
        tangents: of each structure [directions, atoms, dim], atoms grouped by species; None for energies alone.
    """
    kernel, rows = problem.kernel, []
    structures = structures_of(batch)
    folds = problem.fold_of(batch).tolist()
    for i, (z, h) in enumerate(structures):
        n = len(z)
        scale = 1 / n if kernel.reduce == "mean" else 1.0
        counts = torch.tensor([z.count(s) for s in problem.baseline.species], dtype=torch.float64)
        if not math.isnan(float(batch.energy[i])):
            weight = 1.0 if kernel.reduce == "mean" else 1 / n**2
            rows.append(
                {
                    "kind": RowKind.ENERGY, "phi": kernel_columns(kernel, (z, h), problem.landmarks),
                    "label": float(batch.energy[i]), "counts": counts, "scale": scale, "weight": weight, "share": 1.0,
                    "fold": folds[i],
                }
            )  # fmt: skip
        labels = batch.directions
        if tangents is None or labels is None:
            continue
        part = slice(int(labels.ptr[i]), int(labels.ptr[i + 1]))
        kinds, values = labels.kind[part].tolist(), labels.label[part].tolist()
        for kind, value, hdot in zip(kinds, values, tangents[i], strict=True):
            ends = [
                torch.tensor(
                    kernel_columns(kernel, (z, h + sign * step * hdot), problem.landmarks), dtype=torch.float64
                )
                for sign in (1, -1)
            ]
            share = 1 / kinds.count(kind)
            per_atom = 1.0 if kind == RowKind.FORCE else 1 / n
            rows.append(
                {
                    "kind": RowKind(kind), "phi": ((ends[0] - ends[1]) / (2 * step)).tolist(), "label": value,
                    "counts": torch.zeros_like(counts), "scale": scale, "weight": share * (per_atom / scale) ** 2,
                    "share": share, "fold": folds[i],
                }
            )  # fmt: skip
    return rows


def dense_fit(rows, gram, weights, ridge, left_out=None):
    """Coefficients and reference energies of the rows but for those of a fold, by augmented least squares."""
    kept = [row for row in rows if row["fold"] != left_out]
    energies = [row for row in kept if row["kind"] == RowKind.ENERGY]
    counts = torch.stack([row["counts"] for row in energies])
    labels = torch.tensor([row["label"] for row in energies], dtype=torch.float64)
    references = torch.linalg.lstsq(counts, labels[:, None], driver="gelsd").solution[:, 0]
    root = torch.tensor([weights[row["kind"]] * row["weight"] for row in kept], dtype=torch.float64).sqrt()
    phi = torch.tensor([row["phi"] for row in kept], dtype=torch.float64)
    target = torch.tensor([dense_residual(row, references) for row in kept], dtype=torch.float64)
    w, v = torch.linalg.eigh(gram)
    keep = w > 1e-12 * w[-1]
    basis = v[:, keep] / w[keep].sqrt()
    tall = torch.cat([root[:, None] * (phi @ basis), math.sqrt(ridge) * torch.eye(basis.shape[1], dtype=torch.float64)])
    right = torch.cat([root * target, torch.zeros(basis.shape[1], dtype=torch.float64)])
    beta = torch.linalg.lstsq(tall, right[:, None], driver="gelsd").solution[:, 0]
    return basis @ beta, references


def dense_residual(row, references):
    """What the kernel has to explain of a row's label."""
    return (row["label"] - float(row["counts"] @ references)) * row["scale"]


def dense_errors(rows, fits):
    """Cross-validated RMSE of every kind of rows, from (coefficients, references) of each fold."""
    squares, shares = dict.fromkeys(RowKind, 0.0), dict.fromkeys(RowKind, 0.0)
    for row in rows:
        coefficients, references = fits[row["fold"]]
        error = float(torch.tensor(row["phi"], dtype=torch.float64) @ coefficients) - dense_residual(row, references)
        squares[row["kind"]] += row["weight"] * error**2
        shares[row["kind"]] += row["share"]
    return {kind: math.sqrt(squares[kind] / shares[kind]) if shares[kind] else math.nan for kind in RowKind}


def dense_typical_errors(rows, fits):
    """The geometric means of the folds' errors."""
    of_folds = [dense_errors([row for row in rows if row["fold"] == fold], fits) for fold in fits]
    found = {kind: [errors[kind] for errors in of_folds if not math.isnan(errors[kind])] for kind in RowKind}
    return {kind: math.prod(own) ** (1 / len(own)) if own else math.nan for kind, own in found.items()}


def invariants(kind, row, irreps, scalars, number):
    """What is taken of one atom's components: channel by channel, product by product."""
    channels = {}
    place = 0
    for multiplicity, degree, parity in irreps:
        for _ in range(multiplicity):
            if degree:
                channels.setdefault((degree, parity), []).append(row[place : place + 2 * degree + 1])
            place += 2 * degree + 1
    found = list(row[:scalars])
    if kind != "scalars":
        found += [float(b @ b) for members in channels.values() for b in members]
    for (degree, _), members in channels.items() if kind == "products" else ():
        top = [int(raw) >> 63 for raw in PCG64([number, degree]).random_raw(128 * len(members))]
        signs = [[(-1) ** bit for bit in top[i : i + len(members)]] for i in range(0, len(top), len(members))]
        for k in range(64):
            left = sum(sign * b for sign, b in zip(signs[k], members, strict=True)) / math.sqrt(len(members))
            right = sum(sign * b for sign, b in zip(signs[64 + k], members, strict=True)) / math.sqrt(len(members))
            found.append(float(left @ right))
    return np.array(found)

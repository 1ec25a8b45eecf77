"""Splits without leaks: copies and near-copies of a structure stay on one side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from jaxtyping import Float64, Int64
from numpy import ndarray

from mekrr_scale.errors import ConfigError
from mekrr_scale.structures import build_graph, edge_vectors

_BINS = np.linspace(0.5, 5.0, 46)  # angstrom
_WIDTH = 0.1


@dataclass(frozen=True)
class Split:
    """Indices of each part, and the pairs that look alike."""

    parts: tuple[Int64[ndarray, " _"], ...]
    duplicates: tuple[tuple[int, int], ...]
    near_duplicates: tuple[tuple[int, int], ...]


def split(
    structures: Sequence[Atoms],
    fractions: Sequence[float],
    seed: int = 0,
    tolerance: float = 0.02,
    group_key: str | None = None,
) -> Split:
    """Divide structures at random; near-duplicates and members of a group stay together.

    Two structures are near-duplicates if their fingerprints, smeared histograms of interatomic
    distances by pair of elements, differ by less than ``tolerance`` (relative). They are found
    among structures of equal composition, by comparing each with all: meant for up to some 10^4.

    Args:
        fractions: of the parts; they must add up to 1.
        group_key: info key of the trajectory.

    Raises:
        ConfigError: fractions that do not add up, or a group key that is missing.
    """
    if not fractions or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(f"fractions {list(fractions)} must be positive and add up to 1, e.g. 0.8,0.1,0.1")
    if len(structures) < len(fractions):
        raise ConfigError(f"{len(structures)} structures cannot be split into {len(fractions)} parts")
    same, near = near_duplicates(structures, tolerance)
    parent = np.arange(len(structures))
    for a, b in (*same, *near):
        parent[_root(parent, b)] = _root(parent, a)
    if group_key is not None:
        first: dict[str, int] = {}
        for i, atoms in enumerate(structures):
            if group_key not in atoms.info:
                raise ConfigError(f"structure {i} has no info key {group_key!r}; leave --group-key out")
            other = first.setdefault(str(atoms.info[group_key]), i)
            parent[_root(parent, i)] = _root(parent, other)
    roots = np.array([_root(parent, i) for i in range(len(structures))])
    clusters = [np.flatnonzero(roots == root) for root in np.unique(roots)]
    generator = np.random.default_rng(seed)
    order = sorted(generator.permutation(len(clusters)), key=lambda c: -len(clusters[c]))  # largest first
    parts: list[list[int]] = [[] for _ in fractions]
    for c in order:
        missing = [f * len(structures) - len(part) for f, part in zip(fractions, parts, strict=True)]
        parts[int(np.argmax(missing))] += clusters[c].tolist()
    return Split(tuple(np.array(sorted(part), dtype=np.int64) for part in parts), tuple(same), tuple(near))


def near_duplicates(
    structures: Sequence[Atoms], tolerance: float
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs with equal positions and cells, and other pairs whose fingerprints nearly agree."""
    by_formula: dict[str, list[int]] = {}
    for i, atoms in enumerate(structures):
        by_formula.setdefault(atoms.get_chemical_formula(), []).append(i)
    same: list[tuple[int, int]] = []
    near: list[tuple[int, int]] = []
    for members in by_formula.values():
        prints = np.stack([fingerprint(structures[i]) for i in members])
        norms = np.linalg.norm(prints, axis=1).clip(1e-12)
        for a in range(len(members)):
            distance = np.linalg.norm(prints[a + 1 :] - prints[a], axis=1) / norms[a]
            for b in np.flatnonzero(distance < tolerance):
                pair = (members[a], members[a + 1 + int(b)])
                (same if _equal(structures[pair[0]], structures[pair[1]]) else near).append(pair)
    return same, near


def fingerprint(atoms: Atoms) -> Float64[ndarray, " bins"]:
    """Smeared histogram of distances up to 5 angstrom for every pair of elements, per atom."""
    graph = build_graph(atoms, float(_BINS[-1]))
    lengths = edge_vectors(graph, graph.positions).norm(dim=1).numpy()
    numbers = np.asarray(atoms.numbers)
    pairs = [(a, b) for a in np.unique(numbers) for b in np.unique(numbers) if a <= b]
    ends = np.sort(numbers[graph.edge_index.numpy()], axis=0)
    rows = []
    for a, b in pairs:
        chosen = lengths[(ends[0] == a) & (ends[1] == b)]
        rows.append(np.exp(-(((_BINS[:, None] - chosen) / _WIDTH) ** 2) / 2).sum(1) / len(atoms))
    return np.concatenate(rows)


def _equal(a: Atoms, b: Atoms) -> bool:
    return bool(
        np.array_equal(a.numbers, b.numbers)
        and np.allclose(a.positions, b.positions, atol=1e-6)
        and np.allclose(a.cell.array, b.cell.array, atol=1e-6)
    )


def _root(parent: Int64[ndarray, " structures"], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = int(parent[i])
    return i

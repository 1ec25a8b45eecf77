"""Neighbour lists in random cells against loops over images, and against those of ASE and matscipy."""

from itertools import product

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from mekrr_scale.structures import SkinList, build_graph, edge_vectors
from mekrr_scale.structures.neighbours import neighbours

NEAR = 1e-9  # angstrom: pairs as near to the cutoff are in or out by rounding
FULL = [(True, True, True)]


@st.composite
def cells(draw, periodic=tuple(product((True, False), repeat=3))):
    """Up to five atoms, not all in the cell, which is skewed, left-handed, flat or long; and a cutoff."""
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    lengths = np.array(draw(st.lists(st.sampled_from([1.5, 2.5, 4.0, 9.0]), min_size=3, max_size=3)))
    skew = draw(st.sampled_from([0.0, 0.4, 0.8]))
    cell = (np.eye(3) + skew * generator.uniform(-1, 1, (3, 3)).round(3)) * lengths[:, None]
    cell = cell[generator.permutation(3)]
    if abs(np.linalg.det(cell)) < 0.1 * np.prod(np.linalg.norm(cell, axis=1)):
        cell = np.diag(lengths)
    count = draw(st.integers(1, 5))
    places = generator.uniform(-2, 3, (count, 3)) if draw(st.booleans()) else generator.uniform(0, 1, (count, 3))
    atoms = Atoms("H" * count, scaled_positions=places, cell=cell, pbc=draw(st.sampled_from(periodic)))
    return atoms, draw(st.sampled_from([0.7, 2.0, 3.7]))


def brute(atoms, cutoff):
    """{(i, j, shift): distance} by all images within reach."""
    heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    spread = np.ptp(atoms.positions @ np.linalg.inv(atoms.cell.array), axis=0)
    reach = np.where(atoms.pbc, np.ceil(cutoff / heights + spread), 0).astype(int)
    found = {}
    for shift in product(*(range(-n, n + 1) for n in reach)):
        between = atoms.positions[None] + np.array(shift) @ atoms.cell.array - atoms.positions[:, None]
        length = np.linalg.norm(between, axis=-1)
        for i, j in zip(*np.nonzero(length < cutoff), strict=True):
            if i != j or any(shift):
                found[int(i), int(j), *shift] = length[i, j]
    return found


def listed(i, j, shift):
    pairs = [(int(a), int(b), *map(int, s)) for a, b, s in zip(i, j, shift, strict=True)]
    assert len(pairs) == len(set(pairs))
    return set(pairs)


def same(found, expected, cutoff):
    """All pairs, but for those that stand at the cutoff itself."""
    return all(abs(expected.get(pair, cutoff) - cutoff) < NEAR for pair in found ^ set(expected))


@settings(max_examples=150)
@given(cells())
def test_pairs_are_those_of_all_images(drawn):
    atoms, cutoff = drawn
    expected = brute(atoms, cutoff)
    found = listed(*neighbours(atoms, cutoff))
    assert same(found, expected, cutoff)
    assert same(listed(*neighbor_list("ijS", atoms, cutoff, self_interaction=False)), expected, cutoff)
    half = listed(*neighbours(atoms, cutoff, full=False))
    turned = {(j, i, *(-x for x in shift)) for i, j, *shift in half}
    assert not half & turned
    assert half | turned == found


@settings(max_examples=60)
@given(cells(FULL))
def test_pairs_are_those_of_matscipy(drawn):
    matscipy = pytest.importorskip("matscipy.neighbours")
    atoms, cutoff = drawn
    found, theirs = listed(*neighbours(atoms, cutoff)), listed(*matscipy.neighbour_list("ijS", atoms, cutoff))
    distances = brute(atoms, cutoff)
    assert all(abs(distances.get(pair, cutoff) - cutoff) < NEAR for pair in found ^ theirs)


@settings(max_examples=60)
@given(cells(), st.integers(0, 2**32 - 1))
def test_lists_with_a_skin_are_those_made_anew(drawn, seed):
    """While atoms move within the skin, and beyond it."""
    atoms, cutoff = drawn
    generator = np.random.default_rng(seed)
    skin = SkinList(cutoff, 0.4)
    for size in (0.0, 0.1, 0.05, 0.6):
        atoms.positions += size * generator.uniform(-1, 1, atoms.positions.shape) / np.sqrt(3)
        if min(brute(atoms, cutoff).values(), default=1.0) < 1e-2:
            return  # atoms at one place are refused
        kept, fresh = skin.graph(atoms), build_graph(atoms, cutoff)
        lengths = [np.sort(edge_vectors(g, g.positions).norm(dim=1).numpy()) for g in (kept, fresh)]
        if min((abs(r - cutoff) for r in brute(atoms, cutoff + 0.1).values()), default=1.0) > NEAR:
            np.testing.assert_allclose(*lengths, rtol=0, atol=1e-10)

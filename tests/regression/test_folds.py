"""Folds that do not leak: copies, blocks of frames that are alike, elements that one fold alone holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mekrr_scale.arrays import FeatureBatch, bounds, draw
from mekrr_scale.models import fit_baseline
from mekrr_scale.regression import assign_folds, refit_shift
from tests import reference


def batch_of(structures, groups=None):
    """Structures of one size each: arrays [atoms, dim], with their species."""
    sizes = torch.tensor([len(z) for z, _ in structures])
    features = torch.from_numpy(np.concatenate([h for _, h in structures]))
    species = torch.from_numpy(np.concatenate([z for z, _ in structures]))
    energies = torch.linspace(-9.0, -8.0, len(structures)).double()
    return FeatureBatch.from_atoms(features, species, bounds(sizes), energies, groups)


def water(generator, spread=1.0):
    return np.array([1, 1, 8]), np.array([[0.5], [0.6], [3.0]]) + spread * generator.normal(size=(3, 8))


def plain(batch, count):
    """Folds by content alone, as version 0.1.0 made them."""
    keys = np.unique(draw(batch.ids.numpy().astype(np.uint64) * np.uint64(2), -1))
    own = draw(batch.ids.numpy().astype(np.uint64) * np.uint64(2), -1)
    return torch.from_numpy(np.searchsorted(keys, own) % count)


@pytest.mark.parametrize("seed", range(4))
def test_uncorrelated_structures_keep_their_folds(seed):
    """Bit by bit those of version 0.1.0, for single precision and for several compositions."""
    batch = reference.random_batch(seed, n_structures=50, float32=seed % 2 == 0)
    folds = assign_folds([batch], 5)
    assert torch.equal(folds.of(batch), plain(batch, 5))
    assert "at random" in folds.remarks[0]
    assert folds.identity == {}  # states of fits that began before go on


@pytest.mark.parametrize("kind", ["moved", "permuted", "repeated", "shaken"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_copies_go_together(kind, dtype):
    """A third of the structures has copies: rounded elsewhere, atoms in another order, twice the cell, shaken."""
    generator = np.random.default_rng(3)
    listed = [water(generator) for _ in range(40)]
    for z, h in listed[:14]:
        noise = generator.normal(size=h.shape)
        order = [1, 0, 2] if kind == "permuted" else [0, 1, 2]
        copy = z[order], (h + {"shaken": 0.01}.get(kind, 3e-7) * noise)[order]
        listed.append((np.tile(copy[0], 2), np.tile(copy[1], (2, 1))) if kind == "repeated" else copy)
    order = generator.permutation(len(listed))
    batch = batch_of([(listed[i][0], listed[i][1].astype(dtype)) for i in order])
    folds = assign_folds([batch], 5)
    found = folds.of(batch)[torch.from_numpy(np.argsort(order))]
    assert torch.equal(found[:14], found[40:])
    assert not torch.equal(plain(batch, 5)[torch.from_numpy(np.argsort(order))][:14], found[40:])
    assert folds.remarks[1] == "14 copies of others stay in the same fold (features alike)"
    sizes = torch.bincount(found[:40], minlength=5)
    assert int(sizes.max() - sizes.min()) <= 1


def test_copies_join_the_trajectory_of_no_other():
    """Trajectories that are named begin at one structure most often: they stay as they were named."""
    generator = np.random.default_rng(4)
    start = water(generator)
    frames = [start if i % 6 == 0 else water(generator) for i in range(36)]
    batch = batch_of(frames, torch.arange(36) // 6)
    found = assign_folds([batch], 3).of(batch)
    assert torch.bincount(found).tolist() == [12, 12, 12]
    assert "as --group-key named them" in assign_folds([batch], 3).remarks[0]


def test_too_few_structures_beside_copies_are_said():
    generator = np.random.default_rng(5)
    one, other = water(generator), water(generator)
    listed = [(z, h + 1e-9 * generator.normal(size=h.shape)) for z, h in [one, other] * 6]
    folds = assign_folds([batch_of(listed)], 5)
    assert torch.equal(folds.of(batch_of(listed)), plain(batch_of(listed), 5))
    assert "too few for 5" in folds.remarks[0]


def walk(generator, count, keep=0.95):
    """Frames of a trajectory: each most like the one before."""
    frames, (z, h) = [], water(generator)
    mean = h.copy()
    for _ in range(count):
        h = mean + keep * (h - mean) + (1 - keep**2) ** 0.5 * generator.normal(size=h.shape)
        frames.append((z, h))
    return frames


def neighbours_together(folds):
    return float((folds[1:] == folds[:-1]).double().mean())


def test_frames_that_are_alike_make_blocks():
    batch = batch_of(walk(np.random.default_rng(6), 100))
    folds = assign_folds([batch], 5)
    found = folds.of(batch)
    assert found.tolist() == sorted(found.tolist())
    assert torch.bincount(found).tolist() == [20] * 5
    assert "5 blocks of consecutive frames" in folds.remarks[0]
    assert "--group-key" in folds.remarks[0]
    assert folds.identity != assign_folds([batch], 4).identity != {}
    # the same for any cut into batches, and for any other order of what does not follow one another
    pieces = [batch.take((torch.arange(100) // 13) == i) for i in range(8)]
    assert torch.equal(assign_folds(pieces, 5).of(batch), found)
    placed = [(13 * i, piece) for i, piece in enumerate(pieces)][::-1]
    assert torch.equal(assign_folds(pieces[::-1], 5, placed=placed).of(batch), found)
    # named trajectories need none
    named = replace(batch, groups=torch.arange(100) // 10)
    assert "as --group-key named them" in assign_folds([named], 5).remarks[0]
    # a shuffled one does not show that frames follow one another
    shuffled = batch_of([walk(np.random.default_rng(6), 100)[i] for i in np.random.default_rng(0).permutation(100)])
    assert torch.equal(assign_folds([shuffled], 5).of(shuffled), plain(shuffled, 5))


def test_several_trajectories_and_other_structures():
    """Two trajectories of one molecule and one of another are cut each; what does not correlate stays at random."""
    generator = np.random.default_rng(7)
    methane = [(np.array([1, 6]), generator.normal(size=(2, 8))) for _ in range(30)]
    ammonia = [(np.array([7]), h[:1]) for _, h in walk(generator, 40)]
    batch = batch_of([*walk(generator, 40), *methane, *walk(generator, 40), *ammonia])
    found = assign_folds([batch], 4).of(batch)
    for first in (0, 70, 110):
        part = found[first : first + 40]
        assert neighbours_together(part) > 0.9
        assert torch.bincount(part, minlength=4).tolist() == [10] * 4
    free = found[40:70]
    assert neighbours_together(free) < 0.6
    assert int(torch.bincount(free, minlength=4).max()) <= 8


def test_copies_of_frames_follow_the_first_block():
    generator = np.random.default_rng(8)
    frames = walk(generator, 80)
    batch = batch_of([*frames, *(frames[i] for i in (5, 25, 45, 65))])
    batch = replace(batch, ids=torch.arange(84) * 6364136 + 17)  # other labels: not the same to the hash
    found = assign_folds([batch], 4).of(batch)
    assert found[80:].tolist() == found[[5, 25, 45, 65]].tolist()


def test_an_element_in_one_structure_borrows_its_reference():
    """Left out, its fold knows nothing of the element: zero instead of -100 eV was what 0.1.0 compared with."""
    generator = np.random.default_rng(9)
    listed = [water(generator) for _ in range(19)] + [(np.array([1, 8, 32]), generator.normal(size=(3, 8)))]
    batch = batch_of(listed)
    energies = -3.0 * batch.counts((1, 8, 32)).double() @ torch.tensor([1.0, 4.0, 30.0]).double()
    batch = replace(batch, energy=energies + 0.01 * torch.from_numpy(generator.normal(size=20)))
    folds = assign_folds([batch], 4)
    assert "Ge is in 1 structure of one fold" in folds.remarks[-1]
    baseline = fit_baseline([batch], "composition")
    fold, counts = folds.of(batch), batch.counts(baseline.species).double()
    for f in range(4):
        n = counts[fold != f]
        shift = refit_shift(baseline, n.T @ n, n.T @ baseline.residual(batch)[fold != f])
        errors = batch.energy - counts @ (baseline.energies + shift)
        assert float(errors[fold == f].abs().max()) < 0.1
        known = torch.linalg.lstsq(n, batch.energy[fold != f, None], driver="gelsd").solution[:, 0]
        if bool((n > 0).any(0).all()):  # an element that the part holds is fitted to the part, to the last digits
            torch.testing.assert_close(n @ (baseline.energies + shift), n @ known, rtol=1e-9, atol=1e-9)

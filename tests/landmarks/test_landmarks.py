"""What every method of choosing landmarks has to satisfy; a new one is picked up from the table."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mekrr_scale.arrays import FeatureBatch, alone
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, fit_transform
from mekrr_scale.landmarks import (
    METHODS,
    Displaced,
    LandmarkMethod,
    LeverageScores,
    Pool,
    Uniform,
    Warm,
    WholeStructures,
    choose,
    draw_pool,
    landmark_method,
    median_distance,
)
from tests import reference


@pytest.fixture(scope="module")
def batch():
    return reference.random_batch(0, n_structures=40)


@pytest.fixture(scope="module")
def kernel(batch):
    return SetKernel(Gaussian(1.6), SpeciesMixing(0.4), "sum", fit_transform([batch], "scale-per-species"))


def same(a, b):
    return torch.equal(a.features, b.features) and torch.equal(a.species, b.species) and torch.equal(a.owner, b.owner)


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name, batch, kernel):
    method = landmark_method(name, 12, seed=3)
    assert isinstance(method, LandmarkMethod)
    assert isinstance(method.tangents, bool)
    chosen = choose(method, [batch], kernel)
    assert chosen.n_sets == 12
    stored = torch.cat([run.features for run in batch.runs])
    assert all(bool((stored == feature).all(1).any()) for feature in chosen.features)
    # the choice is one of content: neither order nor split of the structures, but the seed
    odd = torch.arange(batch.n_structures) % 3 == 1
    assert same(chosen, choose(method, [batch.take(odd), batch.take(~odd)], kernel))
    assert same(chosen, choose(landmark_method(name, 12, seed=3), [batch], kernel))
    assert not same(chosen, choose(landmark_method(name, 12, seed=4), [batch], kernel))
    with pytest.raises(ConfigError, match=r"10000 (landmarks|structures)"):
        choose(landmark_method(name, 10_000), [batch], kernel)
    for count in (0, -1):
        if (name, count) != ("structures", 0):  # all of them
            with pytest.raises(ConfigError, match="ask for at least one"):
                choose(landmark_method(name, count), [batch], kernel)


def test_methods_by_name():
    assert landmark_method("uniform", 5, 2, "equal") == Uniform(5, 2, "equal")
    assert landmark_method("structures", 5, 2, "equal") == WholeStructures(5, 2)
    assert landmark_method("leverage", 5, ridge=1e-3) == LeverageScores(5, ridge=1e-3)
    with pytest.raises(ConfigError, match="Do you mean 'leverage'"):
        landmark_method("leverages", 5)
    with pytest.raises(ConfigError, match="Do you mean 'ridge'"):
        landmark_method("leverage", 5, ridges=1e-3)


def test_which_methods_need_tangents(batch, kernel):
    chosen = Uniform(3).select([batch], kernel)
    assert Displaced(3).tangents
    assert Warm(chosen, Displaced(3)).tangents
    assert not Warm(chosen, Uniform(3)).tangents
    assert not Warm(chosen, None).tangents


def test_median_distance(batch, kernel):
    """Of all pairs, where the sample holds every atom; the same for any split."""
    points = torch.cat([kernel.transform.apply(run.z, run.features, torch.float64) for run in batch.runs])
    expected = float(torch.pdist(points).median())
    assert median_distance([batch], kernel.transform, 0) == pytest.approx(expected, rel=1e-12)
    odd = torch.arange(batch.n_structures) % 2 == 1
    parts = [batch.take(odd), batch.take(~odd)]
    assert median_distance(parts, kernel.transform, 1, 20) == median_distance([batch], kernel.transform, 1, 20)
    one = reference.random_batch(0, n_structures=1, most=1)
    with pytest.raises(ConfigError, match="the same features"):
        median_distance([one], fit_transform([one], "none"), 0)


def test_leverage_scores_are_drawn_afresh(kernel):
    """The pool is the atoms with the lowest draws: if these drew again, the lowest of all would nearly always win.

    Of 4000 equal atoms (their scores are the same) the pool holds 2000, of which 200 are taken: in the order of the
    pool they are spread evenly, and not its first ones.
    """
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4000, 4, generator=generator, dtype=torch.float64) * 5
    atoms = alone(features, torch.full((4000,), 6))
    atoms = replace(atoms, ids=torch.arange(4000) * 7919 + 13)
    kernel = SetKernel(Gaussian(0.05), SpeciesMixing(0.0), "sum", fit_transform([atoms], "none"))
    pool = draw_pool([atoms], 2000, 5)
    chosen = LeverageScores(200, seed=5).select([atoms], kernel)
    places = {tuple(f): i for i, f in enumerate(pool.features[6].tolist())}
    found = sorted(places[tuple(f)] for f in chosen.features.tolist())
    assert len(set(found)) == 200
    # the first 200 are the sample that scores are measured against: known, they are worth nothing
    inside = [place for place in found if place >= 200]
    assert len(inside) > 190
    quarters = np.histogram(inside, bins=4, range=(200, 2000))[0]
    assert quarters.min() > 0.7 * len(inside) / 4


def test_leverage_follows_the_scores():
    """Atoms of a sparse region, hard to tell from others, are taken far more often than their share."""
    generator = torch.Generator().manual_seed(1)
    dense = 0.05 * torch.randn(1900, 3, generator=generator, dtype=torch.float64)
    sparse = 6.0 + 2.0 * torch.randn(100, 3, generator=generator, dtype=torch.float64)
    atoms = alone(torch.cat([dense, sparse]), torch.full((2000,), 6))
    kernel = SetKernel(Gaussian(1.0), SpeciesMixing(0.0), "sum", fit_transform([atoms], "none"))
    parts = {}
    for name, method in (("uniform", Uniform(60)), ("leverage", LeverageScores(60, pool=40))):
        parts[name] = float((choose(method, [atoms], kernel).features[:, 0] > 1.0).double().mean())
    assert parts["uniform"] < 0.15
    assert parts["leverage"] > 0.5


def test_displaced_copies_move_along_tangents_by_the_amplitude():
    """h + sum_u c_u hdot_u: in the span of the tangents, and as far as coordinates that move by the amplitude."""
    count, dim, amplitude = 6, 40, 0.05
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    moves = torch.zeros(3, count, dim, dtype=torch.float64)
    for u in range(3):
        moves[u, :, u] = 1.0  # every direction moves a component of its own
    one = FeatureBatch.unlabelled(features, torch.full((count,), 6), torch.tensor([count]), moves)
    one = replace(one, ids=torch.tensor([17]))
    kernel = SetKernel(Gaussian(1.0), SpeciesMixing(0.0), "sum", fit_transform([one], "none"))
    chosen = Displaced(40 * count, amplitude=amplitude).select([one], kernel)
    nearest = torch.cdist(chosen.features[count:], features).min(1)
    assert chosen.n_sets == 40 * count
    steps = chosen.features[count:] - features[nearest.indices]
    assert bool((steps[:, 3:] == 0).all())
    # three directions stand for 3 n = 18 coordinates: each carries sqrt(18 / 3) of the amplitude
    expected = amplitude * (3 * count / 3) ** 0.5
    assert float(steps[:, :3].square().mean().sqrt()) == pytest.approx(expected, rel=0.1)
    assert torch.bincount(nearest.indices).tolist() == [39] * count


def test_batches_without_displacements_give_no_copies():
    """However structures with and without are dealt out; of none at all the user is told."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    moves = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    species, size = torch.full((4,), 6), torch.tensor([4])
    first = replace(FeatureBatch.unlabelled(features[0], species, size, moves), ids=torch.tensor([17]))
    without = replace(FeatureBatch.unlabelled(features[1], species, size), ids=torch.tensor([4]))
    kernel = SetKernel(Gaussian(1.0), SpeciesMixing(0.0), "sum", fit_transform([first, without], "none"))
    found = Displaced(12).select([first, without], kernel)
    assert same(found, Displaced(12).select([without, first], kernel))
    assert found.n_sets == 12  # four of the first are displaced
    with pytest.raises(ConfigError, match="extract with --derivatives"):
        Displaced(12).select([without], kernel)


@pytest.mark.parametrize(
    ("balance", "count", "expected"),
    [
        ("proportional", 100, {1: 64, 6: 32, 8: 4}),
        ("sqrt", 70, {1: 36, 6: 25, 8: 9}),  # roots 25.3, 17.9, 6.3: 35.8, 25.3 and 8.9 of 70
        ("equal", 60, {1: 25, 6: 25, 8: 10}),  # oxygen has no more than ten candidates
        ("equal", 10_000, {1: 640, 6: 320, 8: 10}),
    ],
)
def test_shares_of_the_elements(balance, count, expected):
    counts = {1: 640, 6: 320, 8: 40}
    candidates = {1: 640, 6: 320, 8: 10}
    features = {z: torch.zeros(n, 1) for z, n in candidates.items()}
    draws = {z: np.arange(n, dtype=np.uint64) for z, n in candidates.items()}
    assert Pool(features, draws, counts).share(count, balance) == expected


@settings(max_examples=150)
@given(
    st.dictionaries(st.integers(1, 118), st.tuples(st.integers(1, 9999), st.integers(1, 500)), min_size=1, max_size=5),
    st.integers(1, 3000),
    st.sampled_from(["proportional", "sqrt", "equal"]),
    st.integers(1, 3),
)
def test_shares_of_any_elements(atoms, count, balance, copies):
    """All landmarks are given as far as there are candidates, and by the weights where none runs out."""
    counts = {z: n for z, (n, _) in atoms.items()}
    candidates = {z: min(n, most) for z, (n, most) in atoms.items()}
    features = {z: torch.zeros(n, 1) for z, n in candidates.items()}
    found = Pool(features, {}, counts).share(count, balance, copies)
    there = {z: copies * n for z, n in candidates.items()}
    assert sum(found.values()) == min(count, sum(there.values()))
    assert all(0 <= n <= there[z] for z, n in found.items())
    power = {"proportional": 1.0, "sqrt": 0.5, "equal": 0.0}[balance]
    weights = {z: n**power for z, n in counts.items()}
    ideal = {z: count * w / sum(weights.values()) for z, w in weights.items()}
    if all(found[z] < there[z] for z in found):
        assert all(abs(found[z] - ideal[z]) < 1 for z in found)
    for a in found:  # who weighs more gets no less, but for one of rounding, unless it has no more candidates
        for b in found:
            if weights[a] > weights[b] and found[a] < there[a]:
                assert found[a] >= found[b] - 1
    turned = dict(reversed(features.items()))
    assert Pool(turned, {}, counts).share(count, balance, copies) == found

"""What every method of choosing landmarks has to satisfy; a new one is picked up from the table."""

import pytest
import torch

from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, fit_transform
from mekrr_scale.landmarks import (
    METHODS,
    Displaced,
    LandmarkMethod,
    LeverageScores,
    Uniform,
    Warm,
    WholeStructures,
    choose,
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

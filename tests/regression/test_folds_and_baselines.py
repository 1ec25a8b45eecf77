"""Folds and baselines of random problems."""

from dataclasses import replace

import pytest
import torch

from mekrr_scale.arrays import FeatureBatch
from mekrr_scale.errors import ConfigError
from mekrr_scale.models import fit_baseline
from mekrr_scale.regression import (
    assign_folds,
)
from tests import reference


def test_folds_are_balanced_and_keep_groups_together():
    batch = reference.random_batch(0, n_structures=31)
    sizes = torch.bincount(assign_folds([batch], 4).of(batch))
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    assert int(sizes.max() - sizes.min()) <= 1
    grouped = replace(batch, groups=torch.arange(31) // 5)
    folds = assign_folds([grouped], 3).of(grouped)
    assert all(len(set(folds[grouped.groups == g].tolist())) == 1 for g in range(7))


def test_baseline_is_the_minimum_norm_least_squares_fit():
    batch = reference.random_batch(3, n_structures=20)
    counts = batch.counts(batch.species).double()
    expected = torch.linalg.pinv(counts) @ batch.energy
    torch.testing.assert_close(fit_baseline([batch], "composition").energies, expected, rtol=1e-10, atol=1e-10)
    water = FeatureBatch.from_atoms(
        torch.zeros(12, 1), torch.tensor([1, 1, 8] * 4), torch.tensor([0, 3, 6, 12]), torch.tensor([-3.0, -3.1, -6.2])
    )
    counts = water.counts((1, 8)).double()
    expected = torch.linalg.pinv(counts) @ water.energy
    torch.testing.assert_close(fit_baseline([water], "composition").energies, expected, rtol=1e-8, atol=1e-8)
    with pytest.raises(ConfigError, match="needs an energy for species"):
        fit_baseline([water], "isolated", {1: -0.5})
    assert fit_baseline([water], "isolated", {1: -0.5, 8: -2.0}).energies.tolist() == [-0.5, -2.0]
    with pytest.raises(ConfigError, match="no backbone energies"):
        fit_baseline([water], "backbone")

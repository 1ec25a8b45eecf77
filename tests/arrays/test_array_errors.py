"""Arrays that do not fit together."""

import pytest
import torch

from mekrr_scale.arrays import ByKind, FeatureBatch, Landmarks, SpeciesRun
from mekrr_scale.errors import ConfigError


def of_atoms(rows, species, ptr):
    return FeatureBatch.from_atoms(
        torch.zeros(rows, 2), torch.tensor(species), torch.tensor(ptr), torch.zeros(len(ptr) - 1, dtype=torch.float64)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpeciesRun(6, torch.zeros(3, 2), torch.tensor([0, 2])), "6: 3 feature rows, but ptr runs from 0 to 2"),
        (lambda: SpeciesRun(6, torch.zeros(3, 2), torch.tensor([1, 3])), "ptr runs from 1 to 3; it must start at 0"),
        (lambda: of_atoms(3, [1, 1, 1], [0, 2]), "3 feature rows, 3 species and ptr up to 2: all three must agree"),
        (lambda: of_atoms(2, [1, 1], [0, 3, 2]), "all three must agree and ptr must ascend"),
        (lambda: ByKind((1.0,)), "1 values for 4 kinds of rows"),
        (lambda: ByKind.from_list([1.0] * 5, 0.0), "give at most 4 values"),
        (lambda: Landmarks(torch.zeros(2, 1), torch.tensor([6, 1]), torch.arange(2), 2), "must be ordered by species"),
        (lambda: Landmarks(torch.zeros(0, 1), torch.arange(0), torch.arange(0), 0), "there are no landmarks"),
    ],
)  # fmt: skip
def test_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()

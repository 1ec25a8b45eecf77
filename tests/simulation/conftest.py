"""What runs begin with."""

import pytest
import torch

from mekrr_scale.models import MekrrCalculator


@pytest.fixture
def calculator(model_file):
    return MekrrCalculator(model_file, dtype=torch.float64)


@pytest.fixture
def start(toy_structures):
    """A structure that the toy model knows."""
    return next(a for a in toy_structures if len(a) == 3).copy()

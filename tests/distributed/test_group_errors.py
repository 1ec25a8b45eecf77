"""A first rank that does not answer."""

import threading

import pytest
from torch.distributed import HashStore

from mekrr_scale.distributed import Group
from mekrr_scale.errors import RankError


def test_a_store_that_does_not_answer():
    class Silent(HashStore):
        def add(self, name, amount):
            threading.Event().wait()

    group = Group(1, 2, store=Silent(), limit=0.05)
    with pytest.raises(RankError, match="lost the others.*the first rank did not answer in 0.05 seconds"):
        group.count("steps")
    with pytest.raises(RankError, match="did not answer in 0.01 seconds"):
        group.count("steps", limit=0.01)


def test_an_error_of_the_store_is_told():
    class Broken(HashStore):
        def add(self, name, amount):
            raise RuntimeError("Connection reset\nmore")

    with pytest.raises(RankError, match=r"lost the others; .* \(Connection reset\)$"):
        Group(1, 2, store=Broken()).count("steps")

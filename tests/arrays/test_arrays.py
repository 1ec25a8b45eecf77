"""What is given for every kind of row."""

import json
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest

from mekrr_scale.arrays import ByKind, RowKind, draw, uniform
from mekrr_scale.errors import ConfigError


def test_values_for_every_kind_are_a_mapping_and_a_list():
    weights = ByKind.of({RowKind.ENERGY: 1.0, RowKind.FORCE: 0.01}, default=0.0)
    assert list(weights) == list(RowKind)
    assert dict(weights) == {**dict.fromkeys(RowKind, 0.0), RowKind.ENERGY: 1.0, RowKind.FORCE: 0.01}
    assert json.loads(json.dumps(weights.listed(0.0))) == [1.0, 0.01, 0.0]
    assert weights.map(str).entries[:2] == ("1.0", "0.01")


def test_shorter_lists_of_older_files_are_filled_and_longer_ones_refused():
    assert ByKind.from_list([1.0], default=0.0) == ByKind.of({RowKind.ENERGY: 1.0}, 0.0)
    with pytest.raises(ConfigError, match="energy, force, stress"):
        ByKind.from_list([0.0] * (len(RowKind) + 1), default=0.0)
    with pytest.raises(ConfigError, match="energy, force, stress"):
        ByKind((1.0,))


def test_equal_content_is_equal_in_sets_in_configurations_and_in_pickles():
    a = ByKind.of({RowKind.ENERGY: 1.0, RowKind.FORCE: 2.0}, 0.0)
    b = ByKind.from_list((1.0, 2.0), default=0.0)
    assert a == b
    assert len({a, b}) == 1
    assert pickle.loads(pickle.dumps(a)) == a

    @dataclass(frozen=True)
    class Plan:
        weights: ByKind[float] = a

    assert replace(Plan(), weights=b) == Plan()
    assert repr(Plan()).endswith(f"Plan(weights=ByKind(entries={a.entries}))")


@pytest.mark.parametrize(
    ("state", "published"),
    [
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]),
        (
            1234567,
            [
                *(6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431),
                16408922859458223821,
            ],
        ),
    ],
)
def test_draws_are_those_of_splitmix64(state, published):
    """Published numbers (prng.di.unimi.it/splitmix64.c): the choice of landmarks is the same for ever."""
    values = np.array([state], dtype=np.uint64)
    assert [int(draw(values, k)[0]) for k in range(len(published))] == published
    expected = [(number >> 11) / 2**53 for number in published]
    assert [float(uniform(values, k)[0]) for k in range(len(published))] == expected

"""Structures to a shard's arrays and back, with everything that only some of them have."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from mekrr_scale.store import FeatureStore, FeatureWriter
from mekrr_scale.store.shard import RecordTangents, StructureRecord, records_of, shard_arrays
from mekrr_scale.structures import Labels


def record(generator, index, **given):
    n = int(generator.integers(1, 6))
    numbers = generator.choice([1, 8, 29], n).astype(np.int64)
    return StructureRecord(numbers, generator.normal(size=(n, 3)), id=100 + index, index=index, **given)


def tangents_of(generator, made, count):
    labels = generator.normal(size=(2, count))
    kind = generator.integers(1, 3, count).astype(np.uint8)
    return RecordTangents(generator.normal(size=(count, len(made.numbers), 3)), kind, *labels)


def with_some(**some):
    """Nine structures; those of one third have what is named."""
    generator = np.random.default_rng(0)
    made = []
    for i in range(9):
        each = record(generator, i, energy=float(i), group=i // 2)
        has = [name for name, third in some.items() if third == i % 3]
        values = {
            "forces": generator.normal(size=(len(each.numbers), 3)),
            "stress": generator.normal(size=6),
            "tangents": tangents_of(generator, each, 1 + i % 2),
        }
        made.append(replace(each, **{name: values[name] for name in has}))
    return made


def test_a_structure_of_which_nothing_more_is_known():
    """As from a record's own defaults: in no trajectory, without an energy of the backbone's, from nowhere."""
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 1]])
    features = np.ones((2, 3))
    made = StructureRecord.of(atoms, Labels(-1.5, None, None), features, 7, 4)
    plain = StructureRecord(np.array([8, 1]), features, id=7, index=4, energy=-1.5)
    for name in ("id", "index", "energy", "forces", "stress", "group", "tangents", "origin"):
        assert getattr(made, name) == getattr(plain, name), name
    assert made.group == -1
    assert np.isnan([made.prior, plain.prior]).all()
    assert made.numbers.tolist() == [8, 1]
    assert made.geometry is not None


@pytest.mark.parametrize("some", [{}, {"forces": 0}, {"stress": 1}, {"tangents": 1}, {"forces": 2, "tangents": 0}])
def test_what_some_structures_have_comes_back_to_them(some):
    made = with_some(**some)
    arrays = shard_arrays(made, "float64", tangents=True)
    assert ("/atom/forces" in arrays) == ("forces" in some)
    assert ("/structure/stress" in arrays) == ("stress" in some)
    for before, after in zip(made, records_of(arrays), strict=True):
        for name in ("numbers", "features", "id", "index", "energy", "group"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        for name in ("forces", "stress"):
            value, found = getattr(before, name), getattr(after, name)
            if value is None:
                assert found is None or np.isnan(found).all()
            else:
                np.testing.assert_array_equal(found, value)
        if before.tangents is None:
            assert after.tangents is None or not len(after.tangents.kind)
        else:
            for name in ("features", "kind", "label", "prior"):
                np.testing.assert_array_equal(getattr(after.tangents, name), getattr(before.tangents, name))


def test_the_first_and_the_last_element(tmp_path):
    with FeatureWriter(tmp_path / "s", "mine", 2, "float64") as writer:
        writer.add(np.array([118, 1]), np.array([[1.0, 2.0], [3.0, 4.0]]), 0.5)
    (batch,) = FeatureStore(tmp_path / "s")
    assert {run.z: run.features.tolist() for run in batch.runs} == {1: [[3.0, 4.0]], 118: [[1.0, 2.0]]}

"""Geometries that stand in several stores of a fit."""

import ase.io
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.pipeline import ExtractPlan, extract
from mekrr_scale.store import FeatureStore
from mekrr_scale.store.overlaps import shared


@pytest.fixture(scope="module")
def stores(tmp_path_factory, spec):
    """Waters at 0 to 3, at 2 to 5 and at 6 to 9 hundredths of an angstrom."""
    folder, made = tmp_path_factory.mktemp("overlapping"), []
    for first in (0, 2, 6):
        frames = []
        for place in range(first, first + 4):
            atoms = molecule("H2O")
            atoms.positions[0, 2] += 0.01 * place
            atoms.calc = SinglePointCalculator(atoms, energy=float(-place))
            frames.append(atoms)
        path = folder / f"{first}.xyz"
        ase.io.write(path, frames, format="extxyz")
        made.append(extract(path, folder / f"s{first}", ExtractPlan(spec)).store)
    return made


def test_what_two_stores_share_is_said(stores):
    one, other, apart = (FeatureStore(store.path) for store in stores)
    (said,) = shared([one, apart, other])
    assert said.startswith(f"2 geometries are in {one.path} and in {other.path}: they count twice")
    assert f"store merge {one.path} {other.path} -o NEW" in said


def test_nothing_is_said_of_what_is_apart(stores):
    assert shared([stores[0], stores[2]]) == []
    assert shared(stores[:1]) == []
    assert shared([]) == []

"""Structures that do not count are in nothing that is told of a store."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.pipeline import ExtractPlan, FitPlan, extract, fit
from mekrr_scale.store import configs_of, isolated_atoms, names_of


def frame(symbols, positions, energy, config):
    atoms = Atoms(symbols, positions, info={"config_type": config})
    atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


def copper(energy, config):
    return frame("Cu", np.zeros((1, 3)), energy, config)


@pytest.fixture
def corrected(tmp_path, spec):
    """A free atom of which two files say other energies; the later is right. Beside it molecules."""
    rng = np.random.default_rng(0)
    others = [
        frame("Cu2", [[0, 0, 0], [0, 0, 2.2 + 0.1 * i]] + rng.normal(scale=0.05, size=(2, 3)), -7.0 - 0.1 * i, "dimer")
        for i in range(8)
    ]
    ase.io.write(tmp_path / "a.xyz", [copper(-50.0, "wrong"), *others], format="extxyz")
    ase.io.write(tmp_path / "b.xyz", [copper(-3.5, "free")], format="extxyz")
    files = [tmp_path / "a.xyz", tmp_path / "b.xyz"]
    return extract(files, tmp_path / "s", ExtractPlan(spec, on_duplicate="newest")).store


def test_isolated_atoms_that_do_not_count_are_no_references(corrected):
    assert isolated_atoms(corrected) == {29: [-3.5]}
    plan = FitPlan(landmarks=5, baseline="isolated", validation=2, kernel={"length_scales": 1.0})
    report = fit(corrected, plan)
    assert report.model.baseline.energies.tolist() == [-3.5]
    assert any("1 isolated atom (Cu)" in said for said in report.remarks)


def test_configuration_types_are_those_of_what_counts(corrected):
    assert configs_of(corrected) == ("dimer", "free")


def test_a_structure_is_named_where_it_counts(tmp_path, spec):
    """The same frame in two files, of which the later one counts."""
    twice = frame("Cu2", [[0, 0, 0], [0, 0, 2.2]], -7.0, "dimer")
    ase.io.write(tmp_path / "a.xyz", [twice, frame("Cu2", [[0, 0, 0], [0, 0, 2.3]], -7.1, "dimer")], format="extxyz")
    ase.io.write(tmp_path / "b.xyz", [copper(-3.5, "free"), twice], format="extxyz")
    for name in ("a.xyz", "b.xyz"):
        store = extract(tmp_path / name, tmp_path / "s", ExtractPlan(spec, on_duplicate="newest")).store
    named = names_of([store], [int(number) for batch in store for number in batch.ids])
    places = (("a.xyz", 1), ("b.xyz", 0), ("b.xyz", 1))
    assert set(named.values()) == {f"structure {place} of {tmp_path / name}" for name, place in places}

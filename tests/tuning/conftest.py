"""A tuning of the toy structures, with two layers of a tiny SchNet in the race."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mekrr_scale.tuning import TunePlan, tune


@pytest.fixture(scope="session")
def two_layers(spec):
    return tuple(replace(spec, layer=f"interaction{i}") for i in (1, 3))


@pytest.fixture(scope="session")
def tune_plan(two_layers):
    return TunePlan(budget="3h", backbones=two_layers, folds=3, landmarks=60, group_key="trajectory")


@pytest.fixture(scope="session")
def molecules(toy_structures):
    """Without the cells of 16 atoms: a tuning of seconds."""
    return [atoms for atoms in toy_structures if not atoms.pbc.any()]


@pytest.fixture(scope="session")
def tuned(molecules, tune_plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tunings") / "toy"
    return tune(molecules[:14], folder, tune_plan, molecules[14:])

"""A tuning of the toy structures, with two layers of a tiny SchNet in the race."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mekrr_scale.progress import Silent
from mekrr_scale.tuning import TunePlan, tune
from mekrr_scale.tuning.frames import gathered
from mekrr_scale.tuning.journal import Clock, Journal, Timed
from mekrr_scale.tuning.state import Tuning
from tests.tuning.toys import frame


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


@pytest.fixture
def tuning(tmp_path):
    """Two hundred frames, a hundred seconds, of which fifty have passed."""
    plan = TunePlan(budget=100.0)
    data = gathered([frame(1 + 0.001 * i) for i in range(200)], None, replace(plan, test_share=0.0))
    now = iter((0.0,))
    clock = Clock(tmp_path / "clock.json", plan.budget, lambda: next(now, 50.0))
    return Tuning(plan, data, tmp_path, Journal(tmp_path, clock), Timed(Silent(), clock))

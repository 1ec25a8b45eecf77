"""A loop on hot argon-like toys: a tiny SchNet, EMT as the reference."""

from __future__ import annotations

import ase.io
import pytest
from ase.build import bulk

from mekrr_scale.workflows import LearnPlan


@pytest.fixture(scope="session")
def start_file(tmp_path_factory):
    """Sixteen rattled cells of copper."""
    found = []
    for seed in range(24):
        atoms = bulk("Cu", cubic=True, a=3.6)
        atoms.rattle(0.03, seed=seed)
        found.append(atoms)
    path = tmp_path_factory.mktemp("loops") / "start.xyz"
    ase.io.write(path, found, format="extxyz")
    return path


@pytest.fixture(scope="session")
def loop_plan(start_file, checkpoint):
    """Two generations of a few steps each: the grade is exceeded at once."""
    return LearnPlan(
        frames=start_file,
        calculator="emt",
        generations=2,
        count=4,
        label_workers=1,
        test=None,
        explore={
            "temperatures": [800, 2000], "steps": 30, "timestep": 4.0, "interval": 1, "grade": 0.9,
            "dtype": "float64", "workers": 1,
        },
        features={
            "backbone": {"name": "schnet", "checkpoint": str(checkpoint)}, "derivatives": 2, "dtype": "float64",
            "workers": 1,
        },
        fit={
            "landmarks": 40, "kernel": {"length_scales": "2x"}, "baseline": "composition",
            "solver": {"ridges": [1e-6]}, "validation": 3,
        },
    )  # fmt: skip

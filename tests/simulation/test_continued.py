"""What a continued run looks at before its first step: the forces that it begins with."""

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from mekrr_scale.errors import SimulationError
from mekrr_scale.simulation import Bounds, MdPlan, run_md

PLAN = MdPlan("langevin", 4, 2.0, 300.0, friction=0.05, interval=1, checkpoint=2, bounds=Bounds(None))


@pytest.fixture
def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    return atoms


def test_a_frame_beyond_the_bound_of_forces_is_no_last_good_one(copper, tmp_path):
    """Bounds may become tighter on the way."""
    path, good = tmp_path / "run.xyz", tmp_path / "run.last-good.xyz"
    forces = run_md(copper, EMT(), path, PLAN).atoms.get_forces()
    largest = np.linalg.norm(forces, axis=1).max()
    with pytest.raises(SimulationError, match="stopped at step 5: a force of") as error:
        run_md(copper, EMT(), path, replace(PLAN, steps=8, bounds=Bounds(force=0.1 * largest)))
    assert error.value.atoms is None
    assert "last good frame" not in str(error.value)
    assert not good.exists()

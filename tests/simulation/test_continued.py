"""What a continued run looks at before its first step: the forces that it begins with, and whose they are."""

import json
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.constraints import Hookean
from ase.io import read

from mekrr_scale.errors import ConfigError, SimulationError
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


def summed(epsilon):
    """Two calculators as one, which does not tell what it is made of."""
    return SumCalculator([EMT(), LennardJones(epsilon=epsilon, sigma=2.2, rc=3.0)])


def test_another_potential_of_the_same_name_does_not_go_on(copper, tmp_path):
    path, farther = tmp_path / "run.xyz", replace(PLAN, steps=8)
    copper.set_constraint(Hookean(0, 1, k=10.0, rt=1.0))  # whose energy is no potential's
    run_md(copper, summed(1e-3), path, PLAN)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for plan in (PLAN, farther):
        with pytest.raises(ConfigError, match=r"another simulation \(another model: .* eV now\).*--overwrite"):
            run_md(copper, summed(0.5), path, plan)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert run_md(copper, summed(1e-3), path, farther).resumed == 4
    assert run_md(copper, summed(0.5), path, farther, overwrite=True).resumed == 0
    run_md(copper, summed(0.5), tmp_path / "anew.xyz", farther)
    for found, other in zip(read(path, ":"), read(tmp_path / "anew.xyz", ":"), strict=True):
        np.testing.assert_allclose(found.positions, other.positions, atol=1e-6)


def test_a_restart_file_that_does_not_tell_its_energy_goes_on(copper, tmp_path):
    path, restart = tmp_path / "run.xyz", tmp_path / "run.restart.json"
    run_md(copper, EMT(), path, PLAN)
    state = json.loads(restart.read_text())
    del state["energy"], state["seal"]
    restart.write_text(json.dumps(state))
    assert run_md(copper, EMT(), path, replace(PLAN, steps=8)).resumed == 4
    assert "energy" in json.loads(restart.read_text())

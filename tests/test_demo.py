"""`make demo`, what a newcomer runs first: its numbers are those that it expects."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ase.md import velocitydistribution

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_demo(tmp_path):
    """In an empty folder: nothing is found from an earlier run. It fails by itself where a number is out of bounds."""
    pytest.importorskip("chgnet")
    if not hasattr(velocitydistribution, "thermalize_momenta"):
        pytest.skip("the demo is run with the pinned ASE, or a later one")
    command = [sys.executable, str(ROOT / "examples" / "demo.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "80 structures computed, 0 found from an earlier run" in done.stdout
    for name in ("model.mekrr", "parity.png", "forces_by_element.png", "report.html", "features/manifest.json"):
        assert (tmp_path / "demo" / name).stat().st_size > 0

"""The suite of devices, in a process of its own: see conftest.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.skipif("EMULATED_DEVICE" in os.environ, reason="this is that process")
def test_everything_that_takes_a_device():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_devices.py"]
    environment = {**os.environ, "EMULATED_DEVICE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    if passed is None and "skipped" in done.stdout:
        pytest.skip("this torch has no devices that are written in Python")
    assert int(passed[1]) >= 30

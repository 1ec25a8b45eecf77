"""A session of `make test` fails by a skip that nobody expects, and by no other."""

import os
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from tests.skips import EXPECTED

ROOT = Path(__file__).parent.parent
MODULES = {
    "absent": "import pytest\npytest.importorskip('chgnet_that_nobody_has')\ndef test_it():\n    pass\n",
    "module": "import pytest\npytest.skip('no mood', allow_module_level=True)\n",
    "test": "import pytest\ndef test_it():\n    pytest.skip('too slow today')\n",
    "mark": "import pytest\n@pytest.mark.skipif(True, reason='the wrong day')\ndef test_it():\n    pass\n",
    "fixture": "import pytest\n@pytest.fixture\ndef f():\n    pytest.skip('none')\ndef test_it(f):\n    pass\n",
}
FINE = (
    "import pytest\n@pytest.mark.parametrize('reason', {reasons})\ndef test_skipped(reason):\n    pytest.skip(reason)\n"
    "@pytest.mark.xfail(strict=True)\ndef test_expected_failure():\n    assert False\n"
)


def session(folder, *options):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.skips", "-p", "no:cacheprovider", "-c", os.devnull]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command += ["--rootdir", str(folder), *options, str(folder)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_unexpected_skips_fail_the_session(tmp_path, workers):
    for name, text in MODULES.items():
        (tmp_path / f"test_{name}.py").write_text(text)
    (tmp_path / "test_fine.py").write_text(FINE.format(reasons=list(EXPECTED)) + "def test_passes():\n    pass\n")
    done = session(tmp_path, *workers)
    assert done.returncode == 1, done.stdout + done.stderr
    assert " failed" not in done.stdout.splitlines()[-1]  # no test did: the session fails by its skips
    told = done.stdout.split("skips that are not expected")[1]
    for name in MODULES:
        assert f"test_{name}.py" in told
    assert "could not import 'chgnet_that_nobody_has'" in told
    assert "test_fine" not in told


def test_expected_skips_do_not(tmp_path):
    (tmp_path / "test_fine.py").write_text(FINE.format(reasons=list(EXPECTED)))
    done = session(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(EXPECTED)} skipped, 1 xfailed" in done.stdout


def test_what_make_runs_is_strict():
    lines = (ROOT / "Makefile").read_text().splitlines()
    for target in ("suite:", "test-mace:"):
        begin = next(i for i, line in enumerate(lines) if line.startswith(target))
        recipe = list(takewhile(lambda line: line.startswith("\t"), lines[begin + 1 :]))
        tests = [line for line in recipe if "-m pytest" in line]
        assert tests, target
        assert all("MEKRR_TEST_STRICT=1 " in line for line in tests), target

"""docs/extending.md is true: its blocks, applied to a copy of the package, pass the package's own suites."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n# (\S+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"^# (below|for) `(.*)`$", re.MULTILINE)
SUITES = (  # and which of their tests are about what was added
    "tests/kernels/test_kernels.py",
    "tests/landmarks/test_landmarks.py",
    "tests/solvers/test_solver_conformance.py",
    "tests/backbones/test_density.py",
    "tests/regression/test_dipoles.py",
    "tests/cli/test_cli_options.py",
    "tests/cli/test_cli_help.py",
    "tests/test_rooms.py",
)
CHOSEN = (
    "cauchy and test_atom_kernels or outermost or minres and (gaussian or cauchy or refused or tried) or density "
    "or dipoles or elements or table_has_every_option or list_of_commands or face or circles"
)


def edited(text, changes, path):
    """A file with lines put below, or in place of, lines that it has once."""
    _, *parts = PLACE.split(changes)
    assert parts, f"{path} is there already: say where its new lines go"
    for how, quoted, lines in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        found = [line for line in text.split("\n") if line.strip() == quoted]
        assert len(found) == 1, f"{path} has the line {quoted!r} {len(found)} times"
        new = lines.removeprefix("\n").removesuffix("\n")
        text = text.replace(f"{found[0]}\n", (f"{found[0]}\n" if how == "below" else "") + f"{new}\n", 1)
    return text


def test_blocks_name_their_files():
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    assert len(BLOCK.findall(page)) == page.count("```python") > 15
    assert "extending.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.slow
def test_what_the_page_says_works(tmp_path):
    for name in ("mekrr_scale", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "stored"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    for name, text in BLOCK.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8")):
        path = tmp_path / name
        path.write_text(edited(path.read_text(), text, name) if path.exists() else text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CHOSEN, *SUITES]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    passed = int(re.search(r"(\d+) passed", done.stdout).group(1))
    assert passed > 40, done.stdout[-3000:]

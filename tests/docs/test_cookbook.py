"""The cookbook's pages run as they stand, from top to bottom, each in an empty folder beside the examples.

A block of commands runs in bash and must end with 0, unless its first line is a comment that says ``exit code N``. A
block of Python runs in a process of its own. Blocks of other languages are not run.
"""

import os
import re
import subprocess

import pytest

from tests.docs.pages import DOCS, ROOT

PAGES = sorted((DOCS / "cookbook").glob("*.md"))
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NEEDED = ("chgnet", "matscipy", "phonopy")
BY_NAME = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page):
    """(language, code, exit code) of every block, in order."""
    for language, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        told = re.match(r"# .*exit code (\d+)", code)
        yield language, code, int(told[1]) if told else 0


def test_pages_are_in_the_navigation_and_on_the_home_page():
    navigation, home = (ROOT / "mkdocs.yml").read_text(), (DOCS / "index.md").read_text()
    assert PAGES
    for page in PAGES:
        assert f"cookbook/{page.name}" in navigation
        assert f"(cookbook/{page.name})" in home


@BY_NAME
def test_pages_are_short_and_need_nothing_from_outside(page):
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    assert "shared/" not in text
    for _, code, _ in blocks(page):
        assert not re.search(r"\.\./|/home/|~/", code)


@pytest.fixture(scope="module")
def environment(warm):
    """With programs that start in no time: the pages are seventy commands."""
    for name in NEEDED:
        pytest.importorskip(name)
    path = f"{warm.programs}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if list(blocks(page))], ids=lambda page: page.stem)
def test_pages_run(page, environment, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for language, code, expected in blocks(page):
        command = ["bash", "-e", "-c", code] if language == "bash" else ["python", "-c", code]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == expected, f"{page.name}:\n{code}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"

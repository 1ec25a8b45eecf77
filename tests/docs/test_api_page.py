"""The page on the API: every public name has its entry and an example, and the examples run."""

import re
import warnings

import pytest

import mekrr_scale as ms
from tests.docs.pages import DOCS, ROOT, python_blocks, used_names

PAGE = DOCS / "api.md"
ENTRY = re.compile(r"^::: mekrr_scale\.(\w+)$", re.MULTILINE)


def test_every_public_name_has_one_entry_and_nothing_else_has():
    text = PAGE.read_text()
    assert sorted(ENTRY.findall(text)) == sorted(ms.__all__)
    named = set(re.findall(r"\b(?:ms|mekrr_scale)\.(\w+)", text))
    assert named == set(ms.__all__)
    assert "from mekrr_scale" not in text


def test_entries_stand_under_an_example_that_uses_them():
    for section in PAGE.read_text().split("\n## ")[1:]:
        entries = set(ENTRY.findall(section))
        shown = used_names("\n".join(re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)))
        assert entries <= shown, f"{section.splitlines()[0]}: no example of {sorted(entries - shown)}"


@pytest.mark.slow
def test_examples_run_in_their_order(tmp_path, monkeypatch, capsys):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names, ran = {}, set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for line, code in python_blocks(PAGE):
            exec(compile("\n" * (line - 1) + code, str(PAGE), "exec"), names)
            ran |= used_names(code)
    assert ran == set(ms.__all__)
    ours = [str(item.message) for item in caught if "mekrr_scale" in str(item.message)]
    assert not ours
    assert max(map(len, capsys.readouterr().out.splitlines())) < 250

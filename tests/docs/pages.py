"""The pages of the documentation, and what in them can be checked."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
_PROGRAMS = re.compile(r"(?:^|\s|-m )(mekrr-scale|mekrr_scale|data_tools) (.*)")


def python_blocks(page):
    """(line, code) of every fenced block of Python, but for what goes into files (tests/docs/test_extending.py)."""
    text = page.read_text()
    for found in re.finditer(r"^```python\n(?!# \S+\.py$)(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield text[: found.start()].count("\n") + 2, found[1]


def without_python(page):
    """The text of a page without its blocks of Python."""
    return re.sub(r"^```(?:python|toml)\n.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page):
    """(program, arguments) of every command line in a block of a page, or in quotes with an option."""
    text = without_python(page).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    lines += [line for block in shell_blocks(text) for line in block.splitlines()]
    lines += [quoted for quoted in re.findall(r"`([^`\n]+)`", text) if re.match(r"mekrr-scale (?!\w+ \d\.\d$)", quoted)]
    for line in lines:
        if found := _PROGRAMS.search(line):
            yield found[1].replace("mekrr_scale", "mekrr-scale"), shlex.split(found[2], comments=True)


def shell_blocks(text):
    """Every fenced block of commands."""
    return re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def named_options(page):
    """Every option that a page names anywhere: in quotes, in tables, in blocks, in sentences."""
    return re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", without_python(page))


def tables_of_options(page):
    """(command in the table's head, options, stated default) of every line of a table that begins with an option."""
    title = ""
    for line in page.read_text().splitlines():
        if found := re.match(r"\| option of `?([^`|]*?)`? \|", line):
            title = found[1]
        elif not line.startswith("|"):
            title = ""
        elif line.startswith("| `--"):
            first, rest = line.removeprefix("| ").split(" | ", 1)
            value = re.search(r"\bdefault:? `?(\d[\w:]*(?:\.\d+)?)", rest)
            yield title, re.findall(r"--[a-z-]+", first), value and value[1]


def keys_in_quotes(page):
    """(key, value) of every ``key = value`` that a page quotes, as of a TOML file."""
    return re.findall(r"`([a-z_]\w*) = ([^`]+)`", without_python(page))


def toml_blocks(page):
    """Every fenced block of TOML."""
    return re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def used_names(code, alias="ms"):
    """Names that code takes from the front door."""
    nodes = ast.walk(ast.parse(code))
    return {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == alias
    }

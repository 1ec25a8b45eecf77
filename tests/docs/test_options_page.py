"""Options, commands, keys and defaults: what pages name exists, and what exists is named."""

import dataclasses
import re
import tomllib

import pytest

from mekrr_scale.checks import Thresholds, read_references
from mekrr_scale.cli.app import PLACES, command
from mekrr_scale.cli.document import document, on_page_markdown
from mekrr_scale.config import load_config
from mekrr_scale.pipeline import FitPlan
from mekrr_scale.solvers import SOLVERS
from mekrr_scale.workflows.plan import ExplorePlan, LearnPlan
from mekrr_scale.workflows.toml import load_learn_plan
from tests.docs.pages import DOCS, PAGES, ROOT, keys_in_quotes, tables_of_options, toml_blocks
from tests.docs.test_configuration import shown as plan_page

BY_NAME = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
ROW = re.compile(r"^\| (`.*?) \| (.*?) \| (.*) \|$", re.MULTILINE)
PLAN = {flag: {default} for lines in plan_page().values() for flag, default in lines.values() if flag}
COMPLETION = {"--install-completion", "--show-completion", "--help"}


def every_command():
    """{words: command}, those of groups too."""
    found = {}
    for name in PLACES:
        made = command(name)
        inner = getattr(made, "commands", None) or {"": made}
        found |= {f"{name} {each}".strip(): one for each, one in inner.items()}
    return found


def sections():
    """{words: {option: default}} as the page has it."""
    parts = re.split(r"^##+ `(.*)`$", document(), flags=re.MULTILINE)[1:]
    return {
        words: {name: default for names, default, _ in ROW.findall(text) for name in re.findall(r"`(.*?)`", names)}
        for words, text in zip(parts[::2], parts[1::2], strict=True)
    }


def test_every_command_and_option_is_on_the_page_with_its_default():
    shown = sections()
    assert {words for words, rows in shown.items() if rows} == set(every_command())
    for words, made in every_command().items():
        for each in made.params:
            names = {name if name.startswith("-") else name.upper() for name in (*each.opts, *each.secondary_opts)}
            names -= COMPLETION
            assert names <= set(shown[words]), words
            for name in names:
                assert shown[words][name] == stated(each), f"{words} {name}"


def stated(each):
    if each.required:
        return "required"
    if isinstance(each.default, bool):
        if not each.secondary_opts:
            return ""
        return f"`{(each.opts if each.default else each.secondary_opts)[0]}`"
    return "" if each.default in (None, [], ()) else f"`{each.default}`"


def test_the_page_is_made_when_the_documentation_is():
    assert "mekrr_scale/cli/document.py" in (ROOT / "mkdocs.yml").read_text()
    title = (DOCS / "options.md").read_text().splitlines()[0].removeprefix("# ")

    @dataclasses.dataclass
    class Page:
        title: str

    assert on_page_markdown("as it is", Page(title)) == document()
    assert on_page_markdown("as it is", Page("Quick start")) == "as it is"


def test_help_says_what_an_option_is():
    for words, made in every_command().items():
        for each in made.params:
            assert not re.match(r"(of|Of|in all|at most)\b", each.help or ""), f"{words} {each.opts[0]}: {each.help}"
            assert each.help, f"{words} {each.opts[0]}"


def test_every_command_is_on_the_page_of_the_command_line():
    text = (DOCS / "cli.md").read_text().split("## ")[0]
    rows = re.findall(r"^\| `([^`]*)` \|", text, re.MULTILINE)
    named = {name for row in rows for name in (row.split()[0], *re.findall(r"(\w+),", row))}
    assert set(PLACES) <= named
    for name in ("store", "slurm"):
        (row,) = (row for row in rows if row.startswith(f"{name} "))
        assert set(re.findall(r"\w+", row)[1:]) == set(command(name).commands), name


@BY_NAME
def test_defaults_in_tables_are_the_commands(page):
    """``| `--option` | ... (default 5) |``: of the command in the table's head, or of some command."""
    for title, options, value in tables_of_options(page):
        scope = {words: made for words, made in every_command().items() if words == title}
        if title.endswith("every script"):
            scope = {words: made for words, made in every_command().items() if words.startswith("slurm ")}
        params = [each for made in (scope or every_command()).values() for each in made.params]
        for option in options:
            found = {shortest(each.default) for each in params if option in (*each.opts, *each.secondary_opts)}
            assert found, f"{page.name}: {title} has no {option}"
            known = found | PLAN.get(option, set())
            assert value is None or in_full(value) in known, f"{page.name}: {option} is {known}, not {value}"


def in_full(value):
    """A size in bytes; everything else as it is."""
    return str(int(value[:-1]) * 1024**3) if re.fullmatch(r"\d+G", value) else value


def shortest(value):
    return f"{value:g}" if isinstance(value, float) else str(value)


def keys_of_plans():
    plans = [FitPlan(), *(getattr(FitPlan(), field.name) for field in dataclasses.fields(FitPlan)), Thresholds()]
    plans += [FitPlan(solver=name).solver for name in SOLVERS]
    given = [each for each in plans if dataclasses.is_dataclass(each)]
    return {field.name for each in (*given, LearnPlan, ExplorePlan) for field in dataclasses.fields(each)}


@BY_NAME
def test_keys_in_quotes_are_keys(page):
    if page.name not in ("extending.md", "CHANGELOG.md", "rooms.md"):  # of what they make, of 0.1.0
        unknown = {key for key, _ in keys_in_quotes(page)} - keys_of_plans() - {"store", "output"}
        assert not unknown, page.name


@BY_NAME
def test_blocks_of_toml_are_read(page, tmp_path):
    for number, block in enumerate(toml_blocks(page)):
        path = tmp_path / f"{number}.toml"
        path.write_text(block)
        keys = set(tomllib.loads(block))
        if keys <= {field.name for field in dataclasses.fields(Thresholds)}:
            Thresholds(**tomllib.loads(block))
        elif "generations" in keys:
            for name in ("start.xyz", "test.xyz"):
                (tmp_path / name).touch()
            load_learn_plan(path)
        elif keys & {"store", *(field.name for field in dataclasses.fields(FitPlan))}:
            load_config(path)
        else:
            read_references(path)

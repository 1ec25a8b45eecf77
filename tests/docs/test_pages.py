"""Pages say what is so: names that they import, keywords, command lines and their options, rooms and layers."""

import ast
import configparser
import importlib
import inspect
import re
import warnings
from functools import cache

import pytest
import typer

import mekrr_scale as ms
from benchmarks.against_finetuning.command import options as options_of_comparison
from benchmarks.study.command import options as options_of_study
from mekrr_scale.cli.app import PLACES
from tests.docs.pages import DOCS, PAGES, ROOT, commands, named_options, python_blocks, used_names, without_python

# of other programs: pip, uv, torchrun, sbatch, srun, apptainer, and the benchmarks'; of an addition that a page makes
FOREIGN = {
    *("--resolution", "--bind", "--build-arg", "--dipole-weight", "--code", "--jobs", "--data", "--build"),
    *("--index-url", "--nproc-per-node", "--max-restarts", "--parsable", "--dependency", "--ntasks", "--cpus-per-task"),
    *("--array", "--nv", "--work", "--python", "--compare"),
    *("--strict", "--quick", "--recorded", "--ways", "--debug", "--help", "--install-completion", "--show-completion"),
}
for made in (options_of_study(), options_of_comparison()):
    FOREIGN |= set(re.findall(r"--[a-z][\w-]*", made.format_help()))
BY_NAME = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@BY_NAME
def test_blocks_of_python_name_what_there_is(page):
    for line, code in python_blocks(page):
        tree = ast.parse(code)
        place = f"{page.name}, line {line}"
        names = {"ms": ms}
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "mekrr_scale", DeprecationWarning)
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mekrr_scale"):
                    module = importlib.import_module(node.module)
                    names |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
                elif isinstance(node, ast.Import):
                    for alias in node.names:
                        assert alias.name == "mekrr_scale" or not alias.name.startswith("mekrr_scale"), place
        assert used_names(code) <= set(ms.__all__), place
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = called_object(node.func, names)
                _check_keywords(called, [keyword.arg for keyword in node.keywords], place)


def called_object(node, names):
    """What is called, where it is the package's."""
    if isinstance(node, ast.Name):
        return names.get(node.id) if node.id != "ms" else None
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
        return getattr(names[node.value.id], node.attr)
    return None


def _check_keywords(called, given, place):
    if called is None:
        return
    known = inspect.signature(called).parameters
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values())
    unknown = {name for name in given if name is not None} - set(known)
    assert open_ended or not unknown, f"{place}: {called.__name__} takes no {sorted(unknown)}"


@BY_NAME
def test_dotted_names_in_text_are_where_they_say(page):
    """``mekrr_scale.room.name`` and entries of the reference, but for old names that are told as old."""
    text = without_python(page) if page.name == "extending.md" else page.read_text()
    if page.name in ("CHANGELOG.md", "versions.md"):
        return
    for dotted in set(re.findall(r"\bmekrr_scale(?:\.\w+)+", text)):
        *head, last = dotted.split(".")
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "mekrr_scale", DeprecationWarning)
            try:
                importlib.import_module(dotted)
            except ModuleNotFoundError:
                place = importlib.import_module(".".join(head))
                assert hasattr(place, last), f"{page.name}: {dotted}"


@cache
def command(program, *names):
    """A command, and the names that are left over."""
    from data_tools.__main__ import app as tools
    from mekrr_scale.cli import app as commands_of

    if program == "data_tools":
        found = typer.main.get_command(tools)
    else:
        found = typer.main.get_command(commands_of.app)
        if names and names[0] in commands_of.PLACES:
            found = commands_of.command(names[0])
            names = names[1:]
    while names and names[0] in getattr(found, "commands", {}):
        found = found.commands[names[0]]
        names = names[1:]
    return found


def options_of(found):
    return {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}


@cache
def all_options():
    programs = [command("mekrr-scale"), command("data_tools"), *(command("mekrr-scale", name) for name in PLACES)]
    inner = [found for program in programs for found in getattr(program, "commands", {}).values()]
    return set().union(*(options_of(found) for found in (*programs, *inner)))


def check_line(program, arguments, place):
    words = [word for word in arguments if not word.startswith("-")]
    if not words or words[0].isupper():  # COMMAND
        return
    before, after = arguments[: arguments.index(words[0])], arguments[arguments.index(words[0]) :]
    known = options_of(command(program)) | FOREIGN
    assert {word for word in before if word.startswith("-")} <= known, place
    names = tuple(after[:2])
    found = command(program, *names)
    known = PLACES if program == "mekrr-scale" else command(program).commands
    assert words[0] in known, f"{place}: no command {words[0]}"
    known = options_of(found) | FOREIGN
    given = {word.partition("=")[0] for word in after if re.fullmatch(r"--?[a-zA-Z][\w-]*(=.*)?", word)}
    assert given <= known, f"{place}: {program} {words[0]} has no {sorted(given - known)}"
    for option, value in zip(after, after[1:], strict=False):
        if option == "--options":  # of another command, in quotes
            check_line("mekrr-scale", [names[1], *value.split()], place)


@BY_NAME
def test_command_lines_have_options_that_there_are(page):
    for program, arguments in commands(page):
        check_line(program, arguments, f"{page.name}: {program} {' '.join(arguments)}")


@BY_NAME
def test_options_in_text_are_somewhere(page):
    assert set(named_options(page)) <= all_options() | FOREIGN, page.name


def test_rooms_are_described_as_they_are():
    text = (DOCS / "rooms.md").read_text()
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    layers = [line.strip() for line in setup["importlinter:contract:layers"]["layers"].splitlines() if line.strip()]
    shown = text.split("## Layers")[1].split("## ")[0]
    assert [line.strip() for line in shown.splitlines() if line.startswith("    ")] == layers
    rows = re.findall(r"^\| \[(\w+)\]\(api/\w+\.md\) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    folders = {path.parent.name for path in (ROOT / "mekrr_scale").glob("*/__init__.py")}
    assert {room for room, _, _ in rows} == folders
    for room, _, offers in rows:
        face = importlib.import_module(f"mekrr_scale.{room}")
        assert set(re.findall(r"`(\w+)`", offers)) <= set(face.__all__), room
    assert all((DOCS / "api" / f"{room}.md").exists() for room in folders - {"deprecated"})


def test_pages_are_in_the_navigation_and_on_the_home_page():
    """All are in the navigation; the home page leads to all but those of single rooms."""
    navigation, home = (ROOT / "mkdocs.yml").read_text(), (DOCS / "index.md").read_text()
    names = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert names == set(re.findall(r": (\S+\.md)$", navigation, re.MULTILINE))
    linked = set(re.findall(r"\]\(([^)#]+\.md)", home))
    assert {name for name in names if not name.startswith("api/")} - {"index.md"} <= linked


def test_figures_are_small_and_shown():
    figure = r"\]\((?:\.\./)*figures/([^)]+)\)"
    shown = {name for page in DOCS.rglob("*.md") for name in re.findall(figure, page.read_text())}
    figures = list((DOCS / "figures").iterdir())
    assert shown == {figure.name for figure in figures}
    assert max(figure.stat().st_size for figure in figures) < 200_000


def test_contributing_names_no_issues():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert not re.search(r"(?i)issue[s]? *#?\d|(?<!\w)#\d", text)
    assert "docs/rooms.md" in text


def test_faces_name_no_old_places():
    """The page that a person meets first takes nothing but the front door."""
    for page in (ROOT / "README.md", DOCS / "quickstart.md", DOCS / "index.md"):
        for _, code in python_blocks(page):
            assert "from mekrr_scale" not in code, page.name

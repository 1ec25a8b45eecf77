"""The page on the configuration against the classes: the same sections, keys, flags and defaults, and no others."""

import ast
import dataclasses
import re
import tomllib

import pytest

from mekrr_scale import solvers
from mekrr_scale.config import load_config, plan_options
from mekrr_scale.config.document import document
from mekrr_scale.config.toml import FitConfig
from mekrr_scale.pipeline import FitPlan
from tests.docs.pages import DOCS

PAGE = document()
LINE = re.compile(r"^\* \*\*`(\w+)`\*\*(?: \(`(--[\w-]+).*?\))?: .*Default: `(.*)`\.$", re.MULTILINE)


def shown():
    """{section: {key: (flag, default)}} as the page has it; solvers are sections by their names."""
    found = {}
    for part in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]:
        title, _, text = part.partition("\n")
        name = re.sub(r'[`\[\]"]|name = ', "", title)
        found[name] = {key: (flag, default) for key, flag, default in LINE.findall(text)}
    return found


def plan_of(section):
    """The plan by default, and the path and class of a section of the page."""
    if section in solvers.SOLVERS:
        plan = FitPlan(solver=section)
        return plan, "solver", plan.solver
    return FitPlan(), section, getattr(FitPlan(), section)


SECTIONS = shown()


def test_sections_are_the_plans():
    names = [field.name for field in dataclasses.fields(FitPlan)]
    solver = names.index("solver") + 1
    assert list(SECTIONS) == [*names[:solver], *solvers.SOLVERS, *names[solver:]]
    assert [field.name for field in dataclasses.fields(FitConfig)] == ["store", "plan", "output"]
    assert PAGE.startswith((DOCS / "configuration.md").read_text(encoding="utf-8").splitlines()[0])


@pytest.mark.parametrize("section", SECTIONS)
def test_keys_are_the_fields_and_defaults_are_theirs(section):
    plan, place, made = plan_of(section)
    lines = SECTIONS[section]
    if section == "solver":
        assert lines == {"name": ("--solver", FitPlan().solver.name)}
        return
    if not dataclasses.is_dataclass(made):  # one value
        assert lines == {section: (lines[section][0], str(made))}
        return
    assert list(lines) == [field.name for field in dataclasses.fields(made)]
    for key, (_, default) in lines.items():
        given = written(default)
        if given is None:  # nothing, or what the machine says
            continue
        name = {"solver.name": section} if place == "solver" else {}
        assert load_config(None, {"store": "f", **name, f"{place}.{key}": given}).plan == plan, key


def written(default):
    """The default as a person would write it; None where there is nothing to write."""
    many = re.fullmatch(r"(\S+) \.\.\. (\S+) \((\d+) values\)", default)
    if many:
        assert (float(many[1]), float(many[2]), int(many[3])) == (
            solvers.DEFAULT_RIDGES[0],
            solvers.DEFAULT_RIDGES[-1],
            len(solvers.DEFAULT_RIDGES),
        )
        return None
    if default in ("none", "the job's own folder"):
        return None
    try:
        return ast.literal_eval(default)
    except (SyntaxError, ValueError):
        return default


def test_flags_are_the_command_lines():
    on_page = {flag for lines in SECTIONS.values() for flag, _ in lines.values() if flag}
    weights = set(re.findall(r"^    \* `\w+` \(`(--[\w-]+)`\)", PAGE, re.MULTILINE))
    assert on_page | weights == {option.flag.names[0].partition("/")[0] for option in plan_options()}
    assert not on_page & weights


def test_the_example_is_read(tmp_path):
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "fit.toml").write_text(example, encoding="utf-8")
    found = load_config(tmp_path / "fit.toml")
    meant = tomllib.loads(example)
    assert found.store == tuple(str(tmp_path / name) for name in meant["store"])
    assert found.output == str(tmp_path / meant["output"])
    assert found.plan.rows.weights["force"] == tuple(meant["rows"]["weights"]["force"])
    assert found.plan.solver == solvers.Falkon(tuple(meant["solver"]["ridges"]))

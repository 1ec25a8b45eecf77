"""The suite itself: nothing is drawn without a seed, and no test needs a private name of the package."""

import ast
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from mekrr_scale.arrays import rank_correlation
from tests import CHECKED_CALLS

FILES = sorted(path for path in Path(__file__).parent.rglob("*.py") if "stored" not in path.parts)
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"}  # torch's


def dotted(node):
    """``torch.randn`` of a function that is called."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id if isinstance(node, ast.Name) else "", *reversed(names)])


def unseeded(call):
    name, given = dotted(call.func), {keyword.arg for keyword in call.keywords}
    if name.startswith("torch.") and name.removeprefix("torch.") in DRAWS:
        return "generator" not in given
    if name.endswith("default_rng") or name == "random.Random":
        return not call.args
    if name.endswith(".rattle"):
        return not given & {"seed", "rng"}
    return name.startswith(("random.", "np.random."))


def private(node):
    """A name with one underscore, of a module of the package."""
    hidden = [node.attr] if isinstance(node, ast.Attribute) else []
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mekrr_scale"):
        hidden = [*node.module.split("."), *(alias.name for alias in node.names)]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("mekrr_scale."):
        hidden = node.value.split(".")
    elif isinstance(node, ast.Attribute) and dotted(node).startswith(("self.", "torch.", "os.", "_")):
        hidden = []
    ours = [name for name in hidden if name.startswith("_") and not name.startswith("__")]
    return [name for name in ours if name.strip("_") not in {"repr_html", "schema", "make_wrapper_subclass"}]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(Path(__file__).parent)))
def test_draws_have_seeds_and_names_are_public(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            assert not unseeded(node), f"line {node.lineno}: {ast.unparse(node)} draws without a seed"
        assert not private(node), f"line {node.lineno}: {private(node)}"


@pytest.mark.parametrize(
    "line",
    [
        *("torch.randn(2)", "np.random.default_rng()", "atoms.rattle(0.1)", "random.random()", "np.random.rand(3)"),
        *("from mekrr_scale.models import _loss", "kept._write", "monkeypatch.setattr('mekrr_scale.a._b', 1)"),
    ],
)
def test_what_is_not_fine_is_found(line):
    nodes = list(ast.walk(ast.parse(line)))
    assert any(private(node) or (isinstance(node, ast.Call) and unseeded(node)) for node in nodes)


@pytest.mark.parametrize("again", [1, 2])
def test_the_first_calls_of_each_test_are_checked(again):
    """Values of another precision are refused, then taken; the second time as well."""
    rising = np.arange(3, dtype=np.float32)
    for _ in range(CHECKED_CALLS):
        with pytest.raises(TypeCheckError):
            rank_correlation(rising, rising)
    assert rank_correlation(rising, rising) == pytest.approx(1)

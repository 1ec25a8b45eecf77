"""Import paths of version 0.1.0: every one leads to the same object, and says where it is now."""

import importlib
import importlib.util
import subprocess
import sys
import warnings

import pytest

from mekrr_scale.deprecated import MOVED

ROWS = [(old, name, *new) for old, names in MOVED.items() for name, new in names.items()]


def told(code):
    """What a line of a user's file has in its names then, and the warnings that it causes."""
    names = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(compile(code, "theirs.py", "exec"), names)
    return names, [w for w in caught if w.category is DeprecationWarning and w.filename == "theirs.py"]


@pytest.mark.parametrize(("old", "name", "place", "new"), ROWS, ids=lambda text: text)
def test_old_paths_give_the_new_object_and_one_warning(old, name, place, new):
    expected = getattr(importlib.import_module(place), new)
    names, caught = told(f"from {old} import {name}")
    assert names[name] is expected
    assert len(caught) == 1
    assert f"{old}.{name} is deprecated: use {place}.{new}" in str(caught[0].message)
    names, caught = told(f"import {old}\nfound = {old}.{name}")
    assert names["found"] is expected
    assert [w.lineno for w in caught] == [2]


def test_old_modules_are_nowhere_else():
    """A module that comes back under an old name would hide its row, unless it says that it had others."""
    for old in MOVED:
        spec = importlib.util.find_spec(old)
        assert type(spec.loader).__name__ == "OldModules" or hasattr(importlib.import_module(old), "with_old_names")


def test_unknown_names_of_old_modules_are_errors():
    with pytest.raises(ImportError, match="nothing"):
        told("from mekrr_scale.graphs import nothing")
    with pytest.raises(ImportError, match="nothing"):
        told("from mekrr_scale.store import nothing")
    with pytest.raises(ModuleNotFoundError):
        told("import mekrr_scale.nowhere")
    assert "build_graph" in dir(importlib.import_module("mekrr_scale.graphs"))


def test_importing_the_package_is_quick_and_silent():
    code = (
        "import sys; before = set(sys.modules); import mekrr_scale; new = {n.partition('.')[0] for n in "
        "set(sys.modules) - before}; heavy = {'torch', 'numpy', 'ase', 'h5py', 'pydantic', 'rich'}; print(new & heavy)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n"
    assert done.stderr == ""


@pytest.mark.parametrize("old", sorted(MOVED))
def test_names_that_were_never_there(old):
    with pytest.raises(
        AttributeError, match=rf"module '{old}' has no attribute 'nonsense'|No {old} attribute nonsense"
    ):
        importlib.import_module(old).nonsense  # noqa: B018

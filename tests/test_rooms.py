"""The house: faces of rooms are complete and lazy, rooms use one another's faces, nothing goes round in circles."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mekrr_scale"
ROOMS = sorted(path.parent.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("__init__.py"))
FACES = [room for room in ROOMS if room != "mekrr_scale/cli"]  # whose face is a program


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, typing_too=False):
    """(module, names) of every import that runs, at the top or inside functions."""
    tree = ast.parse(path.read_text())
    skipped = set()
    if not typing_too:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                skipped |= {id(inner) for part in node.body for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)


@pytest.mark.parametrize("room", FACES)
def test_a_face_names_its_types_and_loads_them_lazily(room):
    path = PACKAGE.parent / room / "__init__.py"
    tree = ast.parse(path.read_text())
    typed = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for part in node.body
        if isinstance(part, ast.ImportFrom)
        for alias in part.names
    }
    face = importlib.import_module(room.replace("/", "."))
    lazy = set(face.__all__) - {name for name in vars(face) if name in face.__all__ and name.isupper()}
    assert typed >= lazy, f"without types: {sorted(lazy - typed)}"
    assert typed <= set(face.__all__), f"not exported: {sorted(typed - set(face.__all__))}"
    for name in face.__all__:
        getattr(face, name)
    files = {item.stem for item in path.parent.iterdir()} - {"__init__"}
    assert not files & set(face.__all__), "importing such a file would replace the name"


def test_rooms_use_faces():
    """A file imports other rooms' faces, never a file inside; its own room's files it imports directly."""
    rooms = {room.replace("/", ".") for room in ROOMS}
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "__init__.py" and path.parent != PACKAGE / "cli":
            continue
        own = module_of(path).split(".")[1]
        for module, names in imports(path):
            parts = module.split(".")
            if parts[0] != "mekrr_scale" or len(parts) < 3 or parts[1] == own:
                continue
            if module not in rooms or module.count(".") > 1:
                wrong.append(f"{path.relative_to(PACKAGE.parent)}: {module} ({', '.join(names)})")
    assert not wrong, "\n".join(wrong)


def test_modules_do_not_import_in_circles():
    """Neither when they are loaded nor later, in functions; faces load nothing by themselves."""
    modules = {module_of(path): path for path in PACKAGE.rglob("*.py")}
    graph = {}
    for name, path in modules.items():
        found = set()
        for module, names in imports(path) if path.name != "__init__.py" else ():
            found |= {f"{module}.{inner}" for inner in names} & set(modules) or {module} & set(modules)
        graph[name] = {other for other in found if modules[other].name != "__init__.py"}
    done, open_ = set(), []

    def visit(name):
        assert name not in open_, " -> ".join([*open_[open_.index(name) :], name])
        if name in done:
            return
        open_.append(name)
        for other in sorted(graph[name]):
            visit(other)
        open_.pop()
        done.add(name)

    for name in sorted(graph):
        visit(name)


@pytest.mark.parametrize(
    "code",
    [
        "import mekrr_scale",
        "import mekrr_scale.pipeline as p; p.FitPlan()",
        "import mekrr_scale.config as c; c.plan_options()",
    ],
)
def test_what_needs_no_torch_does_not_load_it(code):
    check = f"{code}; import sys; assert 'torch' not in sys.modules, 'torch'; assert 'ase' not in sys.modules, 'ase'"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_modules_beside_the_rooms_are_few():
    beside = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert len([name for name in beside if name != "deprecated.py"]) <= 8, beside


def test_no_file_is_long():
    folders = ("mekrr_scale", "tests", "benchmarks", "data_tools", "examples", "packaging")
    files = [path for folder in folders for path in (PACKAGE.parent / folder).rglob("*.py")]
    assert len(files) > 300
    assert not {str(path): n for path in files if (n := path.read_text().count("\n")) > 400}

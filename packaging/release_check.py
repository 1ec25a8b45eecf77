"""Whether what would be published works: ``make release-check``.

Builds the source distribution and, from it, the wheel; checks their metadata and contents; installs the wheel with the
pins in a fresh environment; then imports it and runs the commands on the example data from an empty folder, where
nothing of this checkout can be found.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IN_SOURCE = (
    "LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "setup.cfg", "constraints.txt", "Makefile",
    "docs/index.md", "tests/conftest.py", "tests/reference.py", "examples/demo.py",
    "examples/hcoo_cu110/train.xyz.xz", "mekrr_scale/py.typed",
)  # fmt: skip
NOT_IN_WHEEL = ("tests/", "docs/", "benchmarks/", "examples/", "packaging/")
FRAMES = 6


def step(text: str) -> None:
    print(f"== {text}", flush=True)


def run(*command: str | Path, cwd: Path, shown: bool = True) -> str:
    """Run a command outside of this checkout's reach and give its output.

    Raises:
        SystemExit: it failed; what it said is in the message.
    """
    words = [str(word) for word in command]
    if shown:
        print("   $", *words, flush=True)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    nothing = subprocess.DEVNULL
    done = subprocess.run(words, cwd=cwd, env=kept, stdin=nothing, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed ({done.returncode}):\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def check(holds: bool, text: str) -> None:
    if not holds:
        raise SystemExit(f"release-check: {text}")
    print(f"   ok: {text}", flush=True)


def versions() -> str:
    """The version, which is the same wherever it is written.

    Raises:
        SystemExit: two places differ.
    """
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    version = settings["metadata"]["version"]
    for file, pattern in (
        ("CITATION.cff", r"^version: (\S+)$"),
        ("CHANGELOG.md", r"^## (\d\S*)"),
        ("packaging/conda-forge/meta.yaml", r'set version = "(.*?)"'),
    ):
        check(version in re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE), f"{file} has version {version}")
    return version


def build(dist: Path) -> tuple[Path, Path]:
    """The source distribution and the wheel that is built from it."""
    shutil.rmtree(dist, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", dist, ROOT, cwd=ROOT)
    (source,), (wheel,) = list(dist.glob("*.tar.gz")), list(dist.glob("*.whl"))
    run(sys.executable, "-m", "twine", "check", "--strict", source, wheel, cwd=ROOT)
    return source, wheel


def check_contents(source: Path, wheel: Path) -> None:
    with tarfile.open(source) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    missing = [name for name in IN_SOURCE if name not in held]
    check(not missing, f"{source.name} ({source.stat().st_size / 1e6:.1f} MB) holds {', '.join(missing or IN_SOURCE)}")
    names = zipfile.ZipFile(wheel).namelist()
    check("mekrr_scale/py.typed" in names, f"{wheel.name} ({wheel.stat().st_size / 1e6:.1f} MB) holds py.typed")
    check(any(name.endswith("licenses/LICENSE") for name in names), "the wheel holds the licence")
    stray = [name for name in names if name.startswith(NOT_IN_WHEEL) or "__pycache__" in name]
    check(not stray, f"the wheel holds none of {', '.join(NOT_IN_WHEEL)}{stray[:5] or ''}")
    here = {str(path.relative_to(ROOT)) for path in ROOT.glob("mekrr_scale/**/*.py")}
    left_out = sorted(here - set(names))
    check(not left_out, f"the wheel holds all {len(here)} modules {left_out or ''}")


def frames(count: int) -> str:
    """A Python program that writes the first frames of the example to two files."""
    return (
        "import ase.io, itertools\n"
        "from mekrr_scale.structures import read_structures\n"
        "for name in ('train', 'test'):\n"
        f"    frames = read_structures({str(ROOT / 'examples' / 'hcoo_cu110')!r} + f'/{{name}}.xyz.xz')\n"
        f"    ase.io.write(f'{{name}}.xyz', list(itertools.islice(frames, {count})), format='extxyz')\n"
    )


def smoke(python: Path, version: str, folder: Path) -> None:
    """Import, help, and a tiny fit, as someone has it who installed the wheel."""
    command = python.parent / "mekrr-scale"
    where = run(python, "-c", "import mekrr_scale; print(mekrr_scale.__version__, mekrr_scale.__file__)", cwd=folder)
    check(where.startswith(version + " "), f"imports as {version}")
    check(str(ROOT) not in where.replace(str(python.parent.parent), ""), "from its own environment, not the checkout")
    says = run(command, "--help", cwd=folder)
    check("extract" in says and "evaluate" in says, "--help names the commands")
    if re.search(r"^\W*env\b", says, re.MULTILINE):
        check("torch" in run(command, "env", cwd=folder), "env prints versions")
    run(python, "-c", frames(FRAMES), cwd=folder, shown=False)
    run(command, "extract", "train.xyz", "-o", "features", "--derivatives", "2", cwd=folder)
    run(command, "fit", "--store", "features", "-o", "small.mekrr", "--landmarks", "60", "--validate", "3", cwd=folder)
    told = run(command, "evaluate", "small.mekrr", "test.xyz", cwd=folder)
    check("energ" in told.lower(), f"extract, fit and evaluate on {FRAMES} structures")
    run(python, "-m", "data_tools", "--help", cwd=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build, check and try what would be published.")
    parser.add_argument("--constraint", default="constraints.txt", help="pins of the fresh environment")
    parser.add_argument("--extra", default="chgnet", help="extra that the wheel is installed with")
    options = parser.parse_args()

    step("Versions")
    version = versions()
    step("Source distribution and wheel")
    source, wheel = build(ROOT / "dist")
    check_contents(source, wheel)
    with tempfile.TemporaryDirectory(prefix="mekrr-release-") as name:
        fresh, folder = Path(name) / "environment", Path(name) / "empty"
        folder.mkdir()
        step("The wheel in a fresh environment")
        installer = [sys.executable, str(ROOT / "packaging" / "install.py"), str(fresh)]
        constraint = str((ROOT / options.constraint).resolve())
        subprocess.run([*installer, "--constraint", constraint, f"{wheel}[{options.extra}]"], check=True, cwd=folder)
        run(fresh / "bin" / "python", "-m", "pip", "check", cwd=folder)
        step("From an empty folder")
        smoke(fresh / "bin" / "python", version, folder)
    step(f"Ready: {source.name}, sha256 {hashlib.sha256(source.read_bytes()).hexdigest()}, and {wheel.name}")


if __name__ == "__main__":
    main()

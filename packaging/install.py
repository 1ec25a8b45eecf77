"""Make a virtual environment, fill it with pip, and say every few seconds how far it is.

The Makefile calls it with a bare Python, so it imports the standard library alone::

    python3 packaging/install.py .venv --constraint constraints.txt '.[sevennet]'  # of this folder: linked, not copied
    python3 packaging/install.py .venv-matrix/3.12 --python 3.12 --constraint constraints.txt '.[test]'

All that pip says is kept in ``install.log`` in the environment; its end is shown when pip fails.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

OLDEST = (3, 11)
QUIET_SECONDS = 4.0  # between two lines where there is no terminal
TERMINAL_SECONDS = 0.3
# here once, instead of anew for each package that is built from source; chgnet, which has no wheel for Python 3.13,
# needs the last two; matcalc, where it is a source archive, the second for its version
BUILD_TOOLS = ("setuptools>=77", "setuptools-scm>=8", "wheel", "numpy", "Cython")


class Teller:
    """One line that is drawn over on a terminal, elsewhere a line every few seconds."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self.start = time.monotonic()
        self.last = 0.0

    def say(self, text: str) -> None:
        """Tell it if it is time to."""
        now = time.monotonic()
        if now - self.last < (TERMINAL_SECONDS if self.live else QUIET_SECONDS):
            return
        self.last = now
        line = f"   {now - self.start:4.0f} s  {text}"
        if self.live:
            print(f"\r\x1b[2K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        else:
            print(line, flush=True)

    def end(self, text: str) -> None:
        """The last line."""
        clear = "\r\x1b[2K" if self.live else ""
        print(f"{clear}   {time.monotonic() - self.start:4.0f} s  {text}", flush=True)


@contextmanager
def telling(teller: Teller, now: Callable[[], str]) -> Iterator[None]:
    """Say again and again where something is that runs meanwhile."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(TERMINAL_SECONDS):
            teller.say(now())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Pip:
    """What pip is at, from the lines that it prints."""

    def __init__(self, site: Path) -> None:
        self.site = site
        self.before = self.installed()
        self.fetched = 0
        self.at = "asking for what is needed"
        self.order: list[str] = []

    def installed(self) -> int:
        """Packages in the environment; pip writes each one's list of files last."""
        return sum(1 for _ in self.site.glob("*.dist-info/RECORD"))

    def read(self, line: str) -> None:
        """One line of pip's."""
        words = line.split()
        if line.startswith(("Collecting ", "Processing ")):
            self.fetched += 1
            self.at = f"{self.fetched} packages looked up, at {_short(words[1])}"
        elif line.strip().startswith(("Downloading ", "Using cached ")) and ".metadata" not in line:
            size = re.search(r"\(.*?\)", line)
            name = _short(words[2] if words[0] == "Using" else words[1])
            self.at = f"{self.fetched} packages looked up, fetching {name} {size.group() if size else ''}"
        elif "Building wheel for" in line or "Building editable for" in line:
            self.at = f"building {words[words.index('for') + 1]}"
        elif line.startswith("Installing collected packages:"):
            self.order = line.split(":", 1)[1].replace(",", " ").split()

    def now(self) -> str:
        """What to tell."""
        if not self.order:
            return self.at
        done = self.installed() - self.before
        following = self.order[min(max(done, 0), len(self.order) - 1)]
        return f"installing, {done} of {len(self.order)} packages done, at {following}"


def _short(name: str) -> str:
    """A package's name out of a requirement, a path or a file."""
    return re.split(r"[<>=!~;\[(]|-\d", Path(name).name)[0]


def interpreter(version: str | None) -> str:
    """A Python of that version (``3.12``) on the path or of pyenv; this one if none is asked for."""
    if version is None:
        return sys.executable
    kept = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for found in (shutil.which(f"python{version}"), *map(str, reversed(kept))):
        if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
            return found
    raise SystemExit(f"no Python {version} here: put python{version} on the path, or install it with pyenv")


def site_packages(python: Path) -> Path:
    """Where an environment's packages lie."""
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.check_output(asked, text=True).strip())


def run_pip(python: Path, arguments: list[str], teller: Teller, log: Path) -> None:
    """Run pip and tell what it is at; its output goes to the log.

    Raises:
        SystemExit: pip failed.
    """
    pip = Pip(site_packages(python))
    command = [str(python), "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check", *arguments]
    with log.open("a") as file:
        print("$", *command, file=file, flush=True)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        with telling(teller, pip.now):
            for line in process.stdout:
                file.write(line)
                pip.read(line)
            process.wait()
    if process.returncode:
        lines = [line for line in log.read_text().splitlines() if "is ignored: it is neither" not in line]
        teller.end(f"pip failed; its last lines (all of them in {log}):")
        raise SystemExit("\n".join(lines[-30:]))


def compiled(python: Path, modules: list[str], teller: Teller) -> None:
    """Make the bytecode of what those modules import, or of everything if none are named."""
    doing = f"importing {', '.join(modules)} for the first time" if modules else "compiling what was installed"
    if modules:
        command = ["-c", "import " + ", ".join(modules)]
    else:
        command = ["-m", "compileall", "-q", "-j", "0", "-x", r"/tests?/", str(site_packages(python))]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with telling(teller, lambda: doing):
        # some packages hold files that are no Python of this version: not our concern
        done = subprocess.run([python, *command], env=kept, capture_output=True, text=True, check=False)
    if modules and done.returncode:
        teller.end(f"{', '.join(modules)} cannot be imported:")
        raise SystemExit(done.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a virtual environment and install into it.")
    parser.add_argument("environment", type=Path)
    parser.add_argument("requirements", nargs="+", help="what pip is to install, such as '.[chgnet]'")
    parser.add_argument("--constraint", help="file of pinned versions")
    parser.add_argument("--python", help="version of the interpreter, such as 3.12; default: the one that runs this")
    parser.add_argument("--warm", nargs="*", default=[], help="compile what these modules import, not everything")
    options = parser.parse_args()
    if options.python is None and sys.version_info < OLDEST:
        raise SystemExit(
            f"Python 3.11, 3.12 or 3.13 is needed, this is {sys.version.split()[0]}: try PYTHON=python3.12"
        )

    teller = Teller()
    environment: Path = options.environment
    python = environment / "bin" / "python"
    if not python.exists():
        chosen = interpreter(options.python)
        print(f"Making the environment {environment} with {chosen}", flush=True)
        with telling(teller, lambda: "making the environment"):
            subprocess.run([chosen, "-m", "venv", str(environment)], check=True)
    print(f"Installing {' '.join(options.requirements)} into {environment}", flush=True)
    log = environment / "install.log"
    log.unlink(missing_ok=True)
    pinned = ["-c", options.constraint] if options.constraint else []
    run_pip(python, [*pinned, *BUILD_TOOLS], teller, log)
    wanted = [part for item in options.requirements for part in (["-e", item] if item.startswith(".") else [item])]
    # pip would make the bytecode of everything on one core
    run_pip(python, ["--no-compile", "--no-build-isolation", *pinned, *wanted], teller, log)
    compiled(python, options.warm, teller)
    teller.end(f"installed; what pip said is in {os.path.relpath(log)}")


if __name__ == "__main__":
    main()

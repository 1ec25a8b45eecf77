"""In the package's own Python, inside the throw-away copy: which tests cover which line, and tests of one mutant.

`server.py cover FILE TESTS...` runs the tests once and writes FILE: of every test its CPU time and the lines that it
runs, those of its fixtures among them. `server.py serve` imports what is slow to import, then forks a child for every
line of its input, `{"tests": [...], "cpu": seconds, "wall": seconds, "typed": bool}`, and answers with one line.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections import defaultdict
from pathlib import Path

import pytest

# no module of the package: it is the children that import it, mutated
SLOW = [
    "torch",
    "numpy",
    "scipy.sparse.linalg",
    "scipy.spatial",
    "h5py",
    "ase.io",
    "ase.build",
    "ase.calculators.singlepoint",
    "xxhash",
    "tqdm",
    "torch_geometric.nn.models",
    "safetensors.torch",
    "beartype",
    "jaxtyping",
    "pydantic",
    "hypothesis",
    "typer",
    "rich.console",
    "vesin",
]
IMPORTED = "import"
KILLER = Path("killer.txt")


def fixture_name(fixturedef) -> str:
    return f"fixture {fixturedef.baseid}:{fixturedef.argname}"


class Recorder:
    """A pytest plugin: a context of coverage for each test and for each fixture."""

    def __init__(self, coverage):
        self.coverage = coverage
        self.context = [IMPORTED]
        self.fixtures: dict[str, list[str]] = {}
        self.cpu: dict[str, float] = defaultdict(float)

    def enter(self, name: str) -> None:
        self.context.append(name)
        self.coverage.switch_context(name)

    def leave(self) -> None:
        self.context.pop()
        self.coverage.switch_context(self.context[-1])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        found = getattr(item, "_fixtureinfo", None)  # a doctest has none
        known = found.name2fixturedefs if found else {}
        self.fixtures[item.nodeid] = [fixture_name(each) for several in known.values() for each in several]
        self.enter(item.nodeid)
        try:
            return (yield)
        finally:
            self.leave()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        name = fixture_name(fixturedef)
        self.enter(name)
        began = time.process_time()
        try:
            return (yield)
        finally:
            self.cpu[name] += time.process_time() - began
            self.leave()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        began = time.process_time()
        try:
            return (yield)
        finally:
            self.cpu[item.nodeid] += time.process_time() - began


def cover(found: Path, tests: list[str]) -> None:
    import coverage

    watched = coverage.Coverage(data_file=None, source=["mekrr_scale"], config_file=False)
    recorder = Recorder(watched)
    watched.start()
    watched.switch_context(IMPORTED)
    pytest.main(["-q", "-p", "no:cacheprovider", "-m", "not slow", *tests], plugins=[recorder])
    watched.stop()
    data = watched.get_data()
    lines = {
        str(Path(file).relative_to(Path.cwd())): {str(k): v for k, v in data.contexts_by_lineno(file).items()}
        for file in data.measured_files()
    }
    found.write_text(json.dumps({"lines": lines, "fixtures": recorder.fixtures, "cpu": recorder.cpu}))


def serve() -> None:
    for name in SLOW:
        importlib.import_module(name)
    sys.dont_write_bytecode = True  # the compiled files in the copy are those of the code as it is
    for line in sys.stdin:
        job = json.loads(line)
        began = time.monotonic()
        KILLER.unlink(missing_ok=True)
        pid = os.fork()
        if not pid:
            run(job)
        while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() - began < job["wall"]:
            time.sleep(0.02)
        if not ended[0]:
            os.killpg(pid, signal.SIGKILL)
            ended = os.waitpid(pid, 0)
        took = round(time.monotonic() - began, 1)
        by = KILLER.read_text() if KILLER.exists() else ""
        print(json.dumps({"code": os.waitstatus_to_exitcode(ended[1]), "took": took, "by": by}), flush=True)


class Killer:
    """A pytest plugin: the test that failed first."""

    def pytest_runtest_logreport(self, report):
        if report.failed:
            KILLER.write_text(report.nodeid)


def run(job: dict) -> None:
    """The child: own process group, a limit of CPU time that counts work and not how busy the machine is."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (int(job["cpu"]), int(job["cpu"]) + 5))
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))
    out = os.open("mutant.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    options = ["-q", "-x", "-p", "no:cacheprovider", "--no-header", "--tb=short"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins that the parent has imported
    if not job["typed"]:
        options += ["-o", "addopts=--doctest-modules --strict-markers"]
    code = 70
    try:
        code = int(pytest.main([*options, *job["tests"]], plugins=[Killer()]))
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "cover":
        cover(Path(sys.argv[2]), sys.argv[3:])
    else:
        serve()

"""Mutants of the code that numbers come from: what the tests notice when an operator, a number or a condition is wrong.

    python3 -m venv /tmp/mutants-venv && /tmp/mutants-venv/bin/pip install cosmic-ray==8.7.0 coverage
    /tmp/mutants-venv/bin/python tests/mutants --python .venv/bin/python --work /tmp/mutants

cosmic-ray makes the mutants of a seeded sample: one of every module, the others drawn from all places. They are
applied in a copy below `--work`, one after the other, and tested by the tests that run their lines, quickest first,
until one fails. `results.jsonl` there grows; a run that was stopped goes on where it was, `--again` tests what
survived once more, after new tests were written.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path

import coverage
from places import Mutant, compiles, mutants_of, mutated, statement_lines

HERE = Path(__file__).resolve().parent
ROOMS = {
    "solvers": ["mekrr_scale/solvers"],
    "kernels": ["mekrr_scale/kernels"],
    "regression": ["mekrr_scale/regression"],
    "posterior": ["mekrr_scale/models/posterior.py", "mekrr_scale/models/whitening.py"],
    "store": ["mekrr_scale/store"],
}
# triton_sums runs on a GPU alone, __init__ holds lazy names, choices the names of options
LEFT_OUT = {"__init__.py", "triton_sums.py", "choices.py"}
# each is covered in a process of its own
TESTS = [
    *(["tests/" + room, "mekrr_scale/" + room] for room in ("kernels", "solvers", "regression", "store")),
    ["tests/landmarks"],
    *([f"tests/models/test_{name}.py"] for name in ("posterior", "whitening", "priors", "models_copied", "results")),
    *(
        [f"tests/pipeline/test_{name}.py"]
        for name in ("choosing", "calibration", "pipeline", "mixed_sets", "resources")
    ),
    *([f"tests/distributed/test_{name}.py"] for name in ("checkpoint", "damaged_states")),
    ["tests/test_stored.py"],
]
NOTICED = (1, 2, 4)  # what pytest ends with: tests failed, or they or their conftest could not be imported
FEWEST = 20  # mutants of a room
WHOLE = ".whole"  # of a module that is mutated at the moment
IMPORTED = "import"
ENOUGH = 60.0  # s of CPU time of tests for a mutant
WORK = 5.0  # a mutant may take so many times the CPU time of its tests
START = 30.0  # s beside it, for imports


class Covered:
    """Which tests run a line, and what they cost."""

    def __init__(self, folder: Path, only: tuple[str, ...]):
        self.only = only
        self.lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.cost: dict[str, float] = {}
        self.fixtures: dict[str, list[str]] = {}
        self.fixture_cost: dict[str, float] = {}
        for file in sorted(folder.glob("*.json")):
            self._add(json.loads(file.read_text()))

    def _add(self, found: dict) -> None:
        users = defaultdict(set)
        for test, fixtures in found["fixtures"].items():
            if not test.startswith(self.only):
                continue
            self.fixtures[test] = fixtures
            self.cost[test] = found["cpu"].get(test, 0.0)
            for fixture in fixtures:
                users[fixture].add(test)
                self.fixture_cost[fixture] = found["cpu"].get(fixture, 0.0)
        for path, lines in found["lines"].items():
            for line, contexts in lines.items():
                for context in contexts:
                    self.lines[path][int(line)] |= users.get(context, {context})

    def tests(self, path: str, lines: set[int]) -> list[str]:
        """Those that run one of the lines, quickest first, as many as are affordable."""
        contexts = set().union(*(self.lines[path][line] for line in lines))
        found = contexts & self.cost.keys()
        if not found and IMPORTED in contexts:  # a class or a constant that is used, and has no line of its own to run
            found = set().union(*self.lines[path].values()) & self.cost.keys()
        total = {test: self.cost[test] + sum(self.fixture_cost[f] for f in self.fixtures[test]) for test in found}
        chosen, made, spent = [], set(), 0.0
        for test in sorted(found, key=lambda test: (total[test], test)):
            new = set(self.fixtures[test]) - made
            spent += self.cost[test] + sum(self.fixture_cost[f] for f in new)
            if chosen and spent > ENOUGH:
                break
            made |= new
            chosen.append(test)
        return chosen

    def work(self, tests: list[str]) -> float:
        fixtures = {f for test in tests for f in self.fixtures[test]}
        return sum(self.cost[test] for test in tests) + sum(self.fixture_cost[f] for f in fixtures)


class Server:
    """The package's own Python, which has imported what is slow to import."""

    def __init__(self, python: Path, copy: Path):
        self.process = subprocess.Popen(
            [python, "tests/mutants/server.py", "serve"],
            cwd=copy,
            env=environment(copy),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, tests: list[str], cpu: float, *, typed: bool) -> dict:
        assert self.process.stdin
        assert self.process.stdout
        job = {"tests": tests, "cpu": START + WORK * cpu, "wall": 300 + 5 * WORK * cpu, "typed": typed}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def environment(copy: Path, *beside: Path) -> dict[str, str]:
    scratch = copy.parent / "tmp"
    scratch.mkdir(exist_ok=True)
    paths = os.pathsep.join(map(str, [copy, *beside]))
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TMPDIR": str(scratch)}
    return {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "", **quiet}


def copied(work: Path) -> Path:
    """The tree as it is, in a folder that nobody works in. Its code stays that of the first call."""
    copy = work / "copy"
    tree = HERE.parent.parent
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=tree, check=True, capture_output=True)
    for name in listed.stdout.decode().splitlines():
        source, target = tree / name, copy / name
        if source.is_file() and (name.startswith("tests/") or not target.exists()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return copy


def cover(python: Path, copy: Path, folder: Path) -> None:
    """Run every group of tests once with coverage, which the tool's environment lends."""
    beside = copy.parent / "lent"
    beside.mkdir(exist_ok=True)
    if not (beside / "coverage").exists():
        (beside / "coverage").symlink_to(Path(coverage.__file__).parent)
    folder.mkdir(exist_ok=True)
    for group in TESTS:
        found = folder / (group[0].removesuffix(".py").replace("/", ".") + ".json")
        if not found.exists() or found.stat().st_mtime < newest(copy / group[0]):
            print("coverage of", *group, flush=True)
            call = [python, "tests/mutants/server.py", "cover", found, *group]
            subprocess.run(call, cwd=copy, env=environment(copy, beside), check=True, stdout=subprocess.DEVNULL)


def newest(path: Path) -> float:
    return max(file.stat().st_mtime for file in (path.rglob("*.py") if path.is_dir() else [path]))


def modules(copy: Path, room: str) -> list[str]:
    paths = [copy / each for each in ROOMS[room]]
    files = [file for path in paths for file in (sorted(path.glob("*.py")) if path.is_dir() else [path])]
    return [str(file.relative_to(copy)) for file in files if file.name not in LEFT_OUT]


def sample(copy: Path, count: int, seed: int) -> list[Mutant]:
    """One place of every module (more where a room has few), then of all places alike; of each one of its mutants."""
    draw = random.Random(seed)
    first, rest = [], []
    for room in ROOMS:
        for path in modules(copy, room):
            places = defaultdict(list)
            for mutant in mutants_of(room, path, (copy / path).read_text()):
                places[mutant.start, mutant.end].append(mutant)
            drawn = [draw.choice(places[key]) for key in sorted(places)]
            draw.shuffle(drawn)
            least = max(1, FEWEST // len(modules(copy, room)))
            first += drawn[:least]
            rest += drawn[least:]
    draw.shuffle(rest)
    whole = (mutant for mutant in first + rest if compiles((copy / mutant.path).read_text(), mutant))
    chosen = list(islice(whole, count))
    draw.shuffle(chosen)
    return chosen


def test(server: Server, copy: Path, mutant: Mutant, covered: Covered, *, typed: bool) -> dict:
    file = copy / mutant.path
    code = file.read_text()
    tests = covered.tests(mutant.path, statement_lines(code, mutant.start[0]))
    if not tests:
        return {"outcome": "not covered", "tests": 0}
    try:
        shutil.copy2(file, file.with_suffix(WHOLE))
        file.write_text(mutated(code, mutant))
        answer = server.ask(tests, covered.work(tests), typed=typed)
    finally:
        restore(copy)
    if answer["code"] not in (0, *NOTICED) and answer["code"] > 0:
        raise SystemExit(f"{mutant.id}: pytest cannot run, see {copy / 'mutant.log'}")
    outcome = "survived" if answer["code"] == 0 else "killed" if answer["code"] in NOTICED else "stopped"
    return {"outcome": outcome, "tests": len(tests), **answer}


def restore(copy: Path) -> None:
    """What is mutated, with its own time of change, so that what was compiled of it holds."""
    for whole in (copy / "mekrr_scale").rglob(f"*{WHOLE}"):
        whole.replace(whole.with_suffix(".py"))


def table(results: list[dict]) -> str:
    lines = ["| room | mutants | killed | stopped at the limit | survived | not covered |", "|---|---|---|---|---|---|"]
    for room in [*ROOMS, "all"]:
        found = Counter(each["outcome"] for each in results if room in ("all", each["room"]))
        counts = [found.total(), *(found[name] for name in ("killed", "stopped", "survived", "not covered"))]
        lines.append(f"| {room} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python", type=Path, required=True, help="the interpreter that has the package's dependencies"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the copy and of the results")
    parser.add_argument("--count", type=int, default=320)
    parser.add_argument("--seed", type=int, default=16)
    parser.add_argument("--again", action="store_true", help="what survived, with the tests and shape checks of today")
    parser.add_argument("--only", nargs="*", default=[], help="only tests whose path begins so, such as tests/store")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    python = options.python.absolute()
    copy = copied(work)
    restore(copy)  # after a run that was stopped
    cover(python, copy, work / "coverage")
    covered = Covered(work / "coverage", tuple(options.only) or ("",))
    log = work / "results.jsonl"
    results = {each["id"]: each for each in map(json.loads, log.read_text().splitlines())} if log.exists() else {}
    done = {
        id for id, each in results.items() if not (options.again and each["outcome"] in ("survived", "not covered"))
    }
    server = Server(python, copy)
    drawn = sample(copy, options.count, options.seed)
    for number, mutant in enumerate(drawn, 1):
        if mutant.id in done:
            continue
        answer = test(server, copy, mutant, covered, typed=options.again)
        line = (copy / mutant.path).read_text().splitlines()[mutant.start[0] - 1].strip()
        results[mutant.id] = {"id": mutant.id, "room": mutant.room, "line": line, **answer}
        with log.open("a") as file:
            file.write(json.dumps(results[mutant.id]) + "\n")
        print(f"{number}/{len(drawn)} {answer['outcome']:9} {mutant.id}  {line}", flush=True)
    print(table([results[mutant.id] for mutant in drawn]))


if __name__ == "__main__":
    os.nice(5)
    sys.exit(main())

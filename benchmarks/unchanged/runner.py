"""A folder with a copy of the code and the data, and the cases run in it, two at a time."""

from __future__ import annotations

import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.unchanged.cases import DATA, Case
from benchmarks.unchanged.reading import Reader

VERSION = "0.1.0"
LIMIT = 900  # seconds for a command


@dataclass(frozen=True)
class Workshop:
    """Where everything happens.

    ``code`` is a copy, so that a checkout may be edited meanwhile. Commands run in ``run`` and name files relative to
    it: two workshops look alike from inside.
    """

    folder: Path
    absent: frozenset[str] = field(default_factory=frozenset)  # data files that are not on this machine

    @classmethod
    def new(cls, folder: Path, checkout: Path, sources: Sequence[Path]) -> Workshop:
        folder.mkdir(parents=True)
        folder = folder.resolve()
        for name in ("run", "logs", "tmp"):
            (folder / name).mkdir()
        shutil.copytree(
            checkout / "mekrr_scale", folder / "code" / "mekrr_scale", ignore=shutil.ignore_patterns("__pycache__")
        )
        told = folder / "code" / f"mekrr_scale-{VERSION}.dist-info"  # what importlib.metadata finds first
        told.mkdir()
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mekrr-scale\nVersion: {VERSION}\n", "utf-8")
        absent = {name for name in DATA if not _write_data(name, folder / "run" / name, sources)}
        return cls(folder, frozenset(absent))

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def environment(self) -> dict[str, str]:
        """One thread everywhere: the number of threads changes the last bits of sums."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        plain = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", "TMPDIR": str(self.folder / "tmp")}
        return {**os.environ, **threads, **plain, "PYTHONPATH": str(self.folder / "code")}

    def execute(self, case: Case) -> str | list[str]:
        """Run the commands of a case; the last line that each printed, or what went wrong."""
        for name, text in case.files.items():
            (self.run / name).write_text(text, encoding="utf-8")
        said = []
        for command in case.commands:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.ranks}"]
            line = [sys.executable, *(launcher if case.ranks > 1 else []), "-m", "mekrr_scale", *shlex.split(command)]
            done = subprocess.run(
                line, cwd=self.run, env=self.environment(), capture_output=True, text=True, timeout=LIMIT, check=False
            )
            with (self.folder / "logs" / f"{case.name.replace('/', '-')}.txt").open("a", encoding="utf-8") as log:
                log.write(f"$ {command}\n{done.stdout}\n{done.stderr}\nexit code {done.returncode}\n\n")
            if done.returncode:
                return f"`{command}` ended with {done.returncode}: {done.stderr.strip()[-500:]}"
            said.append((done.stdout.strip().splitlines() or [""])[-1].rstrip())
        return said


def chosen(cases: Sequence[Case], pattern: str | None) -> list[Case]:
    """The cases whose names match, and all that they need, in order."""
    if pattern is None:
        return list(cases)
    needs = needed(cases)
    waiting = [case.name for case in cases if re.search(pattern, case.name)]
    if not waiting:
        sys.exit(f"no case matches {pattern!r}")
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += needs[name]
    return [case for case in cases if case.name in found]


def needed(cases: Sequence[Case]) -> dict[str, set[str]]:
    """For every case those whose results it names in its commands or files."""
    maker = {result: case.name for case in cases for result in case.results}
    return {case.name: {maker[word] for word in case.words if word in maker} - {case.name} for case in cases}


def run_all(workshop: Workshop, cases: Sequence[Case], jobs: int) -> dict[str, Any]:
    """Results of all cases, each run when those that it needs are done."""
    needs, reader = needed(cases), Reader(workshop.folder)
    found: dict[str, Any] = {}
    running: dict[Future[dict[str, Any]], Case] = {}
    waiting = list(cases)
    start = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            ready = [case for case in waiting if needs[case.name] <= found.keys()]
            for case in ready[: jobs - len(running)]:
                waiting.remove(case)
                running[pool.submit(_run, workshop, reader, case, needs[case.name], found)] = case
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                case = running.pop(done)
                found[case.name] = done.result()
                state = next((key for key in ("failed", "skipped") if key in found[case.name]), "done")
                print(
                    f"{time.monotonic() - start:6.0f} s  {len(found)}/{len(cases)}  {case.name}: {state}",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
    return found


def _run(workshop: Workshop, reader: Reader, case: Case, needs: set[str], found: Mapping[str, Any]) -> dict[str, Any]:
    absent = sorted(workshop.absent & case.words)
    for name in sorted(needs):
        if "skipped" in found[name]:
            return {"skipped": found[name]["skipped"]}
        if "failed" in found[name]:
            return {"failed": f"{name} failed"}
    if absent:
        return {"skipped": f"no data for {', '.join(absent)} on this machine"}
    said = workshop.execute(case)
    if isinstance(said, str):
        return {"failed": reader.plain(said)}
    try:
        results = {name: reader.read(workshop.run / name) for name in case.results}
    except (OSError, ValueError, KeyError) as error:
        return {"failed": reader.plain(f"cannot be read: {error!r}")}
    return {**results, "says": [reader.plain(line) for line in said] if case.says else []}


def _write_data(name: str, target: Path, sources: Sequence[Path]) -> bool:
    """Some frames of a file, as they stand there; whether the file is here at all.

    ``stressed`` frames get a made-up stress, since none of the data has one.
    """
    part = DATA[name]
    paths = [folder / part.path for folder in sources if (folder / part.path).exists()]
    if not paths:
        return False
    with lzma.open(paths[0], "rt", encoding="utf-8") as stream:
        lines = stream.read().splitlines(keepends=True)
    frames, start = [], 0
    while start < len(lines):
        stop = start + int(lines[start]) + 2
        frames.append(lines[start:stop])
        start = stop
    chosen_frames = frames[part.frames]
    if part.stressed:
        for i, frame in enumerate(chosen_frames):
            xx, yy, zz, yz, xz, xy = (round(float(v), 6) for v in np.random.default_rng(i).normal(size=6) * 0.01)
            stress = f'stress="{xx} {xy} {xz} {xy} {yy} {yz} {xz} {yz} {zz}"'
            frame[1] = f"{stress} {frame[1]}"
    target.write_text("".join(line for frame in chosen_frames for line in frame), encoding="utf-8")
    return True

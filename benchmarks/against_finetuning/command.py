"""``python -m benchmarks against_finetuning``: points that are not there yet are run, then everything is shown."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import kept
from benchmarks.against_finetuning import figure, tables
from benchmarks.against_finetuning.points import (
    METHODS,
    NETWORK,
    RATES,
    STEPS,
    Kernel,
    Method,
    OnTuned,
    Point,
    Tuned,
    first_tuned,
    frankens,
    further_tuned,
    kernels,
    last_tuned,
)
from benchmarks.data import ROOT
from benchmarks.records import RESULTS, Record, Records
from benchmarks.sets import SETS
from mekrr_scale.structures import read_structures

_SETS = ("3bpa", "hcoo", "mo")
_FRAMES = (10, 25, 50, 100)


@dataclass(frozen=True)
class Comparison:
    """Runs points, or finds them among what was run.

    Args:
        steps, rates: of the fine-tuning.
        runner: what runs a point that is not known: a process of its own.
    """

    results: Path
    network: str
    steps: tuple[int, ...]
    rates: tuple[float, ...]
    runner: Callable[[Point], Record]

    def of(self, set_: str, frames: int, methods: Sequence[str]) -> list[str]:
        """All points of a set and a number of frames, the cheap methods first; returns what failed, which stops no other."""
        atoms = max(map(len, read_structures(SETS[set_].frames(frames))))
        works: dict[str, Callable[[], object]] = {
            "kernel": lambda: self.all(set_, frames, kernels(set_, frames, atoms)),
            "franken": lambda: self.all(set_, frames, frankens()),
            "finetune": lambda: self.tuning(set_, frames),
            "on tuned": lambda: self.on_tuned(set_, frames),
        }
        failed = []
        for name, work in works.items():
            try:
                if name in methods:
                    work()
            except RuntimeError as error:
                failed.append(str(error))
                print(f"failed: {error}", file=sys.stderr, flush=True)
        return failed

    def on_tuned(self, set_: str, frames: int) -> list[Record]:
        """The kernel that cross-validation takes, on the network that validation takes; nothing before there is one."""
        known = self.known(set_, frames)
        tuned = [record for record in known if record["kind"] == "finetune"]
        if not tuned:
            return []
        best = Tuned(**min(tuned, key=_chosen_by)["options"])
        here = [record for record in known if record["kind"] == "kernel"]
        kernel = Kernel(**min(here, key=_chosen_by)["options"]) if here else Kernel()
        return self.all(set_, frames, [OnTuned(best, kernel)])

    def tuning(self, set_: str, frames: int) -> list[Record]:
        """Rates first, then steps and frozen levels by the better rate, then the best frozen level for longest."""
        found = self.all(set_, frames, first_tuned(self.steps, self.rates))
        better = Tuned(**min(found, key=_chosen_by)["options"])
        found += self.all(set_, frames, further_tuned(self.steps, better))
        frozen = [record for record in found if record["options"]["frozen"]]
        best = Tuned(**min(frozen, key=_chosen_by)["options"])
        return found + self.all(set_, frames, last_tuned(self.steps, best))

    def all(self, set_: str, frames: int, methods: Sequence[Method]) -> list[Record]:
        return [self.point(Point(set_, frames, method, self.network)) for method in methods]

    def point(self, point: Point) -> Record:
        """Its record; a point that failed before is tried again."""
        records = Records(self.results)
        if (known := records.all().get(point.key)) is not None:
            return known
        found = self.runner(point)
        cpu = sum(found["cpu"].values())
        record = {
            "key": point.key, **point.to_dict(), "label": point.method.label, **found, "cpu_seconds": cpu,
            "made_by": kept.made_by(),
        }  # fmt: skip
        told = ", ".join(f"{name} {value:.3g}" for name, value in found["errors"].items())
        print(
            f"{point.set} {point.frames} | {point.kind} | {point.method.label} | {told} | {cpu:.0f} CPU s", flush=True
        )
        return records.add(record)

    def known(self, set_: str, frames: int) -> list[Record]:
        found = Records(self.results).all().values()
        asked = {"set": set_, "frames": frames, "network": self.network}
        return [record for record in found if all(record[name] == value for name, value in asked.items())]


def _chosen_by(record: Record) -> float:
    return float(record["chosen_by"])


def in_process(point: Point) -> Record:
    """A point in a process of its own, of one thread, whose CPU time nothing else shares.

    Raises:
        RuntimeError: it ended otherwise than well.
    """
    python = os.environ.get("FRANKEN_PYTHON", sys.executable) if point.kind == "franken" else sys.executable
    command = [python, "-m", "benchmarks.against_finetuning.running", json.dumps(point.to_dict())]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, **threads}
    )
    if done.returncode:
        raise RuntimeError(f"{point.set} {point.frames}, {point.method.label}: ended with code {done.returncode}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks against_finetuning", description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(_SETS))
    parser.add_argument("--frames", nargs="+", type=int, default=list(_FRAMES), help="training sizes")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--network", default=NETWORK, help="weights of sevennet, for all methods")
    parser.add_argument("--steps", nargs="+", type=int, default=list(STEPS), help="of fine-tuning, ascending")
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES), help="learning rates that are tried")
    parser.add_argument("--point", help="run this one alone, e.g. '{\"steps\": 40}', of the one method that is given")
    parser.add_argument("--cache", help=f"folder of frames, stores and networks; default: {kept.folder()}")
    parser.add_argument("--results", type=Path, default=RESULTS / "against_finetuning.jsonl")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "figures" / "against_finetuning.png")
    parser.add_argument("--report", action="store_true", help="run nothing; show what there is")
    return parser


def main(arguments: Sequence[str] = ()) -> None:
    parser = options()
    asked = parser.parse_args(arguments)
    if asked.cache is not None:
        os.environ["BENCHMARK_CACHE"] = os.path.abspath(asked.cache)
    if asked.point and len(asked.methods) != 1:
        parser.error("--point belongs to one method; give --methods with that one")
    steps = tuple(sorted(asked.steps))
    comparison = Comparison(asked.results, asked.network, steps, tuple(asked.rates), in_process)
    failed = [] if asked.report else _run(comparison, asked)
    listed = [record for name in asked.sets for frames in asked.frames for record in comparison.known(name, frames)]
    tables.show(listed)
    if listed:
        figure.draw(listed, asked.figure)
        print(f"figure: {asked.figure}")
    if failed:
        raise SystemExit(f"{len(failed)} failed, which the same command tries again: {'; '.join(failed)}")


def _run(comparison: Comparison, asked: argparse.Namespace) -> list[str]:
    """Every set and number of frames; with ``--point`` that point alone. Returns what failed."""
    methods = list(asked.methods)
    if "franken" in methods and not _has_franken():
        print("franken is left out: name a Python with franken==0.7.0 in FRANKEN_PYTHON", file=sys.stderr)
        methods.remove("franken")
    failed: list[str] = []
    for frames in sorted(asked.frames):
        for name in asked.sets:
            if asked.point:
                document = {
                    "set": name, "frames": frames, "kind": methods[0], "network": asked.network,
                    "options": json.loads(asked.point),
                }  # fmt: skip
                comparison.point(Point.of(document))
            else:
                failed += comparison.of(name, frames, methods)
    return failed


def _has_franken() -> bool:
    return "FRANKEN_PYTHON" in os.environ or importlib.util.find_spec("franken") is not None

"""Data, runs that are kept, and tables of ratios, for the paper experiments."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from mekrr_scale.backbones import Backbone
from mekrr_scale.structures import Predictor, read_structures
from mekrr_scale.transfer import Example, TrainReport, errors_on, read_examples

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared" / "data"
FIGURES = ROOT / "docs" / "figures"


@dataclass(frozen=True)
class Experiment:
    """Where an experiment keeps its runs, and how long they are.

    Args:
        quick: a few structures and steps, with the data in examples: that it runs, not what it shows.
        recorded: take the runs of earlier days from ``records``; what is missing there is run.
    """

    name: str
    quick: bool
    seeds: int
    figures: Path
    recorded: bool = False
    rows: list[str] = field(default_factory=list)
    begin: float = field(default_factory=time.perf_counter)

    @classmethod
    def parse(cls, name: str) -> Experiment:
        parser = argparse.ArgumentParser(f"python -m benchmarks.papers.{name}")
        parser.add_argument("--quick", action="store_true", help="small, on the data in the repository")
        parser.add_argument("--seeds", type=int, default=3, help="subsets and initial weights")
        parser.add_argument("--figures", type=Path, default=None, help="folder for figures")
        parser.add_argument("--recorded", action="store_true", help="take the runs that the repository keeps")
        found = parser.parse_args()
        folder = found.figures or (ROOT / "build" / "papers" / "quick" if found.quick else FIGURES)
        folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(_cores())
        it = cls(name, found.quick, 1 if found.quick else found.seeds, folder, found.recorded)
        it._restore()
        return it

    @property
    def folder(self) -> Path:
        """For models and finished runs."""
        found = ROOT / "build" / "papers" / (f"{self.name}-quick" if self.quick else self.name)
        found.mkdir(parents=True, exist_ok=True)
        return found

    @property
    def work(self) -> Path:
        """For stores that are deleted again: of this process alone."""
        return self.folder / f"work-{os.getpid()}"

    def structures(self, shared: str, small: str) -> list[Example]:
        """Those of the development data, or the few that the repository holds."""
        path = SHARED / shared
        if self.quick:
            path = ROOT / "examples" / small
        return read_examples(read_structures(path))

    def run(self, key: str, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """A run's figures; what an earlier call has finished is read."""
        path = self._path(key)
        if path.exists() and not self.quick:
            return self.kept(key)
        begin = time.perf_counter()
        found = {**work(), "seconds": time.perf_counter() - begin}
        path.write_text(json.dumps(found), encoding="utf-8")
        told = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        print(f"  {key}: {told}", flush=True)
        return found

    def run_all(self, jobs: Sequence[tuple[str, Callable[[], dict[str, float]]]]) -> list[dict[str, float]]:
        """Runs that need nothing of each other, at the same time: a process a core, with one thread each."""
        keys, works = [key for key, _ in jobs], [work for _, work in jobs]
        if self.quick or _cores() == 1:
            return list(map(self.run, keys, works))
        with ProcessPoolExecutor(_cores(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            return list(pool.map(self.run, keys, works))

    def rates(self, key: str, rates: Sequence[float], first: bool) -> Sequence[float]:
        """Learning rates to try: all in the first run, then the one that this (``key-0``) has chosen."""
        if self.quick:
            return rates[:1]
        return rates if first else (self.kept(f"{key}-0")["rate"],)

    def kept(self, key: str) -> dict[str, float]:
        """What a finished run has found."""
        return dict(json.loads(self._path(key).read_text(encoding="utf-8")))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key.replace('/', '-').replace(' ', '_')}.json"

    @property
    def records(self) -> Path:
        """All finished runs in one file, for the repository."""
        return Path(__file__).parent / "records" / f"{self.name}.json"

    def _restore(self) -> None:
        if self.recorded and not self.quick and self.records.exists():
            for name, run in json.loads(self.records.read_text(encoding="utf-8")).items():
                path = self.folder / f"{name}.json"
                if not path.exists():
                    path.write_text(json.dumps(run), encoding="utf-8")

    def record(self) -> None:
        """Write what is finished to ``records``."""
        runs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(self.folder.glob("*.json"))}
        self.records.parent.mkdir(exist_ok=True)
        self.records.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")

    def say(self, text: str = "") -> None:
        print(text, flush=True)
        self.rows.append(text)

    def finish(self) -> None:
        """The tables once more in one file, the runs, and the time that all took."""
        runs = sum(json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in self.folder.glob("*.json"))
        self.say(f"\n{time.perf_counter() - self.begin:.0f} s in this call, {runs:.0f} s in all runs")
        if not self.quick:
            self.record()
        (self.folder / "tables.md").write_text("\n".join(self.rows) + "\n", encoding="utf-8")


def _cores() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", "2"))


def errors(predictor: Predictor, test: Sequence[Example]) -> dict[str, float]:
    """Errors in meV/atom and meV/angstrom, by name."""
    return asdict(errors_on(predictor, test))


def ratio(upper: Sequence[dict[str, float]], lower: Sequence[dict[str, float]], key: str = "force_rmse") -> str:
    """Mean ratio over the seeds, with lowest and highest."""
    return _told([a[key] / b[key] for a, b in zip(upper, lower, strict=True)], 2)


def spread(runs: Sequence[dict[str, float]], key: str = "force_rmse") -> str:
    """Mean over the seeds, with lowest and highest."""
    return _told([run[key] for run in runs], 1)


def _told(values: Sequence[float], digits: int) -> str:
    mean, lowest, highest = (f"{value:.{digits}f}" for value in (np.mean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({lowest} to {highest})"


def tuned(rates: Sequence[float], train: Callable[[float], TrainReport]) -> tuple[Backbone, float]:
    """The backbone of the learning rate that the validation set likes best, and that rate."""
    reports = [(train(rate), rate) for rate in rates]
    report, rate = min(reports, key=lambda pair: pair[0].best.validation)
    return report.backbone, rate


def subset(examples: Sequence[Example], size: int, seed: int) -> list[Example]:
    """A random subset; smaller ones of a seed are parts of larger ones."""
    order = np.random.default_rng(seed).permutation(len(examples))[:size]
    return [examples[i] for i in order]


def parted(examples: Sequence[Example], fractions: Sequence[float], seed: int = 1) -> list[list[Example]]:
    """Random parts of the given fractions, and the rest at the end."""
    order = np.random.default_rng(seed).permutation(len(examples)).tolist()
    parts, start = [], 0
    for fraction in fractions:
        count = round(fraction * len(examples))
        parts.append([examples[i] for i in order[start : start + count]])
        start += count
    return [*parts, [examples[i] for i in order[start:]]]

"""Data, runs that are kept, and tables of ratios, for the paper experiments."""

from __future__ import annotations

import argparse
import atexit
import fcntl
import json
import os
import pickle
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks import kept
from benchmarks.data import EXAMPLES, ROOT, apart, shared, structures
from mekrr_scale.backbones import Backbone, BackboneSpec, load_backbone
from mekrr_scale.pipeline import ExtractPlan, extract
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import Predictor, geometry_hash, read_structures
from mekrr_scale.transfer import Example, TrainReport, errors_on, read_examples

PAPERS = Path(__file__).parent
FIGURES = ROOT / "docs" / "figures"


@dataclass(frozen=True)
class Experiment:
    """Where an experiment keeps its runs, and how long they are.

    Args:
        quick: a few structures and steps, with the data in examples: that it runs, not what it shows.
        folder: for models, stores and finished runs. Its name is a key of the package, of the scripts (which are the
            plan) and of the data; ``quick`` has a new one each time.
        recorded: take the runs of earlier days from ``records``; what is missing there is run, and joins them.
        sets: sets of data, of a script that has several.
        ways: methods that are compared, of a script that lets them be chosen.
        report: run nothing, and show what is finished; of such a script.
    """

    name: str
    quick: bool
    seeds: int
    figures: Path
    folder: Path
    recorded: bool = False
    sets: Sequence[str] = ()
    ways: Sequence[str] = ()
    report: bool = False
    rows: list[str] = field(default_factory=list)
    begin: float = field(default_factory=time.perf_counter)

    @classmethod
    def parse(cls, name: str, sets: Sequence[str] = (), ways: Sequence[str] = ()) -> Experiment:
        parser = argparse.ArgumentParser(f"python -m benchmarks.papers.{name}")
        parser.add_argument("--quick", action="store_true", help="small, on the data in the repository")
        parser.add_argument("--seeds", type=int, default=3, help="subsets and initial weights")
        parser.add_argument("--figures", type=Path, default=None, help="folder for figures")
        parser.add_argument("--recorded", action="store_true", help="take the runs that the repository keeps")
        parser.add_argument("--data", help="folder of the development data; default: BENCHMARK_DATA, or ../shared/data")
        if sets:
            parser.add_argument("--sets", nargs="+", default=sets, choices=sets, help="sets of data; default: all")
        if ways:
            parser.add_argument("--ways", nargs="+", default=ways, choices=ways, help="what is compared; default: all")
            parser.add_argument("--report", action="store_true", help="show what is finished, and run nothing")
        found = parser.parse_args()
        if found.data:
            os.environ["BENCHMARK_DATA"] = os.path.abspath(found.data)  # for processes of its own too
        figures = found.figures or (ROOT / "build" / "papers" / "quick" if found.quick else FIGURES)
        folder = _fresh(name) if found.quick else ROOT / "build" / "papers" / f"{name}-{_key()}"
        for each in (figures, folder):
            each.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(_cores())
        return cls(
            name,
            found.quick,
            1 if found.quick else found.seeds,
            figures,
            folder,
            found.recorded,
            sets=tuple(getattr(found, "sets", ())),  # which not all scripts have
            ways=tuple(getattr(found, "ways", ())),
            report=getattr(found, "report", False),
        )

    @property
    def work(self) -> Path:
        """For stores that are deleted again: of this process alone."""
        return self.folder / f"work-{os.getpid()}"

    def structures(self, whole: str, small: str) -> list[Example]:
        """Those of the development data; with ``quick``, and never else, the few that the repository holds."""
        return read_examples(read_structures(EXAMPLES / small if self.quick else structures(whole)))

    def remember(self, name: str, examples: Sequence[Example]) -> None:
        """The structures of a store, for when it is asked for: where all runs are recorded nobody does."""
        path = self._stores / f"{name}.structures"
        if not path.exists():
            self._stores.mkdir(exist_ok=True)
            path.write_bytes(pickle.dumps(list(examples)))

    def store(
        self,
        name: str,
        examples: Sequence[Example] = (),
        backbone: BackboneSpec | Backbone | None = None,
        plan: ExtractPlan | None = None,
    ) -> FeatureStore:
        """Features, extracted once, of what is remembered unless structures are given.

        Of energies alone unless the plan says else, CHGNet's unless a backbone is given.
        """
        folder = self._stores / name
        self._stores.mkdir(exist_ok=True)
        with (self._stores / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be about it
            if not (folder / "manifest.json").exists():
                examples = examples or pickle.loads((self._stores / f"{name}.structures").read_bytes())
                network = backbone if isinstance(backbone, Backbone) else load_backbone(backbone or "chgnet")
                extract([example.frame() for example in examples], folder, plan or ExtractPlan(), network)
        return FeatureStore(folder)

    @property
    def _stores(self) -> Path:
        return self.folder / "stores"

    def run(self, key: str, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """A run's figures; what an earlier call has finished is read."""
        if self.has(key):
            return self.kept(key)
        begin = time.perf_counter()
        found = {**work(), "seconds": time.perf_counter() - begin}
        self._path(key).write_text(json.dumps(found), encoding="utf-8")
        told = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        print(f"  {key}: {told}", flush=True)
        return found

    def run_all(
        self, jobs: Sequence[tuple[str, Callable[[], dict[str, float]]]], fresh: bool = False
    ) -> list[dict[str, float]]:
        """Runs that need nothing of each other, at the same time: a process a core, with one thread each.

        What is finished is recorded, also where the rest is interrupted.

        Args:
            fresh: a new process for each, whose memory is its own.
        """
        keys, works = [key for key, _ in jobs], [work for _, work in jobs]
        try:
            if self.quick or _cores() == 1:
                return list(map(self.run, keys, works))
            context, tasks = get_context("spawn"), 1 if fresh else None
            with ProcessPoolExecutor(_cores(), context, torch.set_num_threads, (1,), max_tasks_per_child=tasks) as pool:
                return list(pool.map(self.run, keys, works))
        finally:
            self.record()

    def rates(self, key: str, rates: Sequence[float], first: bool) -> Sequence[float]:
        """Learning rates to try: all in the first run, then the one that this (``key-0``) has chosen."""
        if self.quick:
            return rates[:1]
        return rates if first else (self.kept(f"{key}-0")["rate"],)

    def has(self, key: str) -> bool:
        """Whether a run is finished."""
        path = self._path(key)
        return path.exists() or path.stem in self._records()

    def kept(self, key: str) -> dict[str, float]:
        """What a finished run has found."""
        path = self._path(key)
        return dict(json.loads(path.read_text(encoding="utf-8")) if path.exists() else self._records()[path.stem])

    def _path(self, key: str) -> Path:
        return self.folder / f"{key.replace('/', '-').replace(' ', '_')}.json"

    @property
    def records(self) -> Path:
        """All finished runs in one file, for the repository."""
        return PAPERS / "records" / f"{self.name}.json"

    def _records(self) -> dict[str, dict[str, float]]:
        """What was recorded, where it is asked for; it is never taken for what was run here."""
        if not self.recorded or self.quick or not self.records.exists():
            return {}
        found = json.loads(self.records.read_text(encoding="utf-8"))
        return dict(found.get("runs", found))  # 0.1.0 wrote the runs alone

    def record(self) -> None:
        """Write what is finished to ``records``, with what it was made by; where records are taken, beside these."""
        runs = {
            path.stem: _rounded(json.loads(path.read_text(encoding="utf-8")))
            for path in sorted(self.folder.glob("*.json"))
        }
        if self.quick or not runs:
            return
        self.records.parent.mkdir(exist_ok=True)
        told = {"made_by": kept.made_by(), "folder": self.folder.name, "runs": {**self._records(), **runs}}
        before = json.loads(self.records.read_text(encoding="utf-8")) if self._records() else {}
        makers = {*before.get("others_made_by", []), before.get("made_by", "0.1.0")} - {told["made_by"]}
        if before and makers:
            told["others_made_by"] = sorted(makers)
        self.records.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    def say(self, text: str = "") -> None:
        print(text, flush=True)
        self.rows.append(text)

    def header(self, *columns: str) -> None:
        """The first two lines of a table."""
        self.say("\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))

    def finish(self) -> None:
        """The tables once more in one file, the runs, and the time that all took."""
        runs = sum(json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in self.folder.glob("*.json"))
        self.say(f"\n{time.perf_counter() - self.begin:.0f} s in this call, {runs:.0f} s in all runs")
        self.record()
        (self.folder / "tables.md").write_text("\n".join(self.rows) + "\n", encoding="utf-8")


def _rounded(run: dict[str, float]) -> dict[str, float]:
    """To six digits."""
    return {key: float(f"{value:.6g}") for key, value in run.items()}


def _fresh(name: str) -> Path:
    """A folder that nothing is left in, for this process alone."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-quick-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _key() -> str:
    """Of the package, of the scripts of the experiment (those that are loaded), and of all data."""
    files = {Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    scripts = sorted(path for path in files if path.parent == PAPERS)
    data = sorted(shared().rglob("*.xyz.xz"))
    return kept.key([(path.name, kept.hashed(path)) for path in [*scripts, *data]])


def _cores() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", "2"))


def errors(predictor: Predictor, test: Sequence[Example]) -> dict[str, float]:
    """Errors in meV/atom and meV/angstrom, by name."""
    return asdict(errors_on(predictor, test))


def energies_alone(examples: Sequence[Example]) -> list[Example]:
    """Without forces and stress."""
    return [replace(example, labels=replace(example.labels, forces=None, stress=None)) for example in examples]


def ratio(upper: Sequence[dict[str, float]], lower: Sequence[dict[str, float]], key: str = "force_rmse") -> str:
    """Mean ratio over the seeds, with lowest and highest."""
    return _told([a[key] / b[key] for a, b in zip(upper, lower, strict=True)], 2)


def spread(runs: Sequence[dict[str, float]], key: str = "force_rmse", digits: int = 1) -> str:
    """Mean over the seeds, with lowest and highest."""
    return _told([run[key] for run in runs], digits)


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
    """Random parts of the given fractions, and the rest at the end.

    A later part loses the copies of structures that an earlier one has.
    """
    order = np.random.default_rng(seed).permutation(len(examples)).tolist()
    parts, start = [], 0
    for fraction in fractions:
        count = round(fraction * len(examples))
        parts.append([examples[i] for i in order[start : start + count]])
        start += count
    parts.append([examples[i] for i in order[start:]])
    for place in range(1, len(parts)):
        parts[place] = without(parts[place], [example for part in parts[:place] for example in part])
    disjoint(**{f"part {place}": part for place, part in enumerate(parts)})
    return parts


def dealt(examples: Sequence[Example], parts: int, together: int, most: int | None = None) -> list[list[Example]]:
    """Equal parts at random, of so many consecutive structures that stand together; copies of a geometry are left out.

    Args:
        most: structures in all parts.
    """
    known: set[int] = set()
    once = []
    for example in examples:
        geometry = geometry_hash(example.atoms)
        if geometry not in known:
            once.append(example)
            known.add(geometry)
    blocks = [once[i : i + together] for i in range(0, len(once), together)]
    order = np.random.default_rng(0).permutation(len(blocks))[: most and -(-most // together)]
    return [[example for i in order[k::parts] for example in blocks[i]] for k in range(parts)]


def without(examples: Sequence[Example], others: Sequence[Example]) -> list[Example]:
    """Those whose geometry none of the others has."""
    known = {geometry_hash(example.atoms) for example in others}
    return [example for example in examples if geometry_hash(example.atoms) not in known]


def disjoint(**sets: Sequence[Example]) -> None:
    """See ``apart``."""
    apart(**{name: [example.atoms for example in part] for name, part in sets.items()})
